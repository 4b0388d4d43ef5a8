// dual_squeeze on the CPU: samples to threads, and the instruction set.
//
// The squeeze by a Chebyshev series of the Newton-Schulz polynomial (ccdn_ops/plans.py). A sample
// costs, in multiplications, n^2 L / 2 for its matrix (n the smaller of channels and positions, L
// the larger), m n^2 for the recurrence forward and 2 m n^2 backward, and min(n, 4 rank + 4) n L
// for the gradient; the features are read from memory once forward and once backward, the gradient
// is written once.
#include <atomic>

#include "cpu/dual_squeeze_job.h"

namespace ccdn {
namespace {

template <class T>
void sample_bytes(const DualSqueezeShape& shape, bool backward, int64_t& sample, int64_t& worker) {
  const Sizes sizes(shape, sizeof(T));
  Carver carver(nullptr);
  if (backward) {
    BackwardMemory<T>(carver, sizes, shape.saves_gram);
  } else {
    ForwardMemory<T>(carver, sizes);
  }
  sample = carver.used();
  worker = Workers<T>(nullptr, sizes).bytes;
}

bool wide_forward(const DualSqueezeShape& shape) {
  const int64_t small = shape.side == Side::channels ? shape.channels : shape.positions;
  return shape.dtype == Dtype::f32 && small <= kWideSide;
}

// Samples go to threads, or the threads share each sample when there are few.
struct Schedule {
  int workers;
  bool shared;
  int64_t slot;  // bytes of scratch of one sample with its workers
  int64_t total;

  Schedule(const DualSqueezeShape& shape, int requested, bool backward) {
    workers = requested < 1 ? 1 : requested;
    shared = workers > 1 && 2 * shape.batch <= workers;
    if (!shared && workers > shape.batch) workers = shape.batch < 1 ? 1 : int(shape.batch);
    int64_t sample, worker;
    if (shape.dtype == Dtype::f64 || (!backward && wide_forward(shape))) {
      sample_bytes<double>(shape, backward, sample, worker);
    } else {
      sample_bytes<float>(shape, backward, sample, worker);
    }
    slot = sample + worker * (shared ? workers : 1);
    total = slot * (shared ? 1 : workers);
  }
};

struct Batch {
  const Job* job;
  SampleKernel kernel;
  int64_t slot;
  char* memory;
  std::atomic<int64_t> next;
  std::atomic<int> status;
};

void run_samples(int64_t worker, void* context) noexcept {
  Batch& batch = *static_cast<Batch*>(context);
  for (;;) {
    const int64_t sample = batch.next.fetch_add(1);
    if (sample >= batch.job->shape->batch) return;
    const Status status = batch.kernel(*batch.job, sample, batch.memory + worker * batch.slot, 1);
    if (status != Status::ok) batch.status.store(static_cast<int>(status));
  }
}

Status run(const Job& job, bool backward, void* workspace, int requested) {
  const DualSqueezeShape& s = *job.shape;
  const int dtype = static_cast<int>(s.dtype);
  if (dtype < 0 || dtype > 3) return Status::unsupported_dtype;
  if (s.batch < 0 || s.channels < 1 || s.positions < 1 || s.terms < 2 || s.rank < 1 ||
      s.coefficients == nullptr) {
    return Status::bad_argument;
  }
  const Schedule schedule(s, requested, backward);
  char* memory = reinterpret_cast<char*>(round_up(reinterpret_cast<int64_t>(workspace), 64));
  const DualSqueezeKernels& kernels = CCDN_KERNELS(dual_squeeze_kernels);
  const SampleKernel kernel = backward          ? kernels.backward[dtype]
                              : wide_forward(s) ? kernels.wide_forward
                                                : kernels.forward[dtype];
  if (schedule.shared) {
    for (int64_t sample = 0; sample < s.batch; ++sample) {
      const Status status = kernel(job, sample, memory, schedule.workers);
      if (status != Status::ok) return status;
    }
    return Status::ok;
  }
  Batch batch{&job, kernel, schedule.slot, memory, {0}, {0}};
  const Status status = parallel_for(schedule.workers, run_samples, &batch);
  return status != Status::ok ? status : static_cast<Status>(batch.status.load());
}

}  // namespace

int64_t dual_squeeze_workspace_cpu(const DualSqueezeShape& shape, int workers, bool backward) {
  return Schedule(shape, workers, backward).total + 64;  // the start is aligned to a cache line
}

Status dual_squeeze_forward_cpu(const DualSqueezeShape& shape, const void* x, void* first,
                                void* second, void* mean, void* trace, void* gram, void* workspace,
                                int workers) noexcept {
  const Job job{&shape, x, nullptr, nullptr, first, second, nullptr, mean, trace, gram};
  return run(job, false, workspace, workers);
}

Status dual_squeeze_backward_cpu(const DualSqueezeShape& shape, const void* grad_first,
                                 const void* grad_second, const void* x, const void* mean,
                                 const void* trace, const void* gram, void* grad_x, void* workspace,
                                 int workers) noexcept {
  const Job job{&shape,
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
