// newton_schulz_sqrt on CUDA: K Newton-Schulz steps of symmetric matrices, and their gradient.
//
// On a napkin, for one n x n float32 matrix and K = 5: ten products of n^3 / 2 multiply-adds
// forward (common/newton_schulz_steps.h), twenty halves of twice the depth backward; each product
// reads two to four matrices of 4 n^2 bytes and writes one. n = 256: 1e8 multiply-adds in three
// TF32 terms forward, 1.3 us of an H100's 495 TFLOP/s, and 8 MB, 2.4 us of its 3.35 TB/s where
// they do not stay in L2, as those of a hundred samples do not. A launch for each product: the next
// one needs all of its tiles, and a grid of B times ten tiles is the device's whole width from B =
// 13 on. Up to n = 64 a matrix is one tile: then a block takes its sample through all products, 1
// to 2 us each, where a launch takes 3.
#include "../common/newton_schulz_sqrt.h"
#include "newton_schulz.cuh"

namespace ccdn {
namespace {

using namespace ccdn::cuda;  // NOLINT: this file is their other half

template <int kProduct>
struct Memory {
  using Acc = ProductAcc<kProduct>;
  NewtonSchulz<kProduct> iteration;
  double* factors;

  Memory(const NewtonSchulzShape& s, void* iterates, bool backward, DeviceArena& arena)
      : iteration(s.batch, s.size, s.iterations, false,
                  s.slots ? static_cast<Acc*>(iterates) : nullptr, backward, arena),
        factors(arena.take<double>(2 * s.batch)) {}
};

// Slot 0: the symmetric part of a, divided by the traces.
template <int kProduct, typename T>
void iterate(Launcher& launch, const NewtonSchulzShape& s, Memory<kProduct>& m, const void* a,
             const Accumulator<T>* traces) {
  const Factors factors = factors_of(launch, s.batch, traces, FactorOf::trace, 1, 0, m.factors);
  launch_symmetrise<kProduct == kDouble, T>(launch, s.batch, s.size, a, false, factors,
                                            m.iteration.slot(0));
  m.iteration.iterate(launch);
}

template <int kProduct, typename T>
Status forward(const NewtonSchulzShape& s, const void* a, void* root, void* trace, void* iterates,
               void* workspace, void* stream) {
  DeviceArena arena(workspace);
  Memory<kProduct> m(s, iterates, /*backward=*/false, arena);
  Launcher launch(stream);
  auto* traces = static_cast<Accumulator<T>*>(trace);
  launch(matrix_traces<T>, s.batch, kMatrixThreads, s.batch, s.size, static_cast<const T*>(a),
         traces);
  iterate<kProduct, T>(launch, s, m, a, traces);
  const Factors factors = factors_of(launch, s.batch, traces, FactorOf::root, 1, 0, m.factors);
  launch_write_rows<kProduct == kDouble, T>(launch, s.batch, s.size, m.iteration.result(), factors,
                                            root, false);
  return launch.status();
}

template <int kProduct, typename T>
Status backward(const NewtonSchulzShape& s, const void* grad, const void* a, const void* trace,
                const void* iterates, void* grad_a, void* workspace, void* stream) {
  DeviceArena arena(workspace);
  // It only reads what is saved.
  Memory<kProduct> m(s, const_cast<void*>(iterates), /*backward=*/true, arena);
  Launcher launch(stream);
  const auto* traces = static_cast<const Accumulator<T>*>(trace);
  if (!s.slots) iterate<kProduct, T>(launch, s, m, a, traces);
  const auto direction = m.iteration.take();
  launch_symmetrise<kProduct == kDouble, T>(launch, s.batch, s.size, grad, false, {}, direction);
  const auto found = m.iteration.root_gradient(launch, direction, traces, 1, m.factors);
  const Factors one = factors_of(launch, s.batch, traces, FactorOf::one, 1, 0, m.factors);
  launch_write_rows<kProduct == kDouble, T>(launch, s.batch, s.size, found, one, grad_a, false);
  return launch.status();
}

}  // namespace

int64_t newton_schulz_sqrt_workspace_cuda(const NewtonSchulzShape& s, bool backward) {
  int64_t size = 0;
  for_product(s.dtype, s.wide, [&](auto, auto product) {
    DeviceArena arena(nullptr);
    // Where the matrices are saved they need no room, wherever that is.
    char saved = 0;
    Memory<decltype(product)::value>(s, &saved, backward, arena);
    size = arena.used();
    return Status::ok;
  });
  return size;
}

Status newton_schulz_sqrt_forward_cuda(const NewtonSchulzShape& s, const void* a, void* root,
                                       void* trace, void* iterates, void* workspace,
                                       void* stream) noexcept {
  if (!valid(s, /*polynomial=*/false)) return Status::bad_argument;
  return for_product(s.dtype, s.wide, [&](auto element, auto product) {
    return forward<decltype(product)::value, decltype(element)>(s, a, root, trace, iterates,
                                                                workspace, stream);
  });
}

Status newton_schulz_sqrt_backward_cuda(const NewtonSchulzShape& s, const void* grad, const void* a,
                                        const void* trace, const void* iterates, void* grad_a,
                                        void* workspace, void* stream) noexcept {
  if (!valid(s, /*polynomial=*/false)) return Status::bad_argument;
  return for_product(s.dtype, s.wide, [&](auto element, auto product) {
    return backward<decltype(product)::value, decltype(element)>(s, grad, a, trace, iterates,
                                                                 grad_a, workspace, stream);
  });
}

}  // namespace ccdn
