// The kernels of isqrt_cov for one instruction set.
//
// By channels, the covariance S = Xc Xc^T / N is iterated: root = sqrt(tr) Y_K(S / tr). By
// positions, M = Xc^T Xc / (N tr) is, which has the same eigenvalues but for zeros, and
//
//   root = c Xc Q Xc^T,  Q = q_K(M),  c = 1 / (N sqrt(tr)).
//
// With G the upstream gradient made symmetric, H = G Xc and dQ = c Xc^T H, the gradient is
//
//   dX = 2 c H Q + (2 / (N tr)) Xc dM - (2 / (N tr)) (<Q, dQ> / 2 + <M, dM>) Xc
//
// where dM is the derivative of q_K at M in the direction of dQ.
#include "cpu/engine/isa.h"
//
#include "cpu/engine/engine.h"
#include "cpu/ops/isqrt_cov_job.h"
#include "cpu/ops/newton_schulz.h"

namespace ccdn {
namespace CCDN_ISA {
namespace {

template <class T>
struct Memory {
  T *mean, *rest, *slots, *pool;
  double* sums;
  T* room;                      // by channels: a strip of features
  T *by_channel, *by_position;  // by positions: all features, in both kinds of panels,
  T *h_channel, *h_position;    // and H (forward, by_channel: Q Xc^T)
  T* grad;                      // by positions: G

