// What cocs_loss's dispatcher and its kernels (one set for each instruction set) agree on.
#pragma once

#include <cstdint>

#include "common/cocs_loss.h"
#include "cpu/engine/dispatch.h"

namespace ccdn {

// Samples of one task. It is fixed, so that sums do not depend on the number of threads.
constexpr int64_t kCocsBlock = 64;

inline int64_t cocs_blocks(const CocsLevel& level) {
  return (level.batch + kCocsBlock - 1) / kCocsBlock;
}

struct CocsKernels {
  struct Typed {
    int64_t wide;  // bytes of the accumulation type

    // sum (channels): the unit vectors of one excitation, summed over the samples [begin, end).
    void (*sum)(const CocsLevel&, int64_t excitation, int64_t begin, int64_t end, double* sum);

    // sums (size): the sums of `count` blocks added up.
    void (*collect)(const double* blocks, int64_t count, int64_t size, void* sums);

    // The loss of sums (excitations, channels). gradient, null or of the sums' shape, receives its
    // derivative by the sums, times upstream; products (excitations, excitations) is scratch.
    double (*loss)(const CocsLevel&, const void* sums, double upstream, double* products,
                   double* gradient);

    // Of the samples [begin, end), from the derivative by the sums.
    void (*gradient)(const CocsLevel&, int64_t begin, int64_t end, const double* by_sums);

    // One number of the features' dtype.
    void (*narrow)(double value, void* out, int64_t index);
    double (*widen)(const void* in, int64_t index);
  } typed[4];  // by Dtype
};

CCDN_DECLARE_KERNELS(CocsKernels, cocs_loss_kernels)

}  // namespace ccdn
