// isqrt_cov on CUDA: the root of the covariance of features (D, N), and its gradient.
//
// By channels the covariance S = Xc Xc^T / N is iterated: root = sqrt(tr) Y_K(S / tr). By positions
// M = Xc^T Xc / (N tr) is, which has the same eigenvalues but for zeros, and
//
//   root = c Xc Q Xc^T,  Q = q_K(M) = z 1 + R,  c = 1 / (N sqrt(tr)).
//
// With G the upstream gradient made symmetric, H = G Xc and dQ = c Xc^T H, the gradient is
//
//   dX = 2 c H Q + a Xc dM - a (<Q, dQ> / 2 + <M, dM>) Xc,  a = 2 / (N tr)
//
// where dM is the derivative of q_K at M in the direction of dQ.
//
// On a napkin, in multiply-adds, K = 5: by channels D^2 N / 2 + 10 D^3 / 2 forward, 20 D^3 + D^2 N
// backward; by positions N^2 D / 2 + 8 N^3 / 2 + N^2 D + D^2 N / 2 and D^2 N + N^2 D / 2 + 16 N^3 +
// 2 N^2 D. (D, N) = (512, 49): 2e7 forward where the D x D iteration needs 7e8; 0.3 MB of features
// and 1 MB of root, 0.4 us of an H100's memory a sample, more than its arithmetic: the root bounds
// it. In 16-bit types too everything between features and root is float32 in three TF32 terms.
#include "../common/isqrt_cov.h"
#include "newton_schulz.cuh"

namespace ccdn {
namespace {

using namespace ccdn::cuda;  // NOLINT: this file is their other half

template <int kProduct, typename T>
struct Memory {
  using Acc = ProductAcc<kProduct>;
  CentredFeatures<T> features;
  int64_t n;
  NewtonSchulz<kProduct> iteration;
  double* factors;
  Acc* between;      // by positions: Q Xc^T, or H, (B, D, N)
  Matrix<Acc> grad;  // by positions, backward: G

