// cocs_loss on CUDA: the loss of every level, and its gradient.
//
// On a napkin, for B P D numbers of e bytes:
//
//   forward    e B P D bytes, 4 B P D operations; then 2 P^2 D a level
//   backward   2 e B P D bytes, 8 B P D operations; then 4 P^2 D a level
//
// (64, 4, 256) float32 are 256 KB: 0.05 us of an H200's memory, and the operations are less. What
// remains is latency: launches and chains of dependent reads, so the levels of a network go through
// the same two launches forward (sums of chunks of the batch; sums and loss of each level) and two
// backward (what each sum gets; the rows' gradients). Tensor cores and bulk copies have nothing
// to save here.
//
// Deterministic: no atomics; sums over the batch are made of chunks that depend on the shape alone.
#include "../common/cocs_loss.h"
#include "cluster_launch.cuh"
#include "cocs_loss_kernels.cuh"
#include "launch.cuh"

namespace ccdn {
namespace {

using namespace ccdn::cuda;  // NOLINT: this file is their other half

bool valid(const CocsShape& shape) {
  if (shape.count < 0 || (shape.count > 0 && shape.levels == nullptr)) return false;
  for (int64_t i = 0; i < shape.count; ++i) {
    const CocsLevel& level = shape.levels[i];
    if (level.batch < 0 || level.excitations < 1 || level.channels < 1) return false;
  }
  return true;
}

int64_t pieces(const CocsTasks& tasks) { return tasks.task[tasks.count - 1].end; }

}  // namespace

int64_t cocs_loss_workspace_cuda(const CocsShape& shape, bool backward) {
  CocsPlan plan(shape, backward);
  for (CocsTasks tasks; plan.next(tasks);) {
  }
  return plan.workspace() * int64_t(sizeof(double));
}

Status cocs_loss_forward_cuda(const CocsShape& shape, void* losses, void* sums, void* workspace,
                              void* stream) noexcept {
  if (!valid(shape)) return Status::bad_argument;
  return for_element(shape.dtype, [&](auto element) {
    using T = decltype(element);
    double* memory = static_cast<double*>(workspace);
    Launcher launch(stream, overlaps(unit_sums<T>));
    CocsPlan plan(shape, /*backward=*/false);
    for (CocsTasks tasks; plan.next(tasks);) {
      launch(unit_sums<T>, pieces(tasks), kLineThreads, tasks, memory);
      launch(level_losses<T, false>, tasks.count, kLineThreads, tasks, memory,
             static_cast<Accumulator<T>*>(sums), static_cast<T*>(losses));
    }
    return launch.status();
  });
}

Status cocs_loss_backward_cuda(const CocsShape& shape, const void* grad_losses, const void* sums,
                               void* workspace, void* stream) noexcept {
  if (!valid(shape)) return Status::bad_argument;
  return for_element(shape.dtype, [&](auto element) {
    using T = decltype(element);
    double* memory = static_cast<double*>(workspace);
    Launcher launch(stream, overlaps(unit_gradients<T>));
    CocsPlan plan(shape, /*backward=*/true);
    for (CocsTasks tasks; plan.next(tasks);) {
      // It only reads them, backward.
      launch(level_losses<T, true>, tasks.count, kLineThreads, tasks, memory,
             static_cast<Accumulator<T>*>(const_cast<void*>(sums)),
             static_cast<T*>(const_cast<void*>(grad_losses)));
      launch(unit_gradients<T>, pieces(tasks), kLineThreads, tasks,
             static_cast<const double*>(memory));
    }
    return launch.status();
  });
}

}  // namespace ccdn