  Memory(Arena& arena, const IsqrtCovShape& s, const NewtonSchulzSteps& steps, bool backward) {
    const CovarianceShape& f = s.features;
    const int64_t n = s.by_positions ? f.positions : f.channels, size = matrix_size<T>(n);
    mean = arena.take<T>(f.channels);
    rest = arena.take<T>(f.channels);
    sums = arena.take<double>(round_up(f.channels, kPanel<T>));
    slots = arena.take<T>(s.slots ? 0 : size * (backward ? steps.slots : live(steps)));
    pool = arena.take<T>(backward ? size * Pool<T>::kCount : 0);
    const int64_t strip = strip_size<T>(f.channels, f.positions);
    const int64_t other = packed_size<T>(strip_of(f.positions), f.channels);
    room = arena.take<T>(s.by_positions ? 0 : strip > other ? strip : other);
    const int64_t channel = s.by_positions ? packed_size<T>(f.channels, f.positions) : 0;
    const int64_t position = s.by_positions ? packed_size<T>(f.positions, f.channels) : 0;
    by_channel = arena.take<T>(channel);
    by_position = arena.take<T>(position);
    h_channel = arena.take<T>(channel);
    h_position = arena.take<T>(backward ? position : 0);
    grad = arena.take<T>(backward && s.by_positions ? matrix_size<T>(f.channels) : 0);
  }
};

template <class T>
int64_t bytes(const IsqrtCovShape& s, bool backward) {
  Arena arena(nullptr);
  Memory<T>(arena, s, NewtonSchulzSteps(s.iterations, s.by_positions), backward);
  return arena.used();
}

// out = by_channel panels of Q Xc^T, (positions, channels), Q = z 1 + R.
template <class T>
struct ExpandWork {
  Product<T> product;
  T z;
  T* out;
};

template <class T>
CCDN_TARGET void expand_block(const ExpandWork<T>& w, int64_t task, int) {
  constexpr int64_t width = kPanel<T>;
  constexpr int lanes = Simd<T>::lanes;
  const int64_t across = panels_of(w.product.columns, width);
  const int64_t i = task / across, j = task % across;
  T block[width * width];
  block_product(w.product, i, j, false, block);
  const int64_t left = w.product.rows - i * width, rows = left < width ? left : width;
  const int64_t stride = w.product.right[0].stride;
  const T* same = w.product.right[0].data + j * stride + i * width * width;
  T* out = w.out + j * stride + i * width * width;
  for (int64_t e = 0; e < rows * width; e += lanes) {
    store(out + e, load(block + e) + w.z * load(same + e));
  }
}

// root = c Xc (Q Xc^T), converted.
template <class T>
struct RootWork {
  const Codec<T>* codec;
  Product<T> product;
  T scale;
  Rows kind;
  void* rows;
};

template <class T>
CCDN_TARGET void root_block(const RootWork<T>& w, int64_t task, int) {
  constexpr int64_t width = kPanel<T>;
  int64_t i, j;
  upper_pair(task, i, j);
  T block[width * width];
  block_product(w.product, i, j, i == j, block);
  for (int64_t e = 0; e < width * width; ++e) block[e] *= w.scale;
  if (i == j) mirror_diagonal(block);
  put_rows(*w.codec, block, w.product.rows, i, j, w.kind, w.rows);
  if (i == j || w.kind == Rows::triangle) return;
  T turned[width * width];
  transpose_block(block, turned);
  put_rows(*w.codec, turned, w.product.rows, j, i, w.kind, w.rows);
}

// H = G Xc in both kinds of panels.
template <class T>
struct GradientFeatures {
  Product<T> product;  // channels by positions
  int64_t channel_stride, position_stride;
  T *by_channel, *by_position;
};

template <class T>
CCDN_TARGET void gradient_features_block(const GradientFeatures<T>& w, int64_t task, int) {
  constexpr int64_t width = kPanel<T>;
  constexpr int lanes = Simd<T>::lanes;
  const int64_t across = panels_of(w.product.columns, width);
  const int64_t i = task / across, j = task % across;
  T block[width * width], turned[width * width];
  block_product(w.product, i, j, false, block);
  const int64_t below = w.product.rows - i * width, right = w.product.columns - j * width;
  T* place = w.by_position + j * w.position_stride + i * width * width;
  for (int64_t e = 0; e < (below < width ? below : width) * width; e += lanes) {
    store(place + e, load(block + e));
  }
  transpose_block(block, turned);
  place = w.by_channel + i * w.channel_stride + j * width * width;
  for (int64_t e = 0; e < (right < width ? right : width) * width; e += lanes) {
    store(place + e, load(turned + e));
  }
}

// The matrix of the iteration, Xc^T Xc / N or Xc Xc^T / N, into slot 0; by positions, the features
// into their panels as well.
template <class T>
CCDN_TARGET void first_matrix(Team& team, const IsqrtCovShape& s, const Features<T>& x,
                              const Memory<T>& m, T* out) {
  if (!s.by_positions) return gram_panels(team, x, true, m.room, out);
  if constexpr (sizeof(T) == sizeof(float)) {
    if (pair_gram(team, x, false, m.by_position, out)) return;
  }
  const auto f = pack_all(team, x, false, m.by_position);
  const SymmetricWork<T> work{{x.positions, x.positions, x.channels, 1, {f, {}}, {f, {}}},
                              T(1.0 / double(x.positions)),
                              0,
                              0,
                              nullptr,
                              nullptr,
                              out};
  symmetric_product(team, work);
}

template <class T>
CCDN_TARGET Status forward(const IsqrtCovJob& job, int64_t sample, char* memory, int threads,
                           const Codec<T>& codec) {
  const IsqrtCovShape& s = *job.shape;
  const CovarianceShape& f = s.features;
  const NewtonSchulzSteps steps(s.iterations, s.by_positions);
  Arena arena(memory);
  const Memory<T> m(arena, s, steps, false);
  const int64_t n = s.by_positions ? f.positions : f.channels, size = matrix_size<T>(n);
  const Slots<T> slots = slots_of<T>(job.iterates, s.slots, sample, m.slots, size, live(steps));
  Team team(threads);
  const auto x = features_of<T>(f, codec, job.x, sample, m.mean, m.rest);
  const double mean_squares = find_means(team, x, m.mean, m.rest, m.sums);
  first_matrix(team, s, x, m, slots[0]);
  const double trace = trace_of(slots[0], n);
  const Saved saver{f.dtype != Dtype::f64};
  const bool none = is_constant(saver.floats, trace, mean_squares);
  const double saved = saver.put(job.trace, sample, none ? 0 : trace);
  const Rows kind = s.triangle ? Rows::triangle : Rows::full;
  void* root = codec.at(job.root, sample * rows_size(kind, f.channels));
  if (saved == 0) {
    for (int k = 0; k < s.slots; ++k) fill_matrix(slots[k], n, T(0));
    zero(codec, root, rows_size(kind, f.channels));
    return team.status();
  }
  scale_and_shift(slots[0], n, T(1 / saved), T(0));
  newton_schulz(team, n, steps, slots);
  const T* result = slots[steps.result];
  if (!s.by_positions) {
    write_rows(team, codec, result, T(std::sqrt(saved)), n, kind, root);
    return team.status();
  }
  const auto features = pack_all(team, x, true, m.by_channel);
  const ExpandWork<T> expand{{n, f.channels, n, 1, {matrix_panels(result, n), {}}, {features, {}}},
                             T(steps.z),
                             m.h_channel};
  const int64_t across = panels_of(f.channels, kPanel<T>);
  team.each(panels_of(n, kPanel<T>) * across, expand, expand_block<T>);
  const Panels<const T> expanded{m.h_channel, features.stride};
  const RootWork<T> last{&codec,
                         {f.channels, f.channels, n, 1, {features, {}}, {expanded, {}}},
                         T(1 / (double(f.positions) * std::sqrt(saved))),
                         kind,
                         root};
  team.each(across * (across + 1) / 2, last, root_block<T>);
  return team.status();
}

template <class T>
CCDN_TARGET void gradient_by_positions(Team& team, const IsqrtCovShape& s, const Features<T>& x,
                                       const Memory<T>& m, const NewtonSchulzSteps& steps,
                                       const Slots<T>& slots, Pool<T>& pool, double trace,
                                       const void* grad, void* grad_x) {
  const int64_t n = x.positions, channels = x.channels;
  const double c = 1 / (double(n) * std::sqrt(trace)), a = 2 / (double(n) * trace);
  const auto by_position = pack_all(team, x, false, m.by_position);
  const auto by_channel = pack_all(team, x, true, m.by_channel);
  symmetrize(team, *x.codec, grad, s.triangle ? Rows::triangle : Rows::full, channels, m.grad);
  const Panels<const T> g{m.grad, channels * kPanel<T>};
  const GradientFeatures<T> features{{channels, n, channels, 1, {g, {}}, {by_position, {}}},
                                     by_channel.stride,
                                     by_position.stride,
                                     m.h_channel,
                                     m.h_position};
  team.each(panels_of(channels, kPanel<T>) * panels_of(n, kPanel<T>), features,
            gradient_features_block<T>);
  const Panels<const T> h_channel{m.h_channel, by_channel.stride};
  const Panels<const T> h_position{m.h_position, by_position.stride};

  T* dq = pool.take();
  const SymmetricWork<T> direction{
      {n, n, channels, 1, {by_position, {}}, {h_position, {}}}, T(c), 0, 0, nullptr, nullptr, dq};
  symmetric_product(team, direction);
  const T *result = slots[steps.result], *matrix = slots[0];
  const double inner = inner_product(result, dq, n) + steps.z * trace_of(dq, n);
  T* dm = newton_schulz_derivative(team, n, steps, slots, pool, dq);
  const double radial = -a * (inner / 2 + inner_product(matrix, dm, n));
  scale_and_shift(dm, n, T(a), T(radial));
  T* q = pool.take();
  scaled(n, result, T(2 * c), q);
  scale_and_shift(q, n, T(1), T(2 * c * steps.z));

  FeatureWork<T> last{&x, {}, 0, 0, grad_x};
  const auto first = matrix_panels<T>(q, n), second = matrix_panels<T>(dm, n);
  if (x.channel_rows) {
    last.product = {channels, n, n, 2, {h_channel, by_channel}, {first, second}};
  } else {
    last.product = {n, channels, n, 2, {first, second}, {h_channel, by_channel}};
  }
  feature_product(team, last);
}

template <class T>
CCDN_TARGET Status backward(const IsqrtCovJob& job, int64_t sample, char* memory, int threads,
                            const Codec<T>& codec) {
  const IsqrtCovShape& s = *job.shape;
  const CovarianceShape& f = s.features;
  const NewtonSchulzSteps steps(s.iterations, s.by_positions);
  Arena arena(memory);
  const Memory<T> m(arena, s, steps, true);
  const int64_t n = s.by_positions ? f.positions : f.channels, size = matrix_size<T>(n);
  Team team(threads);
  const auto x = features_of<T>(f, codec, job.x, sample, m.mean, m.rest);
  const double trace = Saved{f.dtype != Dtype::f64}.get(job.trace, sample);
  void* grad_x = codec.at(job.grad_x, sample * f.stride_b);
  if (trace == 0) {
    fill_features(team, x, nullptr, grad_x);
    return team.status();
  }
  find_means(team, x, m.mean, m.rest, m.sums);
  const Slots<T> slots = slots_of<T>(job.iterates, s.slots, sample, m.slots, size, steps.slots);
  if (!s.slots) {
    first_matrix(team, s, x, m, slots[0]);
    scale_and_shift(slots[0], n, T(1 / trace), T(0));
    newton_schulz(team, n, steps, slots);
  }
  const Rows kind = s.triangle ? Rows::triangle : Rows::full;
  const void* grad = codec.at(job.grad, sample * rows_size(kind, f.channels));
  Pool<T> pool(m.pool, size);
  if (s.by_positions) {
    gradient_by_positions(team, s, x, m, steps, slots, pool, trace, grad, grad_x);
    return team.status();
  }
  T* direction = pool.take();
  symmetrize(team, *x.codec, grad, kind, n, direction);
  T* found = root_gradient(team, n, steps, slots, pool, direction, trace);
  scale_and_shift(found, n, T(2.0 / double(f.positions)), T(0));
  multiply_features(team, x, found, m.room, grad_x);
  return team.status();
}

}  // namespace

const IsqrtCovKernels& isqrt_cov_kernels() {
  static const IsqrtCovKernels kernels{
      CCDN_SAMPLE_TASKS(IsqrtCovJob, forward),
      CCDN_SAMPLE_TASKS(IsqrtCovJob, backward),
      {bytes<float>, bytes<double>},
  };
  return kernels;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
