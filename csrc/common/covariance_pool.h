// Arguments of covariance_pool, and the features that isqrt_cov takes as well.
#pragma once

#include <cstdint>

#include "status.h"

namespace ccdn {

// x is (batch, channels, positions) with the given strides in elements.
struct CovarianceShape {
  Dtype dtype;
  int64_t batch, channels, positions;
  int64_t stride_b, stride_d, stride_n;

  bool valid() const { return batch >= 0 && channels >= 1 && positions >= 1; }
};

int64_t covariance_pool_workspace_cpu(const CovarianceShape& shape, int workers, bool backward);

// covariance (batch, channels, channels) in x's dtype; trace (batch,) of it in the accumulation
// type (double for f64, else float), 0 for a constant sample, whose covariance is 0 too.
Status covariance_pool_forward_cpu(const CovarianceShape& shape, const void* x, void* covariance,
                                   void* trace, void* workspace, int workers) noexcept;

// grad_x has x's strides.
Status covariance_pool_backward_cpu(const CovarianceShape& shape, const void* grad, const void* x,
                                    const void* trace, void* grad_x, void* workspace,
                                    int workers) noexcept;

int64_t covariance_pool_workspace_cuda(const CovarianceShape& shape, bool backward);

Status covariance_pool_forward_cuda(const CovarianceShape& shape, const void* x, void* covariance,
                                    void* trace, void* workspace, void* stream) noexcept;

// x and grad_x have the same strides.
Status covariance_pool_backward_cuda(const CovarianceShape& shape, const void* grad, const void* x,
                                     const void* trace, void* grad_x, void* workspace,
                                     void* stream) noexcept;

}  // namespace ccdn
