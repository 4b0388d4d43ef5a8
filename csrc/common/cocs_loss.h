// Arguments of cocs_loss.
#pragma once

#include <cstdint>

#include "status.h"

namespace ccdn {

// One level of features (batch, excitations, channels): channels contiguous, the other strides in
// elements. Python lays these out as an array of 64-bit integers.
struct CocsLevel {
  int64_t x, grad_x;  // addresses; grad_x is not used by the forward pass
  int64_t batch, excitations, channels;
  int64_t stride_b, stride_p;
  int64_t grad_stride_b, grad_stride_p;
};

struct CocsShape {
  Dtype dtype;
  int64_t count;
  const CocsLevel* levels;
};

int64_t cocs_loss_workspace_cpu(const CocsShape& shape, bool backward);

// losses (count,) has the features' dtype. sums is in the accumulation type: (excitations,
// channels) of each level, one level after another.
Status cocs_loss_forward_cpu(const CocsShape& shape, void* losses, void* sums,
                             void* workspace) noexcept;
Status cocs_loss_backward_cpu(const CocsShape& shape, const void* grad_losses, const void* sums,
                              void* workspace) noexcept;

int64_t cocs_loss_workspace_cuda(const CocsShape& shape, bool backward);

Status cocs_loss_forward_cuda(const CocsShape& shape, void* losses, void* sums, void* workspace,
                              void* stream) noexcept;
Status cocs_loss_backward_cuda(const CocsShape& shape, const void* grad_losses, const void* sums,
                               void* workspace, void* stream) noexcept;

}  // namespace ccdn
