// Arguments of ctm: its parts', and the tensors that pass between them.
#pragma once

#include "dual_squeeze.h"
#include "excitation_gates.h"
#include "multi_excite.h"

namespace ccdn {

// All three describe the same x. There are two orders; the squeezes and gates that the networks
// take and give have the accumulation type.
struct CtmShape {
  DualSqueezeShape squeeze;
  ExcitationGatesShape gates;
  MultiExciteShape excite;

  bool consistent() const {
    const MultiExciteShape& e = excite;
    return gates.orders == 2 && gates.batch == e.batch && squeeze.batch == e.batch &&
           gates.channels == e.channels && squeeze.channels == e.channels &&
           gates.excitations == e.excitations && squeeze.positions == e.positions &&
           squeeze.dtype == e.dtype && gates.dtype == e.gates_dtype &&
           gates.dtype == (e.dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32);
  }
};

// What the forward pass saves, all in the accumulation type: (B, D), (B, D), (B,), dual_squeeze's
// matrix, (B, P, D), (B, P, O, R), (B, P, O, D).
struct CtmSaved {
  void *mean, *second, *trace, *gram, *gates, *hidden, *scales;
};

struct CtmGrads {
  void *x, *reduce, *reduce_bias, *expand, *expand_bias;
};

int64_t ctm_workspace_cpu(const CtmShape& shape, int workers, bool backward);

// excited (B, P, D, H, W) as multi_excite's out; pooled (B, P, D) in x's type.
Status ctm_forward_cpu(const CtmShape& shape, const void* x, const ExcitationGatesWeights& weights,
                       void* excited, void* pooled, const CtmSaved& saved, void* workspace,
                       int workers) noexcept;

// grad_excited or grad_pooled may be null. x and its gradient are dense, in the memory order of
// excited.
Status ctm_backward_cpu(const CtmShape& shape, const void* grad_excited, const void* grad_pooled,
                        const void* x, const ExcitationGatesWeights& weights, const CtmSaved& saved,
                        const CtmGrads& grads, void* workspace, int workers) noexcept;

int64_t ctm_workspace_cuda(const CtmShape& shape, bool backward);

// As on the CPU.
Status ctm_forward_cuda(const CtmShape& shape, const void* x, const ExcitationGatesWeights& weights,
                        void* excited, void* pooled, const CtmSaved& saved, void* workspace,
                        void* stream) noexcept;

Status ctm_backward_cuda(const CtmShape& shape, const void* grad_excited, const void* grad_pooled,
                         const void* x, const ExcitationGatesWeights& weights,
                         const CtmSaved& saved, const CtmGrads& grads, void* workspace,
                         void* stream) noexcept;

}  // namespace ccdn
