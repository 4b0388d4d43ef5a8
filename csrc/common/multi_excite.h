// Arguments of multi_excite, shared by the kernels.
#pragma once

#include <cstdint>

#include "status.h"

namespace ccdn {

// x is (batch, channels, positions); out and its gradient are (batch, excitations, channels,
// positions), dense, all with x's dtype. Their memory is ordered channels before positions, or
// positions before channels when channels_last; the last of them has stride 1, in x too. gates are
// contiguous (batch, excitations, channels) of gates_dtype: the accumulation type (f64 for f64,
// else f32) or, on the CPU, x's dtype.
struct MultiExciteShape {
  Dtype dtype, gates_dtype;
  int64_t batch, excitations, channels, positions;
  bool channels_last;
  int64_t stride_b;    // of x, in elements, from sample to sample
  int64_t stride_row;  // of x, from channel to channel or, channels_last, position to position
};

Status multi_excite_forward_cpu(const MultiExciteShape& shape, const void* x, const void* gates,
                                void* out) noexcept;

// grad_x is dense in the memory order of out, grad_gates is as gates.
Status multi_excite_backward_cpu(const MultiExciteShape& shape, const void* grad_out, const void* x,
                                 const void* gates, void* grad_x, void* grad_gates) noexcept;

int64_t multi_excite_workspace_cuda(const MultiExciteShape& shape);

Status multi_excite_forward_cuda(const MultiExciteShape& shape, const void* x, const void* gates,
                                 void* out, void* stream) noexcept;

Status multi_excite_backward_cuda(const MultiExciteShape& shape, const void* grad_out,
                                  const void* x, const void* gates, void* grad_x, void* grad_gates,
                                  void* workspace, void* stream) noexcept;

}  // namespace ccdn
