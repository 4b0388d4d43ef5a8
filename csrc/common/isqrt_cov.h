// Arguments of isqrt_cov.
#pragma once

#include "covariance_pool.h"

namespace ccdn {

// `by_positions` says that Xc^T Xc / (N tr S) is iterated instead of S / tr S; `wide`, that float32
// is computed in double. With `triangle` root is (batch, channels (channels + 1) / 2). iterates and
// trace are those of newton_schulz_sqrt.h.
struct IsqrtCovShape {
  CovarianceShape features;
  bool wide, by_positions, triangle;
  int iterations, slots;
};

int64_t isqrt_cov_workspace_cpu(const IsqrtCovShape& shape, int workers, bool backward);

Status isqrt_cov_forward_cpu(const IsqrtCovShape& shape, const void* x, void* root, void* trace,
                             void* iterates, void* workspace, int workers) noexcept;

// grad is contiguous, grad_x has x's strides.
Status isqrt_cov_backward_cpu(const IsqrtCovShape& shape, const void* grad, const void* x,
                              const void* trace, const void* iterates, void* grad_x,
                              void* workspace, int workers) noexcept;

int64_t isqrt_cov_workspace_cuda(const IsqrtCovShape& shape, bool backward);

Status isqrt_cov_forward_cuda(const IsqrtCovShape& shape, const void* x, void* root, void* trace,
                              void* iterates, void* workspace, void* stream) noexcept;

Status isqrt_cov_backward_cuda(const IsqrtCovShape& shape, const void* grad, const void* x,
                               const void* trace, const void* iterates, void* grad_x,
                               void* workspace, void* stream) noexcept;

}  // namespace ccdn
