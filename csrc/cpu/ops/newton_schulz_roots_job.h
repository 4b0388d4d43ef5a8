// What newton_schulz_roots' dispatcher and its kernels (one set for each instruction set) agree on.
#pragma once

#include "common/newton_schulz_roots.h"
#include "cpu/engine/dispatch.h"
#include "cpu/engine/samples.h"

namespace ccdn {

struct NewtonSchulzRootsJob {
  const NewtonSchulzRootsShape* shape;
  const void *a, *grad_root, *grad_inverse;
  void *root, *inverse, *divisor, *iterates, *grad_a;  // the backward pass reads what is saved
};

struct NewtonSchulzRootsKernels {
  SampleTask forward[5], backward[5];  // by Dtype; wide float32
  // Scratch: float, double.
  int64_t (*bytes[2])(const NewtonSchulzRootsShape& shape, bool backward);
};

CCDN_DECLARE_KERNELS(NewtonSchulzRootsKernels, newton_schulz_roots_kernels)

}  // namespace ccdn
