// newton_schulz_roots on the CPU: samples to threads, and the instruction set.
#include "common/newton_schulz_steps.h"
#include "cpu/ops/newton_schulz_roots_job.h"

namespace ccdn {
namespace {

SampleSchedule schedule_of(const NewtonSchulzShape& s, int workers) {
  return {s.batch, workers, double(s.size) * double(s.size) * double(s.size)};
}

int64_t slot_bytes(const NewtonSchulzRootsShape& shape, bool backward) {
  const NewtonSchulzShape& s = shape.matrices;
  const bool doubles = s.wide || s.dtype == Dtype::f64;
  return CCDN_KERNELS(newton_schulz_roots_kernels).bytes[doubles](shape, backward);
}

Status run(const NewtonSchulzRootsJob& job, bool backward, void* workspace, int workers) {
  const NewtonSchulzShape& s = job.shape->matrices;
  const int dtype = static_cast<int>(s.dtype);
  if (dtype < 0 || dtype > 3 || (s.wide && s.dtype != Dtype::f32)) return Status::unsupported_dtype;
  if (s.batch < 0 || s.size < 1 || s.iterations < 1 || s.iterations > 10) {
    return Status::bad_argument;
  }
  const int slots = NewtonSchulzSteps(s.iterations, true).slots;
  if (s.slots && (s.slots != slots || s.wide)) return Status::bad_argument;
  const NewtonSchulzRootsKernels& kernels = CCDN_KERNELS(newton_schulz_roots_kernels);
  const SampleTask task = (backward ? kernels.backward : kernels.forward)[s.wide ? 4 : dtype];
  return for_samples(schedule_of(s, workers), s.batch, slot_bytes(*job.shape, backward), workspace,
                     task, &job);
}

}  // namespace

int64_t newton_schulz_roots_workspace_cpu(const NewtonSchulzRootsShape& shape, int workers,
                                          bool backward) {
  return schedule_of(shape.matrices, workers).slots() * slot_bytes(shape, backward) +
         kSlotAlignment;
}

Status newton_schulz_roots_forward_cpu(const NewtonSchulzRootsShape& shape, const void* a,
                                       void* root, void* inverse, void* divisor, void* iterates,
                                       void* workspace, int workers) noexcept {
  return run({&shape, a, nullptr, nullptr, root, inverse, divisor, iterates, nullptr}, false,
             workspace, workers);
}

Status newton_schulz_roots_backward_cpu(const NewtonSchulzRootsShape& shape, const void* grad_root,
                                        const void* grad_inverse, const void* a,
                                        const void* divisor, const void* iterates, void* grad_a,
                                        void* workspace, int workers) noexcept {
  return run({&shape, a, grad_root, grad_inverse, nullptr, nullptr, const_cast<void*>(divisor),
              const_cast<void*>(iterates), grad_a},
             true, workspace, workers);
}

}  // namespace ccdn
