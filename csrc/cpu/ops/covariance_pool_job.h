// What covariance_pool's dispatcher and its kernels (one set for each instruction set) agree on.
#pragma once

#include "common/covariance_pool.h"
#include "cpu/engine/dispatch.h"
#include "cpu/engine/samples.h"

namespace ccdn {

struct CovarianceJob {
  const CovarianceShape* shape;
  const void *x, *grad;
  void *covariance, *trace, *grad_x;  // the backward pass reads trace
};

struct CovarianceKernels {
  SampleTask forward[5], backward[5];                                // by Dtype; wide float32
  int64_t (*bytes[2])(const CovarianceShape& shape, bool backward);  // scratch: float, double
};

CCDN_DECLARE_KERNELS(CovarianceKernels, covariance_kernels)

}  // namespace ccdn
