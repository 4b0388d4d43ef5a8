// Arguments of newton_schulz_sqrt.
#pragma once

#include <cstdint>

#include "status.h"

namespace ccdn {

// a and root are (batch, size, size), contiguous; the input counts as (a + a^T) / 2. `wide` says
// that float32 is iterated in double. iterates holds `slots` matrices for each sample, in column
// panels of 128 bytes (cpu/engine/symmetric.h, common/newton_schulz_steps.h); it may hold none. It
// and trace are in the accumulation type (double for f64, else float).
struct NewtonSchulzShape {
  Dtype dtype;
  bool wide;
  int64_t batch, size;
  int iterations, slots;
};

int64_t newton_schulz_sqrt_workspace_cpu(const NewtonSchulzShape& shape, int workers,
                                         bool backward);

Status newton_schulz_sqrt_forward_cpu(const NewtonSchulzShape& shape, const void* a, void* root,
                                      void* trace, void* iterates, void* workspace,
                                      int workers) noexcept;

Status newton_schulz_sqrt_backward_cpu(const NewtonSchulzShape& shape, const void* grad,
                                       const void* a, const void* trace, const void* iterates,
                                       void* grad_a, void* workspace, int workers) noexcept;

int64_t newton_schulz_sqrt_workspace_cuda(const NewtonSchulzShape& shape, bool backward);

Status newton_schulz_sqrt_forward_cuda(const NewtonSchulzShape& shape, const void* a, void* root,
                                       void* trace, void* iterates, void* workspace,
                                       void* stream) noexcept;

Status newton_schulz_sqrt_backward_cuda(const NewtonSchulzShape& shape, const void* grad,
                                        const void* a, const void* trace, const void* iterates,
                                        void* grad_a, void* workspace, void* stream) noexcept;

}  // namespace ccdn
