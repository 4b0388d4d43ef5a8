// Arguments of ctm: its parts', and the tensors that pass between them.
#pragma once

#include "dual_squeeze.h"
#include "excitation_gates.h"
#include "multi_excite.h"

namespace ccdn {

// All three describe the same x. There are two orders, and gates have the accumulation type.
struct CtmShape {
  DualSqueezeShape squeeze;
  ExcitationGatesShape gates;
  MultiExciteShape excite;
};

// What the forward pass saves, all in the accumulation type: (B, D), (B, D), (B,), dual_squeeze's
// matrix, (B, P, D), (B, P, O, R), (B, P, O, D).
struct CtmSaved {
  void *mean, *second, *trace, *gram, *gates, *hidden, *scales;
};

int64_t ctm_workspace_cuda(const CtmShape& shape, bool backward);

// excited (B, P, D, H, W) as multi_excite's out; pooled (B, P, D) in x's type.
Status ctm_forward_cuda(const CtmShape& shape, const void* x, const ExcitationGatesWeights& weights,
                        void* excited, void* pooled, const CtmSaved& saved, void* workspace,
                        void* stream) noexcept;

// grad_excited or grad_pooled may be null. x and grad_x are dense, in the memory order of excited;
// of grads, first and second are not used.
Status ctm_backward_cuda(const CtmShape& shape, const void* grad_excited, const void* grad_pooled,
                         const void* x, const ExcitationGatesWeights& weights,
                         const CtmSaved& saved, void* grad_x, const ExcitationGatesGrads& grads,
                         void* workspace, void* stream) noexcept;

}  // namespace ccdn
