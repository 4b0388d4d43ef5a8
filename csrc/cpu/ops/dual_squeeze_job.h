// What dual_squeeze's dispatcher and its kernels (one set for each instruction set) agree on.
#pragma once

#include "common/dual_squeeze.h"
#include "cpu/engine/dispatch.h"
#include "cpu/engine/samples.h"

namespace ccdn {

struct DualSqueezeJob {
  const DualSqueezeShape* shape;
  const void *x, *grad_first, *grad_second;
  void *first, *second, *grad_x;
  void *mean, *trace, *gram;  // written by the forward pass, read by the backward pass
};

// The forward pass of float features computes in double up to this small side. A matrix of so few
// lines costs nothing, and it has no many lines whose rounding would average out.
constexpr int64_t kWideSide = 16;

struct DualSqueezeKernels {
  SampleTask forward[5], backward[5];  // by Dtype; wide float32
  // Scratch of a sample on so many threads: float, double.
  int64_t (*bytes[2])(const DualSqueezeShape& shape, bool backward, int threads);
};

CCDN_DECLARE_KERNELS(DualSqueezeKernels, dual_squeeze_kernels)

}  // namespace ccdn
