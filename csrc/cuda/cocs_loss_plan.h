// How cocs_loss's kernels cut their work: plain arithmetic, for host, device and tests.
#pragma once

#include <cstdint>

#include "../common/cocs_loss.h"
#include "pack.cuh"

namespace ccdn::cuda {

constexpr int kCocsSamples = 64;      // of one excitation, the most that a block takes
constexpr int kCocsNumbers = 4096;    // about as many numbers as a block should have
constexpr int kLevelsPerLaunch = 16;  // they travel by value

// One level and what a launch has to know of it.
struct CocsTask {
  CocsLevel level;
  int64_t number;    // which of the levels it is
  int64_t samples;   // of a block
  int64_t chunks;    // blocks for one excitation
  int64_t end;       // pieces of this launch's levels up to this one: chunks of each excitation
  int64_t sums;      // where its (P, D) lie: elements from the start of the sums
  int64_t products;  // ... and its (P, P): elements from the start of the workspace, all double
  int64_t parts;     // ... and there forward (chunks, P, D), backward (P, D)

  __host__ __device__ int64_t size() const { return level.excitations * level.channels; }
};

struct CocsTasks {
  int count;
  CocsTask task[kLevelsPerLaunch];
};

// Walks through the levels of a call in groups of kLevelsPerLaunch.
class CocsPlan {
 public:
  CocsPlan(const CocsShape& shape, bool backward) : shape_(shape), backward_(backward) {}

  // The next group; false when there is none. `workspace` doubles are in use up to its end.
  bool next(CocsTasks& tasks) {
    tasks.count = 0;
    int64_t pieces = 0;
    while (level_ < shape_.count && tasks.count < kLevelsPerLaunch) {
      CocsTask& task = tasks.task[tasks.count++];
      task.level = shape_.levels[level_];
      task.number = level_++;
      const int64_t fitting = kCocsNumbers / task.level.channels;
      task.samples = fitting < 1 ? 1 : fitting < kCocsSamples ? fitting : kCocsSamples;
      task.chunks = round_up_quotient(task.level.batch, task.samples);
      pieces += task.chunks * task.level.excitations;
      task.end = pieces;
      task.sums = sums_;
      sums_ += task.size();
      task.products = workspace_;
      workspace_ += task.level.excitations * task.level.excitations;
      task.parts = workspace_;
      workspace_ += task.size() * (backward_ ? 1 : task.chunks);
    }
    return tasks.count > 0;
  }

  int64_t workspace() const { return workspace_; }

 private:
  const CocsShape& shape_;
  bool backward_;
  int64_t level_ = 0, sums_ = 0, workspace_ = 0;
};

}  // namespace ccdn::cuda