  Memory(const IsqrtCovShape& s, const void* x, void* iterates, bool backward, DeviceArena& arena)
      : features(s.features, x, arena),
        n(s.by_positions ? s.features.positions : s.features.channels),
        iteration(s.features.batch, n, s.iterations, s.by_positions,
                  s.slots ? static_cast<Acc*>(iterates) : nullptr, backward, arena),
        factors(arena.take<double>(2 * s.features.batch)) {
    const int64_t batch = s.features.batch, d = s.features.channels;
    between = arena.take<Acc>(s.by_positions ? batch * d * s.features.positions : 0);
    const int64_t size = panel_size<Acc>(d);
    grad = {arena.take<Acc>(s.by_positions && backward ? batch * size : 0), size};
  }
};

// Slot 0: the matrix, divided by the traces.
template <int kProduct, typename T>
void iterate(Launcher& launch, const IsqrtCovShape& s, Memory<kProduct, T>& m,
             const Accumulator<T>* traces) {
  const Factors factors = factors_of(launch, s.features.batch, traces, FactorOf::trace,
                                     1.0 / double(s.features.positions), 0, m.factors);
  launch_gram<kProduct, false, T>(launch, s.features.batch, m.n, m.features.view(s.by_positions),
                                  {}, factors, {}, m.iteration.slot(0));
  m.iteration.iterate(launch);
}

template <int kProduct, typename T>
Status forward(const IsqrtCovShape& s, const void* x, void* root, void* trace, void* iterates,
               void* workspace, void* stream) {
  using Acc = ProductAcc<kProduct>;
  const CovarianceShape& f = s.features;
  DeviceArena arena(workspace);
  Memory<kProduct, T> m(s, x, iterates, /*backward=*/false, arena);
  Launcher launch(stream);
  auto* traces = static_cast<Accumulator<T>*>(trace);
  m.features.find_means(launch, traces);
  iterate(launch, s, m, static_cast<const Accumulator<T>*>(traces));
  if (!s.by_positions) {
    const Factors factors = factors_of(launch, f.batch, traces, FactorOf::root, 1, 0, m.factors);
    launch_write_rows<kProduct == kDouble, T>(launch, f.batch, m.n, m.iteration.result(), factors,
                                              root, s.triangle);
    return launch.status();
  }
  launch_multiply<kProduct, kWide>(launch, f.batch, m.n, read_only(m.iteration.result()),
                                   m.features.view(true), m.iteration.steps.z, m.between,
                                   f.channels * f.positions, 1, f.positions);
  const Factors factors = factors_of(launch, f.batch, traces, FactorOf::inverse_root,
                                     1.0 / double(f.positions), 0, m.factors);
  launch_gram<kProduct, true, T>(launch, f.batch, f.channels, m.features.view(false),
                                 plain_view<Acc>(f, m.between, false), factors,
                                 {static_cast<T*>(root), s.triangle}, {});
  return launch.status();
}

template <int kProduct, typename T>
void gradient_by_positions(Launcher& launch, const IsqrtCovShape& s, Memory<kProduct, T>& m,
                           const void* grad, const Accumulator<T>* traces, void* grad_x) {
  using Acc = ProductAcc<kProduct>;
  const CovarianceShape& f = s.features;
  auto& iteration = m.iteration;
  const double z = iteration.steps.z, per = 1.0 / double(f.positions);
  launch_symmetrise<kProduct == kDouble, T>(launch, f.batch, f.channels, grad, s.triangle, {},
                                            m.grad);
  launch_multiply<kProduct, kWide>(launch, f.batch, f.channels, read_only(m.grad),
                                   m.features.view(false), 0, m.between, f.channels * f.positions,
                                   f.positions, 1);
  const FeatureView<Acc> h = plain_view<Acc>(f, m.between, true);
  const auto dq = iteration.take();
  const Factors c = factors_of(launch, f.batch, traces, FactorOf::inverse_root, per, 0, m.factors);
  launch_gram<kProduct, true, T>(launch, f.batch, m.n, m.features.view(true), h, c, {}, dq);
  launch_inner_product(launch, f.batch, m.n, iteration.result(), dq, z, iteration.inner());
  const auto dm = iteration.derivative(launch, dq);
  launch_inner_product(launch, f.batch, m.n, dm, iteration.slot(0), 0, iteration.other());
  const Factors a = factors_of(launch, f.batch, traces, FactorOf::polynomial_gradient, 2 * per, 0,
                               m.factors, iteration.inner(), iteration.other());
  launch_scale(launch, f.batch, m.n, dm, a, 0, dm);
  const auto q = iteration.take();
  const Factors twice =
      factors_of(launch, f.batch, traces, FactorOf::inverse_root, 2 * per, z, m.factors);
  launch_scale(launch, f.batch, m.n, iteration.result(), twice, 0, q);
  launch_multiply<kProduct, kPair>(launch, f.batch, m.n, read_only(dm), m.features.view(true), 0,
                                   grad_x, f.stride_b, f.stride_n, f.stride_d, read_only(q), h);
}

template <int kProduct, typename T>
Status backward(const IsqrtCovShape& s, const void* grad, const void* x, const void* trace,
                const void* iterates, void* grad_x, void* workspace, void* stream) {
  const CovarianceShape& f = s.features;
  DeviceArena arena(workspace);
  // It only reads what is saved.
  Memory<kProduct, T> m(s, x, const_cast<void*>(iterates), /*backward=*/true, arena);
  Launcher launch(stream);
  const auto* traces = static_cast<const Accumulator<T>*>(trace);
  m.features.find_means(launch, nullptr);
  if (!s.slots) iterate(launch, s, m, traces);
  if (s.by_positions) {
    gradient_by_positions(launch, s, m, grad, traces, grad_x);
    return launch.status();
  }
  const auto direction = m.iteration.take();
  launch_symmetrise<kProduct == kDouble, T>(launch, f.batch, m.n, grad, s.triangle, {}, direction);
  const auto found =
      m.iteration.root_gradient(launch, direction, traces, 2.0 / double(f.positions), m.factors);
  launch_multiply<kProduct, kNarrow>(launch, f.batch, m.n, read_only(found), m.features.view(false),
                                     0, grad_x, f.stride_b, f.stride_d, f.stride_n);
  return launch.status();
}

bool valid(const IsqrtCovShape& s) {
  return s.features.valid() &&
         valid_iteration(s.features.dtype, s.wide, s.iterations, s.slots, s.by_positions);
}

}  // namespace

int64_t isqrt_cov_workspace_cuda(const IsqrtCovShape& s, bool backward) {
  int64_t size = 0;
  for_product(s.features.dtype, s.wide, [&](auto element, auto product) {
    DeviceArena arena(nullptr);
    // Where the matrices are saved they need no room, wherever that is.
    char saved = 0;
    Memory<decltype(product)::value, decltype(element)>(s, nullptr, &saved, backward, arena);
    size = arena.used();
    return Status::ok;
  });
  return size;
}

Status isqrt_cov_forward_cuda(const IsqrtCovShape& s, const void* x, void* root, void* trace,
                              void* iterates, void* workspace, void* stream) noexcept {
  if (!valid(s)) return Status::bad_argument;
  return for_product(s.features.dtype, s.wide, [&](auto element, auto product) {
    return forward<decltype(product)::value, decltype(element)>(s, x, root, trace, iterates,
                                                                workspace, stream);
  });
}

Status isqrt_cov_backward_cuda(const IsqrtCovShape& s, const void* grad, const void* x,
                               const void* trace, const void* iterates, void* grad_x,
                               void* workspace, void* stream) noexcept {
  if (!valid(s)) return Status::bad_argument;
  return for_product(s.features.dtype, s.wide, [&](auto element, auto product) {
    return backward<decltype(product)::value, decltype(element)>(s, grad, x, trace, iterates,
                                                                 grad_x, workspace, stream);
  });
}

}  // namespace ccdn
