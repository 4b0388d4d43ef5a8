#include "cpu/engine/samples.h"

namespace ccdn {
namespace {

struct Batch {
  const void* job;
  SampleTask task;
  int64_t count, slot;
  char* memory;
  std::atomic<int64_t> next;
  std::atomic<int> status;
};

void run_worker(int64_t worker, void* context) noexcept {
  Batch& batch = *static_cast<Batch*>(context);
  for (;;) {
    const int64_t sample = batch.next.fetch_add(1);
    if (sample >= batch.count) return;
    const Status status = batch.task(batch.job, sample, batch.memory + worker * batch.slot, 1);
    if (status != Status::ok) batch.status.store(static_cast<int>(status));
  }
}

}  // namespace

Status for_samples(const SampleSchedule& schedule, int64_t count, int64_t slot, void* workspace,
                   SampleTask task, const void* job) noexcept {
  const auto start = (reinterpret_cast<std::uintptr_t>(workspace) + 63) / 64 * 64;
  char* memory = reinterpret_cast<char*>(start);
  if (schedule.shared) {
    for (int64_t sample = 0; sample < count; ++sample) {
      const Status status = task(job, sample, memory, schedule.workers);
      if (status != Status::ok) return status;
    }
    return Status::ok;
  }
  Batch batch{job, task, count, slot, memory, {0}, {0}};
  const Status status = parallel_for(schedule.workers, run_worker, &batch);
  return status != Status::ok ? status : static_cast<Status>(batch.status.load());
}

}  // namespace ccdn
