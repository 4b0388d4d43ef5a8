// newton_schulz_sqrt on the CPU: samples to threads, and the instruction set.
#include "common/newton_schulz_steps.h"
#include "cpu/ops/newton_schulz_sqrt_job.h"

namespace ccdn {
namespace {

SampleSchedule schedule_of(const NewtonSchulzShape& s, int workers) {
  return {s.batch, workers, double(s.size) * double(s.size) * double(s.size)};
}

int64_t slot_bytes(const NewtonSchulzShape& s, bool backward) {
  const bool doubles = s.wide || s.dtype == Dtype::f64;
  return CCDN_KERNELS(newton_schulz_kernels).bytes[doubles](s, backward);
}

Status run(const NewtonSchulzJob& job, bool backward, void* workspace, int workers) {
  const NewtonSchulzShape& s = *job.shape;
  const int dtype = static_cast<int>(s.dtype);
  if (dtype < 0 || dtype > 3 || (s.wide && s.dtype != Dtype::f32)) return Status::unsupported_dtype;
  if (s.batch < 0 || s.size < 1 || s.iterations < 1 || s.iterations > 10) {
    return Status::bad_argument;
  }
  const int slots = NewtonSchulzSteps(s.iterations, false).slots;
  if (s.slots && (s.slots != slots || s.wide)) return Status::bad_argument;
  const NewtonSchulzKernels& kernels = CCDN_KERNELS(newton_schulz_kernels);
  const SampleTask task = (backward ? kernels.backward : kernels.forward)[s.wide ? 4 : dtype];
  return for_samples(schedule_of(s, workers), s.batch, slot_bytes(s, backward), workspace, task,
                     &job);
}

}  // namespace

int64_t newton_schulz_sqrt_workspace_cpu(const NewtonSchulzShape& s, int workers, bool backward) {
  return schedule_of(s, workers).slots() * slot_bytes(s, backward) + kSlotAlignment;
}

Status newton_schulz_sqrt_forward_cpu(const NewtonSchulzShape& shape, const void* a, void* root,
                                      void* trace, void* iterates, void* workspace,
                                      int workers) noexcept {
  return run({&shape, a, nullptr, root, trace, iterates, nullptr}, false, workspace, workers);
}

Status newton_schulz_sqrt_backward_cpu(const NewtonSchulzShape& shape, const void* grad,
                                       const void* a, const void* trace, const void* iterates,
                                       void* grad_a, void* workspace, int workers) noexcept {
  return run(
      {&shape, a, grad, nullptr, const_cast<void*>(trace), const_cast<void*>(iterates), grad_a},
      true, workspace, workers);
}

}  // namespace ccdn
