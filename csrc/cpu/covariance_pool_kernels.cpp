// The kernels of covariance_pool for one instruction set.
//
// Forward, half of the products of Xc Xc^T / N; backward, (G + G^T) Xc / N, whose rows sum to zero
// because those of Xc do.
#include "cpu/isa.h"
//
#include "cpu/covariance_pool_job.h"
#include "cpu/feature_panels.h"

namespace ccdn {
namespace CCDN_ISA {
namespace {

template <class T>
struct Memory {
  T *mean, *rest, *room, *matrix;
  double* sums;

  Memory(Arena& arena, const CovarianceShape& s, bool) {
    mean = arena.take<T>(s.channels);
    rest = arena.take<T>(s.channels);
    sums = arena.take<double>(s.channels);
    room = arena.take<T>(strip_size<T>(s));
    matrix = arena.take<T>(matrix_size<T>(s.channels));
  }
};

template <class T>
int64_t bytes(const CovarianceShape& shape, bool backward) {
  Arena arena(nullptr);
  Memory<T>(arena, shape, backward);
  return arena.used();
}

template <class S, class T>
CCDN_TARGET Status forward(const void* context, int64_t sample, char* memory, int threads) {
  const CovarianceJob& job = *static_cast<const CovarianceJob*>(context);
  const CovarianceShape& s = *job.shape;
  Arena arena(memory);
  const Memory<T> m(arena, s, false);
  Team team(threads);
  const auto x = feature_rows<S, T>(s, job.x, sample, m.mean, m.rest);
  const double mean_squares = find_means(team, x, m.sums);
  covariance_panels(team, x, m.room, m.matrix);
  const double trace = trace_of(m.matrix, s.channels);
  const bool constant = is_constant<T>(trace, mean_squares);
  static_cast<T*>(job.trace)[sample] = constant ? T(0) : T(trace);
  if (constant) fill_matrix(m.matrix, s.channels, T(0));
  S* out = static_cast<S*>(job.covariance) + sample * s.channels * s.channels;
  write_rows(team, m.matrix, T(1), s.channels, Rows::full, out);
  return team.status();
}

template <class S, class T>
CCDN_TARGET Status backward(const void* context, int64_t sample, char* memory, int threads) {
  const CovarianceJob& job = *static_cast<const CovarianceJob*>(context);
  const CovarianceShape& s = *job.shape;
  Arena arena(memory);
  const Memory<T> m(arena, s, true);
  Team team(threads);
  const auto x = feature_rows<S, T>(s, job.x, sample, m.mean, m.rest);
  S* grad_x = static_cast<S*>(job.grad_x) + sample * s.stride_b;
  if (static_cast<const T*>(job.trace)[sample] == 0) {
    zero_features(team, x, grad_x);
    return team.status();
  }
  find_means(team, x, m.sums);
  const S* grad = static_cast<const S*>(job.grad) + sample * s.channels * s.channels;
  symmetrize(team, grad, Rows::full, s.channels, m.matrix);
  scale_and_shift(m.matrix, s.channels, T(2.0 / double(s.positions)), T(0));
  multiply_features(team, x, m.matrix, m.room, grad_x);
  return team.status();
}

}  // namespace

const CovarianceKernels& covariance_kernels() {
  static const CovarianceKernels kernels{
      {forward<float, float>, forward<double, double>, forward<BFloat16, float>,
       forward<Half, float>},
      {backward<float, float>, backward<double, double>, backward<BFloat16, float>,
       backward<Half, float>},
      {bytes<float>, bytes<double>},
  };
  return kernels;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
