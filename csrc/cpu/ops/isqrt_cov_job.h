// What isqrt_cov's dispatcher and its kernels (one set for each instruction set) agree on.
#pragma once

#include "common/isqrt_cov.h"
#include "cpu/engine/dispatch.h"
#include "cpu/engine/samples.h"

namespace ccdn {

struct IsqrtCovJob {
  const IsqrtCovShape* shape;
  const void *x, *grad;
  void *root, *trace, *iterates, *grad_x;  // the backward pass reads trace and iterates
};

struct IsqrtCovKernels {
  SampleTask forward[5], backward[5];                              // by Dtype; wide float32
  int64_t (*bytes[2])(const IsqrtCovShape& shape, bool backward);  // scratch: float, double
};

CCDN_DECLARE_KERNELS(IsqrtCovKernels, isqrt_cov_kernels)

}  // namespace ccdn
