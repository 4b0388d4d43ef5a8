// The whole ctm on CUDA: squeeze, gates and excite from one call, in the order of one stream.
//
// On a napkin, for e bytes an element, maps of M = D N elements and samples that are not constant:
//
// clang-format off
//                    device memory                 what is done with it
//   forward   floor  e M (1 + P)                   x once, P maps
//             here   e M (1 + P), plus 2 e M       means (a second time from the cache), gram and
//                    where x outgrows L2            excite read x; positions: 2 more passes
//   backward  floor  e M (2 + P)
//             here   e M (2 + P), plus 3 e M       grad_x is written by excite and added to by the
//                    where x and grad_x do          squeeze, which reads x for means and expansion
// clang-format on
//
// (128, 256, 16 x 16) float32, P = 4: x is 34 MB and stays in the 50 MB of an H200's L2 from the
// means to the excitation, so that 168 MB pass through device memory, 35 us. The recurrence takes
// longer (dual_squeeze.cu says how long), and it, not the bytes, is what bounds the forward pass.
//
// What one call saves over its three parts: the squeezes pass to the gates in the accumulation
// type, without a rounding to 16 bits and back; the squeeze's gradient is added to excite's in
// place (no tensor and no pass of its own); pooled is made with gates that are in the cache; and
// there is one workspace. Deterministic, as its parts are.
#include "../common/ctm.h"
#include "launch.cuh"
#include "pack.cuh"

namespace ccdn {
namespace cuda {

constexpr int kPoolThreads = 256;

// pooled (B, P, D) = gates * mean: the mean of every excited map.
template <typename T>
__global__ void __launch_bounds__(kPoolThreads)
    pool_gates(int64_t batch, int64_t excitations, int64_t channels, const Accumulator<T>* gates,
               const Accumulator<T>* mean, T* pooled) {
  const int64_t count = batch * excitations * channels;
  const int64_t stride = int64_t(gridDim.x) * kPoolThreads;
  for (int64_t i = int64_t(blockIdx.x) * kPoolThreads + threadIdx.x; i < count; i += stride) {
    const int64_t row = quotient(i, channels), b = quotient(row, excitations);
    pooled[i] = Element<T>::store(gates[i] * mean[b * channels + i - row * channels]);
  }
}

// grad_gates (B, P, D) = what excite gives (or nothing) + the gradient of pooled * mean.
template <typename T>
__global__ void __launch_bounds__(kPoolThreads)
    pool_gates_backward(int64_t batch, int64_t excitations, int64_t channels, bool accumulate,
                        const T* grad_pooled, const Accumulator<T>* mean,
                        Accumulator<T>* grad_gates) {
  using Acc = Accumulator<T>;
  const int64_t count = batch * excitations * channels;
  const int64_t stride = int64_t(gridDim.x) * kPoolThreads;
  for (int64_t i = int64_t(blockIdx.x) * kPoolThreads + threadIdx.x; i < count; i += stride) {
    const int64_t row = quotient(i, channels), b = quotient(row, excitations);
    Acc value = accumulate ? grad_gates[i] : Acc(0);
    if (grad_pooled) {
      value += Element<T>::load(grad_pooled[i]) * mean[b * channels + i - row * channels];
    }
    grad_gates[i] = value;
  }
}

// grad_mean (B, D) += the sum over the excitations of the gradient of pooled * gates.
template <typename T>
__global__ void __launch_bounds__(kPoolThreads)
    pool_mean_backward(int64_t batch, int64_t excitations, int64_t channels, const T* grad_pooled,
                       const Accumulator<T>* gates, Accumulator<T>* grad_mean) {
  using Acc = Accumulator<T>;
  const int64_t stride = int64_t(gridDim.x) * kPoolThreads;
  for (int64_t i = int64_t(blockIdx.x) * kPoolThreads + threadIdx.x; i < batch * channels;
       i += stride) {
    const int64_t b = quotient(i, channels), d = i - b * channels;
    Acc sum = grad_mean[i];
    for (int64_t p = 0; p < excitations; ++p) {
      const int64_t at = (b * excitations + p) * channels + d;
      sum += Element<T>::load(grad_pooled[at]) * gates[at];
    }
    grad_mean[i] = sum;
  }
}

// Byte offsets into the workspace. The parts run one after another and share theirs.
struct CtmWorkspace {
  int64_t grad_gates = 0, grad_first = 0, grad_second = 0, part = 0, size = 0;

  CtmWorkspace(const CtmShape& shape, bool backward) {
    const int64_t accumulator = shape.excite.dtype == Dtype::f64 ? 8 : 4;
    const int64_t squeezes = shape.excite.batch * shape.excite.channels * accumulator;
    int64_t largest = dual_squeeze_workspace_cuda(shape.squeeze, backward);
    if (backward) {
      grad_gates = take(squeezes * shape.excite.excitations);
      grad_first = take(squeezes);
      grad_second = take(squeezes);
      const int64_t excite = multi_excite_workspace_cuda(shape.excite);
      const int64_t gates = excitation_gates_workspace_cuda(shape.gates, true);
      largest = largest > excite ? largest : excite;
      largest = largest > gates ? largest : gates;
    }
    part = take(largest);
  }

