// dual_squeeze on the CPU: samples to threads, and the instruction set.
//
// The squeeze by a Chebyshev series of the Newton-Schulz polynomial (ccdn_ops/plans.py). A sample
// costs, in multiplications, n^2 L / 2 for its matrix (n the smaller of channels and positions, L
// the larger), m n^2 for the recurrence forward and 2 m n^2 backward, and min(n, 4 rank + 4) n L
// for the gradient; the features are read from memory once forward and once backward, the gradient
// is written once.
#include "cpu/ops/dual_squeeze_job.h"

namespace ccdn {
namespace {

SampleSchedule schedule_of(const DualSqueezeShape& s, int workers) {
  const double channels = double(s.channels), positions = double(s.positions);
  const double small = s.side == Side::channels ? channels : positions;
  return {s.batch, workers, small * channels * positions};
}

bool wide(const DualSqueezeShape& s, bool backward) {
  const int64_t small = s.side == Side::channels ? s.channels : s.positions;
  return !backward && s.dtype == Dtype::f32 && small <= kWideSide;
}

int64_t slot_bytes(const DualSqueezeShape& s, bool backward, int threads) {
  const bool doubles = s.dtype == Dtype::f64 || wide(s, backward);
  return CCDN_KERNELS(dual_squeeze_kernels).bytes[doubles](s, backward, threads);
}

Status run(const DualSqueezeJob& job, bool backward, void* workspace, int workers) {
  const DualSqueezeShape& s = *job.shape;
  const int dtype = static_cast<int>(s.dtype);
  if (dtype < 0 || dtype > 3) return Status::unsupported_dtype;
  if (s.batch < 0 || s.channels < 1 || s.positions < 1 || s.terms < 2 || s.rank < 1 ||
      s.coefficients == nullptr) {
    return Status::bad_argument;
  }
  const SampleSchedule schedule = schedule_of(s, workers);
  const DualSqueezeKernels& kernels = CCDN_KERNELS(dual_squeeze_kernels);
  const SampleTask task =
      (backward ? kernels.backward : kernels.forward)[wide(s, backward) ? 4 : dtype];
  return for_samples(schedule, s.batch, slot_bytes(s, backward, schedule.team()), workspace, task,
                     &job);
}

}  // namespace

int64_t dual_squeeze_workspace_cpu(const DualSqueezeShape& s, int workers, bool backward) {
  const SampleSchedule schedule = schedule_of(s, workers);
  return schedule.slots() * slot_bytes(s, backward, schedule.team()) + kSlotAlignment;
}

Status dual_squeeze_forward_cpu(const DualSqueezeShape& shape, const void* x, void* first,
                                void* second, void* mean, void* trace, void* gram, void* workspace,
                                int workers) noexcept {
  const DualSqueezeJob job{&shape, x, nullptr, nullptr, first, second, nullptr, mean, trace, gram};
  return run(job, false, workspace, workers);
}

Status dual_squeeze_backward_cpu(const DualSqueezeShape& shape, const void* grad_first,
                                 const void* grad_second, const void* x, const void* mean,
                                 const void* trace, const void* gram, void* grad_x, void* workspace,
                                 int workers) noexcept {
  const DualSqueezeJob job{&shape,
                           x,
                           grad_first,
                           grad_second,
                           nullptr,
                           nullptr,
                           grad_x,
                           const_cast<void*>(mean),
                           const_cast<void*>(trace),
                           const_cast<void*>(gram)};
  return run(job, true, workspace, workers);
}

}  // namespace ccdn
