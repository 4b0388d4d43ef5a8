// excitation_gates on CUDA: all P x O bottleneck networks of a CTM, and their gradient.
//
// On a napkin, with W = 2 P O R D weights of e bytes (P = 4, O = 2, D = 256, R = 64: 1 MB):
//
//   forward    e (W + B (2 O + 2 P + P O) D) bytes, 2 B W operations
//   backward   e (2 W + ...) bytes, 4 B W operations
//
// B = 128: 2 MB and 67 M operations forward, half a microsecond of an H200's memory and one of its
// CUDA cores: what bounds it is latency. So there are two launches forward (hidden; scales and
// gates) and two backward (through expand; through reduce), each with all networks and everything
// that does not wait for something else, in tiles of 32 x 32 so that there are enough of them: 64
// and 128 forward, 576 and 640 backward. Tensor cores would shorten what takes no time.
//
// Deterministic: no atomics; the order of every sum depends on the shape alone.
#include "../common/excitation_gates.h"
#include "cluster_launch.cuh"
#include "excitation_gates_kernels.cuh"
#include "launch.cuh"

namespace ccdn {
namespace {

using namespace ccdn::cuda;  // NOLINT: this file is their other half

bool valid(const ExcitationGatesShape& shape) {
  return shape.batch >= 0 && shape.excitations >= 1 && (shape.orders == 1 || shape.orders == 2) &&
         shape.channels >= 1 && shape.hidden >= 1;
}

// The networks compute in the accumulation type: there is nothing in 16 bits.
template <typename Run>
Status for_wide(Dtype dtype, Run run) {
  if (dtype == Dtype::f32) return run(float{});
  if (dtype == Dtype::f64) return run(double{});
  return Status::unsupported_dtype;
}

template <typename Acc>
GatesArguments<Acc> arguments(const ExcitationGatesShape& shape, const void* first,
                              const void* second, const ExcitationGatesWeights& weights,
                              void* hidden, void* scales) {
  GatesArguments<Acc> result = {};
  result.batch = shape.batch;
  result.excitations = shape.excitations;
  result.orders = shape.orders;
  result.channels = shape.channels;
  result.units = shape.hidden;
  result.first = static_cast<const Acc*>(first);
  result.second = static_cast<const Acc*>(second);
  result.reduce = static_cast<const Acc*>(weights.reduce);
  result.reduce_bias = static_cast<const Acc*>(weights.reduce_bias);
  result.expand = static_cast<const Acc*>(weights.expand);
  result.expand_bias = static_cast<const Acc*>(weights.expand_bias);
  result.hidden = static_cast<Acc*>(hidden);
  result.scales = static_cast<Acc*>(scales);
  return result;
}

}  // namespace

int64_t excitation_gates_workspace_cuda(const ExcitationGatesShape& shape, bool backward) {
  const int64_t size = shape.weights_dtype == Dtype::f64 ? 8 : 4;
  return backward ? shape.batch * shape.excitations * shape.orders * shape.hidden * size : 0;
}

Status excitation_gates_forward_cuda(const ExcitationGatesShape& shape, const void* first,
                                     const void* second, const ExcitationGatesWeights& weights,
                                     void* gates, void* hidden, void* scales,
                                     void* stream) noexcept {
  if (!valid(shape)) return Status::bad_argument;
  return for_wide(shape.weights_dtype, [&](auto element) {
    using Acc = decltype(element);
    auto p = arguments<Acc>(shape, first, second, weights, hidden, scales);
    p.gates = static_cast<Acc*>(gates);
    Launcher launch(stream, overlaps(gates_reduce<Acc>));
    launch(gates_reduce<Acc>, TileGrid(p.networks(), p.batch, p.units).pieces(), kTileThreads, p);
    launch(gates_expand<Acc>, TileGrid(p.excitations, p.batch, p.channels).pieces(), kTileThreads,
           p);
    return launch.status();
  });
}

Status excitation_gates_backward_cuda(const ExcitationGatesShape& shape, const void* grad_gates,
                                      const void* first, const void* second,
                                      const ExcitationGatesWeights& weights, const void* hidden,
                                      const void* scales, const ExcitationGatesGrads& grads,
                                      void* workspace, void* stream) noexcept {
  if (!valid(shape)) return Status::bad_argument;
  return for_wide(shape.weights_dtype, [&](auto element) {
    using Acc = decltype(element);
    // It only reads hidden and scales, backward.
    auto p = arguments<Acc>(shape, first, second, weights, const_cast<void*>(hidden),
                            const_cast<void*>(scales));
    p.grad_gates = static_cast<const Acc*>(grad_gates);
    p.grad_hidden = static_cast<Acc*>(workspace);
    p.grad_first = static_cast<Acc*>(grads.first);
    p.grad_second = static_cast<Acc*>(grads.second);
    p.grad_reduce = static_cast<Acc*>(grads.reduce);
    p.grad_reduce_bias = static_cast<Acc*>(grads.reduce_bias);
    p.grad_expand = static_cast<Acc*>(grads.expand);
    p.grad_expand_bias = static_cast<Acc*>(grads.expand_bias);
    const int64_t n = p.networks(), lines = lines_of_block(false);
    Launcher launch(stream, overlaps(gates_reduce_backward<Acc>));
    launch(gates_expand_backward<Acc>,
           TileGrid(n, p.batch, p.units).pieces() + TileGrid(n, p.channels, p.units).pieces() +
               round_up_quotient(n * p.channels, lines),
           kTileThreads, p);
    launch(gates_reduce_backward<Acc>,
           TileGrid(p.orders, p.batch, p.channels).pieces() +
               TileGrid(n, p.units, p.channels).pieces() + round_up_quotient(n * p.units, lines),
           kTileThreads, p);
    return launch.status();
  });
}

}  // namespace ccdn
