// What newton_schulz_sqrt's dispatcher and its kernels (one set for each instruction set) agree on.
#pragma once

#include "common/newton_schulz_sqrt.h"
#include "cpu/engine/dispatch.h"
#include "cpu/engine/samples.h"

namespace ccdn {

struct NewtonSchulzJob {
  const NewtonSchulzShape* shape;
  const void *a, *grad;
  void *root, *trace, *iterates, *grad_a;  // the backward pass reads trace and iterates
};

struct NewtonSchulzKernels {
  SampleTask forward[5], backward[5];                                  // by Dtype; wide float32
  int64_t (*bytes[2])(const NewtonSchulzShape& shape, bool backward);  // scratch: float, double
};

CCDN_DECLARE_KERNELS(NewtonSchulzKernels, newton_schulz_kernels)

}  // namespace ccdn
