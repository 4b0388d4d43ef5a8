// covariance_pool on the CPU: samples to threads, and the instruction set.
#include "cpu/ops/covariance_pool_job.h"

namespace ccdn {
namespace {

SampleSchedule schedule_of(const CovarianceShape& s, int workers) {
  return {s.batch, workers, double(s.channels) * double(s.channels) * double(s.positions)};
}

int64_t slot_bytes(const CovarianceShape& s, bool backward) {
  return CCDN_KERNELS(covariance_kernels).bytes[s.dtype == Dtype::f64](s, backward);
}

Status run(const CovarianceJob& job, bool backward, void* workspace, int workers) {
  const CovarianceShape& s = *job.shape;
  const int dtype = static_cast<int>(s.dtype);
  if (dtype < 0 || dtype > 3) return Status::unsupported_dtype;
  if (!s.valid()) return Status::bad_argument;
  const CovarianceKernels& kernels = CCDN_KERNELS(covariance_kernels);
  const SampleTask task = (backward ? kernels.backward : kernels.forward)[dtype];
  return for_samples(schedule_of(s, workers), s.batch, slot_bytes(s, backward), workspace, task,
                     &job);
}

}  // namespace

int64_t covariance_pool_workspace_cpu(const CovarianceShape& s, int workers, bool backward) {
  return schedule_of(s, workers).slots() * slot_bytes(s, backward) + kSlotAlignment;
}

Status covariance_pool_forward_cpu(const CovarianceShape& shape, const void* x, void* covariance,
                                   void* trace, void* workspace, int workers) noexcept {
  return run({&shape, x, nullptr, covariance, trace, nullptr}, false, workspace, workers);
}

Status covariance_pool_backward_cpu(const CovarianceShape& shape, const void* grad, const void* x,
                                    const void* trace, void* grad_x, void* workspace,
                                    int workers) noexcept {
  return run({&shape, x, grad, nullptr, const_cast<void*>(trace), grad_x}, true, workspace,
             workers);
}

}  // namespace ccdn
