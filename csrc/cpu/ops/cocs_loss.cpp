// cocs_loss on the CPU: blocks of samples to threads, and the instruction set.
//
// Q_pq sums over all pairs of samples, so Q = S S^T / B^2 with S the sum over the batch of the unit
// vectors: B P D numbers are read once forward and once backward, and their gradient is written.
// The rest, P^2 D, is done by the calling thread.
#include "cpu/engine/parallel.h"
#include "cpu/ops/cocs_loss_job.h"

namespace ccdn {
namespace {

// Below this many numbers waking the threads takes longer than they save.
constexpr int64_t kParallelFrom = 1 << 15;

struct Pass {
  const CocsShape* shape;
  const CocsKernels::Typed* kernels;
  double* memory;
};

int64_t tasks_of(const CocsLevel& level, bool forward) {
  return cocs_blocks(level) * (forward ? level.excitations : 1);
}

int64_t sums_of(const CocsLevel& level) { return level.excitations * level.channels; }

// Forward: one block of one excitation of one level; its sum goes to memory, tasks in order.
void sum_block(int64_t task, void* context) noexcept {
  const Pass& pass = *static_cast<const Pass*>(context);
  double* memory = pass.memory;
  for (const CocsLevel* level = pass.shape->levels;; ++level) {
    const int64_t tasks = tasks_of(*level, true);
    if (task < tasks) {
      const int64_t block = task / level->excitations, excitation = task % level->excitations;
      const int64_t begin = block * kCocsBlock, end = begin + kCocsBlock;
      pass.kernels->sum(*level, excitation, begin, end < level->batch ? end : level->batch,
                        memory + task * level->channels);
      return;
    }
    task -= tasks;
    memory += tasks * level->channels;
  }
}

// Backward: one block of samples of one level; the derivatives by the sums lie in memory.
void gradient_block(int64_t task, void* context) noexcept {
  const Pass& pass = *static_cast<const Pass*>(context);
  const double* gradient = pass.memory;
  for (const CocsLevel* level = pass.shape->levels;; ++level) {
    const int64_t tasks = tasks_of(*level, false);
    if (task < tasks) {
      const int64_t begin = task * kCocsBlock, end = begin + kCocsBlock;
      pass.kernels->gradient(*level, begin, end < level->batch ? end : level->batch, gradient);
      return;
    }
    task -= tasks;
    gradient += sums_of(*level);
  }
}

Status run(const Pass& pass, void (*body)(int64_t, void*) noexcept, bool forward) {
  int64_t tasks = 0, numbers = 0;
  for (int64_t i = 0; i < pass.shape->count; ++i) {
    const CocsLevel& level = pass.shape->levels[i];
    tasks += tasks_of(level, forward);
    numbers += level.batch * sums_of(level);
  }
  void* context = const_cast<Pass*>(&pass);
  if (numbers >= kParallelFrom) return parallel_for(tasks, body, context);
  for (int64_t task = 0; task < tasks; ++task) body(task, context);
  return Status::ok;
}

Status check(const CocsShape& shape) {
  const int dtype = static_cast<int>(shape.dtype);
  if (dtype < 0 || dtype > 3) return Status::unsupported_dtype;
  if (shape.count < 0) return Status::bad_argument;
  for (int64_t i = 0; i < shape.count; ++i) {
    const CocsLevel& level = shape.levels[i];
    if (level.batch < 0 || level.excitations < 1 || level.channels < 1) return Status::bad_argument;
  }
  return Status::ok;
}

const CocsKernels::Typed& kernels_of(const CocsShape& shape) {
  return CCDN_KERNELS(cocs_loss_kernels).typed[static_cast<int>(shape.dtype)];
}

// Scratch, in doubles: the products of the largest level, and behind them the sums of all blocks
// (forward) or the derivatives by the sums (backward).
struct Memory {
  int64_t products = 0, rest = 0;

  Memory(const CocsShape& shape, bool backward) {
    for (int64_t i = 0; i < shape.count; ++i) {
      const CocsLevel& level = shape.levels[i];
      const int64_t square = level.excitations * level.excitations;
      if (square > products) products = square;
      rest += sums_of(level) * (backward ? 1 : cocs_blocks(level));
    }
  }
};

}  // namespace

int64_t cocs_loss_workspace_cpu(const CocsShape& shape, bool backward) {
  const Memory memory(shape, backward);
  return (memory.products + memory.rest) * int64_t(sizeof(double));
}

Status cocs_loss_forward_cpu(const CocsShape& shape, void* losses, void* sums,
                             void* workspace) noexcept {
  Status status = check(shape);
  if (status != Status::ok) return status;
  const CocsKernels::Typed& kernels = kernels_of(shape);
  double* products = static_cast<double*>(workspace);
  double* blocks = products + Memory(shape, false).products;
  status = run({&shape, &kernels, blocks}, sum_block, true);
  if (status != Status::ok) return status;

  char* level_sums = static_cast<char*>(sums);
  for (int64_t i = 0; i < shape.count; ++i) {
    const CocsLevel& level = shape.levels[i];
    const int64_t size = sums_of(level), count = cocs_blocks(level);
    kernels.collect(blocks, count, size, level_sums);
    kernels.narrow(kernels.loss(level, level_sums, 1, products, nullptr), losses, i);
    blocks += count * size;
    level_sums += size * kernels.wide;
  }
  return Status::ok;
}

Status cocs_loss_backward_cpu(const CocsShape& shape, const void* grad_losses, const void* sums,
                              void* workspace) noexcept {
  const Status status = check(shape);
  if (status != Status::ok) return status;
  const CocsKernels::Typed& kernels = kernels_of(shape);
  double* products = static_cast<double*>(workspace);
  double* gradients = products + Memory(shape, true).products;
  double* gradient = gradients;
  const char* level_sums = static_cast<const char*>(sums);
  for (int64_t i = 0; i < shape.count; ++i) {
    const CocsLevel& level = shape.levels[i];
    const int64_t size = sums_of(level);
    kernels.loss(level, level_sums, kernels.widen(grad_losses, i), products, gradient);
    gradient += size;
    level_sums += size * kernels.wide;
  }
  return run({&shape, &kernels, gradients}, gradient_block, false);
}

}  // namespace ccdn
