// multi_excite on the CPU: parts of samples to threads, and the instruction set.
//
// Bound by memory: forward 1 read and P writes, backward P + 1 reads and 1 write. The order of
// summation depends on the shape alone, so results do not depend on the number of threads.
#include "cpu/engine/parallel.h"
#include "cpu/ops/multi_excite_job.h"

namespace ccdn {
namespace {

// What a task moves at least: a thread that is woken for less costs more than it saves.
constexpr int64_t kTaskBytes = 128 << 10;
// Outputs of these sizes are written past the caches, which saves reading their lines first.
// Smaller ones are better left there for who reads them next; larger ones get fresh pages of
// glibc's malloc, whose zeroing has brought the lines there already.
constexpr int64_t kStreamFrom = 8 << 20, kStreamTo = 32 << 20;

struct Tasks {
  const MultiExciteJob* job;
  MultiExciteKernel kernel;
  int64_t rows;     // of a sample
  int64_t parts;    // of a sample
  int64_t step;     // rows of a part
  int64_t samples;  // of a task
};

void run_task(int64_t task, void* context) noexcept {
  const Tasks& t = *static_cast<const Tasks*>(context);
  const int64_t first = task / t.parts * t.samples, part = task % t.parts;
  const int64_t begin = part * t.step;
  const int64_t end = begin + t.step < t.rows ? begin + t.step : t.rows;
  for (int64_t b = first; b < first + t.samples && b < t.job->shape->batch; ++b) {
    if (begin < end) t.kernel(*t.job, b, begin, end);
  }
}

int64_t element_bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

Status run(const MultiExciteJob& job, MultiExciteKernel kernel, int64_t rows, int64_t unit) {
  const MultiExciteShape& s = *job.shape;
  const int64_t bytes =
      (s.excitations + 1) * s.channels * s.positions * element_bytes(s.dtype);  // of a sample
  Tasks tasks{&job, kernel, rows, 1, rows, 1};
  if (bytes < kTaskBytes) {
    tasks.samples = (kTaskBytes + bytes - 1) / bytes;
  } else {
    const int64_t units = (rows + unit - 1) / unit;
    const int64_t parts = bytes / kTaskBytes < units ? bytes / kTaskBytes : units;
    tasks.step = (units + parts - 1) / parts * unit;
    tasks.parts = (rows + tasks.step - 1) / tasks.step;
  }
  const int64_t count = (s.batch + tasks.samples - 1) / tasks.samples * tasks.parts;
  return parallel_for(count, run_task, &tasks);
}

Status check(const MultiExciteShape& s) {
  const int dtype = static_cast<int>(s.dtype);
  if (dtype < 0 || dtype > 3) return Status::unsupported_dtype;
  const Dtype wide = s.dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  if (s.gates_dtype != wide && s.gates_dtype != s.dtype) return Status::unsupported_dtype;
  if (s.batch < 0 || s.excitations < 1 || s.channels < 1 || s.positions < 1) {
    return Status::bad_argument;
  }
  return Status::ok;
}

}  // namespace

Status multi_excite_forward_cpu(const MultiExciteShape& s, const void* x, const void* gates,
                                void* out) noexcept {
  const Status status = check(s);
  if (status != Status::ok) return status;
  const int64_t size = element_bytes(s.dtype);
  const int64_t line = (s.channels_last ? s.channels : s.positions) * size;
  const bool aligned = line % 64 == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0;
  const int64_t bytes = s.batch * s.excitations * s.channels * s.positions * size;
  MultiExciteJob job{};
  job.shape = &s;
  job.x = x;
  job.gates = gates;
  job.out = out;
  job.stream = aligned && bytes >= kStreamFrom && bytes < kStreamTo;
  const MultiExciteKernels& kernels = CCDN_KERNELS(multi_excite_kernels);
  return run(job, kernels.forward[static_cast<int>(s.dtype)],
             s.channels_last ? s.positions : s.channels, 1);
}

Status multi_excite_backward_cpu(const MultiExciteShape& s, const void* grad_out, const void* x,
                                 const void* gates, void* grad_x, void* grad_gates) noexcept {
  const Status status = check(s);
  if (status != Status::ok) return status;
  MultiExciteJob job{};
  job.shape = &s;
  job.x = x;
  job.gates = gates;
  job.grad_out = grad_out;
  job.grad_x = grad_x;
  job.grad_gates = grad_gates;
  const MultiExciteKernels& kernels = CCDN_KERNELS(multi_excite_kernels);
  // Threads that share a position's line meet at whole cache lines only.
  return run(job, kernels.backward[static_cast<int>(s.dtype)], s.channels,
             s.channels_last ? 64 : 1);
}

}  // namespace ccdn
