// isqrt_cov on the CPU: samples to threads, and the instruction set.
#include "common/newton_schulz_steps.h"
#include "cpu/ops/isqrt_cov_job.h"

namespace ccdn {
namespace {

SampleSchedule schedule_of(const IsqrtCovShape& s, int workers) {
  const CovarianceShape& f = s.features;
  const double n = double(s.by_positions ? f.positions : f.channels);
  return {f.batch, workers,
          n * n * n + double(f.channels) * double(f.channels) * double(f.positions)};
}

int64_t slot_bytes(const IsqrtCovShape& s, bool backward) {
  const bool doubles = s.wide || s.features.dtype == Dtype::f64;
  return CCDN_KERNELS(isqrt_cov_kernels).bytes[doubles](s, backward);
}

Status run(const IsqrtCovJob& job, bool backward, void* workspace, int workers) {
  const IsqrtCovShape& s = *job.shape;
  const int dtype = static_cast<int>(s.features.dtype);
  if (dtype < 0 || dtype > 3 || (s.wide && s.features.dtype != Dtype::f32))
    return Status::unsupported_dtype;
  if (!s.features.valid() || s.iterations < 1 || s.iterations > 10) {
    return Status::bad_argument;
  }
  const int slots = NewtonSchulzSteps(s.iterations, s.by_positions).slots;
  if (s.slots && (s.slots != slots || s.wide)) return Status::bad_argument;
  const IsqrtCovKernels& kernels = CCDN_KERNELS(isqrt_cov_kernels);
  const SampleTask task = (backward ? kernels.backward : kernels.forward)[s.wide ? 4 : dtype];
  return for_samples(schedule_of(s, workers), s.features.batch, slot_bytes(s, backward), workspace,
                     task, &job);
}

}  // namespace

int64_t isqrt_cov_workspace_cpu(const IsqrtCovShape& s, int workers, bool backward) {
  return schedule_of(s, workers).slots() * slot_bytes(s, backward) + kSlotAlignment;
}

Status isqrt_cov_forward_cpu(const IsqrtCovShape& shape, const void* x, void* root, void* trace,
                             void* iterates, void* workspace, int workers) noexcept {
  return run({&shape, x, nullptr, root, trace, iterates, nullptr}, false, workspace, workers);
}

Status isqrt_cov_backward_cpu(const IsqrtCovShape& shape, const void* grad, const void* x,
                              const void* trace, const void* iterates, void* grad_x,
                              void* workspace, int workers) noexcept {
  return run(
      {&shape, x, grad, nullptr, const_cast<void*>(trace), const_cast<void*>(iterates), grad_x},
      true, workspace, workers);
}

}  // namespace ccdn