 private:
  int64_t take(int64_t bytes) {
    const int64_t offset = size;
    size += (bytes + 255) / 256 * 256;
    return offset;
  }
};

}  // namespace cuda

namespace {

using namespace ccdn::cuda;  // NOLINT: this file is their other half

int64_t pool_blocks(int64_t count) { return round_up_quotient(count, kPoolThreads); }

DualSqueezeShape wide_squeeze(const CtmShape& shape, bool accumulates) {
  DualSqueezeShape result = shape.squeeze;
  result.wide_squeezes = true;
  result.accumulates = accumulates;
  return result;
}

void* at(void* workspace, int64_t offset) { return static_cast<char*>(workspace) + offset; }

template <typename T>
Status backward(const CtmShape& shape, const void* grad_excited, const void* grad_pooled,
                const void* x, const ExcitationGatesWeights& weights, const CtmSaved& saved,
                const CtmGrads& grads, void* workspace, void* stream) {
  using Acc = Accumulator<T>;
  const MultiExciteShape& e = shape.excite;
  const CtmWorkspace w(shape, /*backward=*/true);
  void *grad_gates = at(workspace, w.grad_gates), *part = at(workspace, w.part);
  const ExcitationGatesGrads found{at(workspace, w.grad_first),
                                   at(workspace, w.grad_second),
                                   grads.reduce,
                                   grads.reduce_bias,
                                   grads.expand,
                                   grads.expand_bias};
  Status status = Status::ok;
  if (grad_excited) {
    status = multi_excite_backward_cuda(e, grad_excited, x, saved.gates, grads.x, grad_gates, part,
                                        stream);
    if (status != Status::ok) return status;
  }
  Launcher launch(stream);
  const T* pooled = static_cast<const T*>(grad_pooled);
  if (pooled || !grad_excited) {
    launch(pool_gates_backward<T>, pool_blocks(e.batch * e.excitations * e.channels), kPoolThreads,
           e.batch, e.excitations, e.channels, grad_excited != nullptr, pooled,
           static_cast<const Acc*>(saved.mean), static_cast<Acc*>(grad_gates));
  }
  if (launch.status() != Status::ok) return launch.status();
  status = excitation_gates_backward_cuda(shape.gates, grad_gates, saved.mean, saved.second,
                                          weights, saved.hidden, saved.scales, found, part, stream);
  if (status != Status::ok) return status;
  if (pooled) {
    launch(pool_mean_backward<T>, pool_blocks(e.batch * e.channels), kPoolThreads, e.batch,
           e.excitations, e.channels, pooled, static_cast<const Acc*>(saved.gates),
           static_cast<Acc*>(found.first));
  }
  if (launch.status() != Status::ok) return launch.status();
  return dual_squeeze_backward_cuda(wide_squeeze(shape, grad_excited != nullptr), found.first,
                                    found.second, x, saved.mean, saved.trace, saved.gram, grads.x,
                                    part, stream);
}

}  // namespace

int64_t ctm_workspace_cuda(const CtmShape& shape, bool backward) {
  return CtmWorkspace(shape, backward).size;
}

Status ctm_forward_cuda(const CtmShape& shape, const void* x, const ExcitationGatesWeights& weights,
                        void* excited, void* pooled, const CtmSaved& saved, void* workspace,
                        void* stream) noexcept {
  if (!shape.consistent()) return Status::bad_argument;
  const MultiExciteShape& e = shape.excite;
  Status status = dual_squeeze_forward_cuda(wide_squeeze(shape, false), x, nullptr, saved.second,
                                            saved.mean, saved.trace, saved.gram, workspace, stream);
  if (status != Status::ok) return status;
  status = excitation_gates_forward_cuda(shape.gates, saved.mean, saved.second, weights,
                                         saved.gates, saved.hidden, saved.scales, stream);
  if (status != Status::ok) return status;
  status = multi_excite_forward_cuda(e, x, saved.gates, excited, stream);
  if (status != Status::ok) return status;
  return for_element(e.dtype, [&](auto element) {
    using T = decltype(element);
    Launcher launch(stream);
    launch(pool_gates<T>, pool_blocks(e.batch * e.excitations * e.channels), kPoolThreads, e.batch,
           e.excitations, e.channels, static_cast<const Accumulator<T>*>(saved.gates),
           static_cast<const Accumulator<T>*>(saved.mean), static_cast<T*>(pooled));
    return launch.status();
  });
}

Status ctm_backward_cuda(const CtmShape& shape, const void* grad_excited, const void* grad_pooled,
                         const void* x, const ExcitationGatesWeights& weights,
                         const CtmSaved& saved, const CtmGrads& grads, void* workspace,
                         void* stream) noexcept {
  if (!shape.consistent()) return Status::bad_argument;
  return for_element(shape.excite.dtype, [&](auto element) {
    return backward<decltype(element)>(shape, grad_excited, grad_pooled, x, weights, saved, grads,
                                       workspace, stream);
  });
}

}  // namespace ccdn
