// A batch of samples on torch's threads: a sample a thread, or the threads together on each sample.
#pragma once

#include <atomic>
#include <cstdint>

#include "common/status.h"
#include "cpu/engine/parallel.h"

namespace ccdn {

inline int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Hands out pieces of a block of memory, each on its own cache lines. From a null base it only
// counts, so that the same struct of pieces says how much memory is needed and where they are.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  // From the first cache line of a block, for which it has kSlotAlignment bytes more.
  static Arena aligned(void* block) {
    const auto start = (reinterpret_cast<std::uintptr_t>(block) + 63) / 64 * 64;
    return Arena(reinterpret_cast<void*>(start));
  }

  template <class T>
  T* take(int64_t count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return piece;
  }

  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// The threads that work on one sample. Who does which task depends on time, so tasks must not.
class Team {
 public:
  explicit Team(int threads) : threads_(threads) {}

  // Calls body(work, task, worker) for every task from 0 to count - 1. The worker is below
  // the number of threads, for scratch memory of its own; most bodies have enough of the stack.
  template <class Work>
  void each(int64_t count, const Work& work,
            void (*body)(const Work& work, int64_t task, int worker)) {
    if (threads_ == 1 || count == 1) {
      for (int64_t task = 0; task < count; ++task) body(work, task, 0);
      return;
    }
    struct Call {
      const Work* work;
      void (*body)(const Work&, int64_t, int);
      int64_t count;
      std::atomic<int64_t> next;
    } call{&work, body, count, {0}};
    const auto run = [](int64_t worker, void* context) noexcept {
      Call& c = *static_cast<Call*>(context);
      for (;;) {
        const int64_t task = c.next.fetch_add(1);
        if (task >= c.count) return;
        c.body(*c.work, task, static_cast<int>(worker));
      }
    };
    const Status status = parallel_for(threads_, run, &call);
    if (status != Status::ok) status_ = status;
  }

  Status status() const { return status_; }

 private:
  int threads_;
  Status status_ = Status::ok;
};

// How a batch is laid over threads; `multiplications` of one sample say whether sharing it pays.
struct SampleSchedule {
  int workers;
  bool shared;

  SampleSchedule(int64_t batch, int requested, double multiplications) {
    workers = requested < 1 ? 1 : requested;
    const bool uneven = batch < workers || (batch % workers != 0 && batch < 4 * workers);
    shared = workers > 1 && uneven && multiplications > 4e6;
    if (!shared && workers > batch) workers = batch < 1 ? 1 : static_cast<int>(batch);
  }

  int64_t slots() const { return shared ? 1 : workers; }

  // The threads that work on one sample.
  int team() const { return shared ? workers : 1; }
};

// One sample, on `threads` threads of the pool; memory is the worker's slot of scratch.
using SampleTask = Status (*)(const void* job, int64_t sample, char* memory, int threads);

// The workspace has this many bytes more than its slots, to align them.
constexpr int64_t kSlotAlignment = 64;

Status for_samples(const SampleSchedule& schedule, int64_t count, int64_t slot, void* workspace,
                   SampleTask task, const void* job) noexcept;

}  // namespace ccdn
