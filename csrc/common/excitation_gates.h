// Arguments of excitation_gates, shared by the kernels.
#pragma once

#include <cstdint>

#include "status.h"

namespace ccdn {

// P excitations of O orders, each a network from D channels through R hidden units back to D. All
// tensors are contiguous. hidden and scales have the accumulation type, f64 where the others are
// f64 and else f32. The squeezes, the gates and their gradients are `dtype`, the weights and theirs
// `weights_dtype`: on the CPU each may be bf16 or f16; CUDA reads weights_dtype alone, all being
// f32 or f64 there.
struct ExcitationGatesShape {
  Dtype dtype, weights_dtype;
  int64_t batch, excitations, orders, channels, hidden;
};

// (P, O, R, D), (P, O, R), (P, O, D, R), (P, O, D).
struct ExcitationGatesWeights {
  const void *reduce, *reduce_bias, *expand, *expand_bias;
};

struct ExcitationGatesGrads {
  void *first, *second;  // (B, D); second is null when O is 1
  void *reduce, *reduce_bias, *expand, *expand_bias;
};

int64_t excitation_gates_workspace_cpu(const ExcitationGatesShape& shape, bool backward);

// first, second (B, D) -> gates (B, P, D), hidden (B, P, O, R) after the ReLU, scales (B, P, O, D).
Status excitation_gates_forward_cpu(const ExcitationGatesShape& shape, const void* first,
                                    const void* second, const ExcitationGatesWeights& weights,
                                    void* gates, void* hidden, void* scales,
                                    void* workspace) noexcept;

Status excitation_gates_backward_cpu(const ExcitationGatesShape& shape, const void* grad_gates,
                                     const void* first, const void* second,
                                     const ExcitationGatesWeights& weights, const void* hidden,
                                     const void* scales, const ExcitationGatesGrads& grads,
                                     void* workspace) noexcept;

int64_t excitation_gates_workspace_cuda(const ExcitationGatesShape& shape, bool backward);

Status excitation_gates_forward_cuda(const ExcitationGatesShape& shape, const void* first,
                                     const void* second, const ExcitationGatesWeights& weights,
                                     void* gates, void* hidden, void* scales,
                                     void* stream) noexcept;

Status excitation_gates_backward_cuda(const ExcitationGatesShape& shape, const void* grad_gates,
                                      const void* first, const void* second,
                                      const ExcitationGatesWeights& weights, const void* hidden,
                                      const void* scales, const ExcitationGatesGrads& grads,
                                      void* workspace, void* stream) noexcept;

}  // namespace ccdn
