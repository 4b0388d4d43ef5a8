// Arguments of dual_squeeze, shared by the CPU and the CUDA kernels.
#pragma once

#include <cstdint>

#include "status.h"

namespace ccdn {

// Which of the two products of the centred features is the matrix of the recurrence.
enum class Side : int { channels = 0, positions = 1 };

// x is (batch, channels, positions) with the given strides in elements. first, second and the
// gradients have x's dtype; mean, trace and gram have the accumulation type (double for f64,
// else float).
struct DualSqueezeShape {
  Dtype dtype;
  int64_t batch, channels, positions;
  int64_t stride_b, stride_d, stride_n;
  Side side;
  bool saves_gram;
  int terms;            // Chebyshev terms on [0, 1]
  int rank;             // of the factored gradient
  bool dense_gradient;  // CPU: multiply by one n x n matrix instead of the thin factors
  // On the host, rows of `terms` numbers (ccdn_ops/plans.py derives them): the coefficients c of
  // q_K, those of q_K + 2 t q_K', then `rank` rows L and `rank` rows R of the gradient's factors.
  // On the CPU, on the side of the channels, all of them belong to t q_K instead.
  const double* coefficients;
  // CUDA, within ctm: first (or null), second and their gradients have the accumulation type, and
  // the gradient is added to what grad_x holds.
  bool wide_squeezes = false, accumulates = false;
};

int64_t dual_squeeze_workspace_cpu(const DualSqueezeShape& shape, int workers, bool backward);

Status dual_squeeze_forward_cpu(const DualSqueezeShape& shape, const void* x, void* first,
                                void* second, void* mean, void* trace, void* gram, void* workspace,
                                int workers) noexcept;

// grad_first and grad_second are contiguous (batch, channels); grad_x has x's strides.
Status dual_squeeze_backward_cpu(const DualSqueezeShape& shape, const void* grad_first,
                                 const void* grad_second, const void* x, const void* mean,
                                 const void* trace, const void* gram, void* grad_x, void* workspace,
                                 int workers) noexcept;

int64_t dual_squeeze_workspace_cuda(const DualSqueezeShape& shape, bool backward);

Status dual_squeeze_forward_cuda(const DualSqueezeShape& shape, const void* x, void* first,
                                 void* second, void* mean, void* trace, void* gram, void* workspace,
                                 void* stream) noexcept;

Status dual_squeeze_backward_cuda(const DualSqueezeShape& shape, const void* grad_first,
                                  const void* grad_second, const void* x, const void* mean,
                                  const void* trace, const void* gram, void* grad_x,
                                  void* workspace, void* stream) noexcept;

}  // namespace ccdn
