// What csrc/cpu/ops/multi_excite.cpp asks of the kernels of one instruction set.
#pragma once

#include "common/multi_excite.h"
#include "cpu/engine/dispatch.h"

namespace ccdn {

struct MultiExciteJob {
  const MultiExciteShape* shape;
  const void *x, *gates, *grad_out;
  void *out, *grad_x, *grad_gates;
  bool stream;  // stores of out that bypass the caches
};

// Rows [begin, end) of one sample: forward its channels or, channels_last, its positions; backward
// always its channels.
using MultiExciteKernel = void (*)(const MultiExciteJob& job, int64_t sample, int64_t begin,
                                   int64_t end);

struct MultiExciteKernels {
  MultiExciteKernel forward[4];  // by Dtype
  MultiExciteKernel backward[4];
};

CCDN_DECLARE_KERNELS(MultiExciteKernels, multi_excite_kernels)

}  // namespace ccdn
