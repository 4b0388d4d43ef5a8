// What csrc/cpu/ops/ctm.cpp asks of the kernels of one instruction set.
#pragma once

#include "common/ctm.h"
#include "cpu/engine/dispatch.h"

namespace ccdn {

struct CtmKernels {
  // Of x's type, with `wide` numbers of the accumulation type.
  struct Typed {
    int64_t bytes;  // of an element
    void (*widen)(const void* in, int64_t count, void* wide);
    void (*narrow)(const void* wide, int64_t count, void* out);
    void (*add)(const void* in, int64_t count, void* sum);  // sum += in
  } typed[4];                                               // by Dtype
};

CCDN_DECLARE_KERNELS(CtmKernels, ctm_kernels)

}  // namespace ccdn
