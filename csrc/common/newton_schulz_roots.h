// Arguments of newton_schulz_roots.
#pragma once

#include <cstdint>

#include "newton_schulz_sqrt.h"

namespace ccdn {

// `matrices` is newton_schulz_sqrt's shape, with the slots of the polynomial Z_K. A matrix is
// divided by its trace or, if `norm`, by its Frobenius norm; that divisor is in the accumulation
// type. The gradient of one of the two outputs may be null, which means 0.
struct NewtonSchulzRootsShape {
  NewtonSchulzShape matrices;
  bool norm;
};

int64_t newton_schulz_roots_workspace_cpu(const NewtonSchulzRootsShape& shape, int workers,
                                          bool backward);

Status newton_schulz_roots_forward_cpu(const NewtonSchulzRootsShape& shape, const void* a,
                                       void* root, void* inverse, void* divisor, void* iterates,
                                       void* workspace, int workers) noexcept;

Status newton_schulz_roots_backward_cpu(const NewtonSchulzRootsShape& shape, const void* grad_root,
                                        const void* grad_inverse, const void* a,
                                        const void* divisor, const void* iterates, void* grad_a,
                                        void* workspace, int workers) noexcept;

int64_t newton_schulz_roots_workspace_cuda(const NewtonSchulzRootsShape& shape, bool backward);

Status newton_schulz_roots_forward_cuda(const NewtonSchulzRootsShape& shape, const void* a,
                                        void* root, void* inverse, void* divisor, void* iterates,
                                        void* workspace, void* stream) noexcept;

Status newton_schulz_roots_backward_cuda(const NewtonSchulzRootsShape& shape, const void* grad_root,
                                         const void* grad_inverse, const void* a,
                                         const void* divisor, const void* iterates, void* grad_a,
                                         void* workspace, void* stream) noexcept;

}  // namespace ccdn
