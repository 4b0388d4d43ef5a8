// The kernels of covariance_pool for one instruction set.
//
// Forward, half of the products of Xc Xc^T / N; backward, (G + G^T) Xc / N, whose rows sum to zero
// because those of Xc do.
#include "cpu/engine/isa.h"
//
#include "cpu/engine/engine.h"
#include "cpu/ops/covariance_pool_job.h"

namespace ccdn {
namespace CCDN_ISA {
namespace {

template <class T>
struct Memory {
  T *mean, *rest, *room, *matrix;
  double* sums;

  Memory(Arena& arena, const CovarianceShape& s, bool backward) {
    mean = arena.take<T>(s.channels);
    rest = arena.take<T>(s.channels);
    sums = arena.take<double>(round_up(s.channels, kPanel<T>));
    room = arena.take<T>(backward ? packed_size<T>(strip_of(s.positions), s.channels)
                                  : strip_size<T>(s.channels, s.positions));
    matrix = arena.take<T>(matrix_size<T>(s.channels));
  }
};

template <class T>
int64_t bytes(const CovarianceShape& shape, bool backward) {
  Arena arena(nullptr);
  Memory<T>(arena, shape, backward);
  return arena.used();
}

template <class T>
CCDN_TARGET Status forward(const CovarianceJob& job, int64_t sample, char* memory, int threads,
                           const Codec<T>& codec) {
  const CovarianceShape& s = *job.shape;
  Arena arena(memory);
  const Memory<T> m(arena, s, false);
  Team team(threads);
  const auto x = features_of<T>(s, codec, job.x, sample, m.mean, m.rest);
  const double mean_squares = find_means(team, x, m.mean, m.rest, m.sums);
  gram_panels(team, x, true, m.room, m.matrix);
  const double trace = trace_of(m.matrix, s.channels);
  const bool constant = is_constant(sizeof(T) == 4, trace, mean_squares);
  static_cast<T*>(job.trace)[sample] = constant ? T(0) : T(trace);
  if (constant) fill_matrix(m.matrix, s.channels, T(0));
  void* out = codec.at(job.covariance, sample * s.channels * s.channels);
  write_rows(team, codec, m.matrix, T(1), s.channels, Rows::full, out);
  return team.status();
}

template <class T>
CCDN_TARGET Status backward(const CovarianceJob& job, int64_t sample, char* memory, int threads,
                            const Codec<T>& codec) {
  const CovarianceShape& s = *job.shape;
  Arena arena(memory);
  const Memory<T> m(arena, s, true);
  Team team(threads);
  const auto x = features_of<T>(s, codec, job.x, sample, m.mean, m.rest);
  void* grad_x = codec.at(job.grad_x, sample * s.stride_b);
  if (static_cast<const T*>(job.trace)[sample] == 0) {
    fill_features(team, x, nullptr, grad_x);
    return team.status();
  }
  find_means(team, x, m.mean, m.rest, m.sums);
  const void* grad = codec.at(job.grad, sample * s.channels * s.channels);
  symmetrize(team, codec, grad, Rows::full, s.channels, m.matrix);
  scale_and_shift(m.matrix, s.channels, T(2.0 / double(s.positions)), T(0));
  multiply_features(team, x, m.matrix, m.room, grad_x);
  return team.status();
}

}  // namespace

const CovarianceKernels& covariance_kernels() {
  static const CovarianceKernels kernels{
      CCDN_SAMPLE_TASKS(CovarianceJob, forward),
      CCDN_SAMPLE_TASKS(CovarianceJob, backward),
      {bytes<float>, bytes<double>},
  };
  return kernels;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
