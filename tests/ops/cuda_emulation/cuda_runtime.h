// Stands in for CUDA's own header, so that a .cu file compiles as C++ and its kernels run on the
// CPU: blocks one after another, the threads of a block as coroutines that change at
// __syncthreads(). For tests only; csrc does not depend on it.
//
// What it catches: wrong values and indices, out-of-bounds shared memory (with -fsanitize=bounds),
// addresses that their type does not allow (-fsanitize=alignment), barriers that not every thread
// of a block reaches, and, because the order in which threads run between two barriers can be
// chosen, missing barriers that change a value; races.cpp finds those that change none.
// cuda/instructions.cuh has the instructions of a warp. What it cannot: memory ordering, limits of
// registers and of shared memory.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "races.h"

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline
// One block runs at a time, so that one copy is enough.
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorLaunchFailure = 719,
  cudaErrorInvalidClusterSize = 912
};
using cudaStream_t = struct CUstream_st*;

enum cudaLaunchAttributeID {
  cudaLaunchAttributeClusterDimension = 4,
  cudaLaunchAttributeProgrammaticStreamSerialization = 6
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
    int programmaticStreamSerializationAllowed;
  } val;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

// Blocks that run at the same time, a cluster, and the first of them; their threads are coroutines
// of one Block, numbered through.
inline unsigned cluster_blocks = 1, first_block = 0;
inline unsigned thread_of_cluster() {
  return (blockIdx.x - first_block) * blockDim.x + threadIdx.x;
}
constexpr unsigned kMostBlocks = 8, kMostThreads = 4096, kBytesOfBlock = 96 << 10;

// How the threads of a block take turns between two barriers: 0 in order, 1 in reverse, else a
// random order for every turn.
inline unsigned thread_order = 0;
// Grids are cut to this many blocks when it is not 0: the kernels' grid-stride loops do the rest.
inline unsigned largest_grid = 0;
inline int64_t launches = 0, launches_of_clusters = 0;
// Launches run only the blocks listed for them here, one list after another, as long as there are
// lists; else, when this is not 0, the last blocks, in which the last of so many samples is.
inline std::vector<std::vector<unsigned>> only_blocks;
inline int64_t last_of_samples = 0;
// Of the launch that runs: threads that have waited for the one before. It need not wait, but one
// that overlaps must.
inline int64_t threads_that_waited = 0;
// While rehearsing, launches run no block and are listed here.
struct Launched {
  const void* kernel;
  int64_t blocks, threads, cluster, bytes;  // of the grid, of a block, of a cluster; dynamic
  int64_t overlaps;
};
inline bool rehearsing = false;
inline std::vector<Launched> launched;
// A launch on another stream fails.
inline cudaStream_t expected_stream = nullptr;
inline cudaError_t last_error = cudaSuccess;

inline std::vector<unsigned> chosen_blocks(unsigned count) {
  std::vector<unsigned> found;
  if (!only_blocks.empty()) {
    found = only_blocks.front();
    only_blocks.erase(only_blocks.begin());
    return found;
  }
  unsigned first = 0;
  if (last_of_samples != 0) {
    const int64_t share = (count + last_of_samples - 1) / last_of_samples + 1;
    if (share < count) first = count - unsigned(share);
  }
  for (unsigned b = first; b < count; ++b) found.push_back(b);
  return found;
}

// The coroutines live as long as the process and are started once; from then on they change by
// _setjmp and _longjmp, which cost no system call.
class Block {
 public:
  static constexpr size_t kStackBytes = 64 << 10;

  // False when some threads ended, or waited for their warp, while others waited at a barrier.
  bool run(unsigned threads, const std::function<void()>& body) {
    while (fibers_.size() < threads) fibers_.push_back(std::make_unique<Fiber>());
    body_ = &body;
    for (unsigned t = 0; t < threads; ++t) fibers_[t]->state = State::running;
    std::fill(std::begin(turns_), std::end(turns_), 0u);
    std::vector<unsigned> order(threads);
    std::iota(order.begin(), order.end(), 0u);
    if (thread_order == 1) std::reverse(order.begin(), order.end());
    std::mt19937 random(thread_order);
    for (;;) {
      if (thread_order > 1) std::shuffle(order.begin(), order.end(), random);
      for (unsigned t : order) resume(t);
      // A warp continues alone to the next barrier of the block.
      for (unsigned t : order) {
        while (fibers_[t]->state == State::at_warp) {
          if (!release_warp(t / 32, threads)) return failed();
          for (unsigned other : order) {
            if (other / 32 == t / 32) resume(other);
          }
        }
      }
      unsigned ended = 0;
      for (unsigned t : order) ended += fibers_[t]->state == State::done;
      if (ended == threads) return true;
      if (ended != 0) return failed();
      races::all_have_met();
      for (unsigned t : order) fibers_[t]->state = State::running;
    }
  }

  enum class State { running, at_warp, at_block, done };

  // The thread's turn ends here, at a barrier of its block or of its warp.
  void barrier(State reached) {
    running_->state = reached;
    if (_setjmp(running_->place) == 0) _longjmp(scheduler_, 1);
  }

  // How often a warp has met at a barrier of its own.
  unsigned turn(unsigned warp) const { return turns_[warp]; }

  static Block& current() {
    static Block block;
    return block;
  }

 private:
  struct Fiber {
    ucontext_t context;
    jmp_buf place;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    bool started = false;
    State state = State::running;
  };

  // Whether all threads of the warp have met; then they may continue.
  bool release_warp(unsigned warp, unsigned threads) {
    const unsigned first = warp * 32, end = std::min(first + 32, threads);
    for (unsigned t = first; t < end; ++t) {
      if (fibers_[t]->state != State::at_warp) return false;
    }
    for (unsigned t = first; t < end; ++t) fibers_[t]->state = State::running;
    ++turns_[warp];
    return true;
  }

  bool failed() {
    fibers_.clear();  // they are in the middle of a kernel that ends here
    return false;
  }

  __attribute__((noinline)) void resume(unsigned t) {
    Fiber& fiber = *fibers_[t];
    if (fiber.state != State::running) return;
    threadIdx = dim3(t % blockDim.x, 0, 0);
    blockIdx = dim3(first_block + t / blockDim.x, 0, 0);
    running_ = &fiber;
    races::thread_runs(t, fiber.stack.get(), fiber.stack.get() + kStackBytes);
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Block::live, 0);
    setcontext(&fiber.context);
  }

  static void live() {
    Block& block = current();
    for (;;) {
      const std::function<void()>& body = *block.body_;
      races::watching(true);
      body();
      races::watching(false);
      block.barrier(State::done);
    }
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  const std::function<void()>* body_ = nullptr;
  Fiber* running_ = nullptr;
  unsigned turns_[kMostThreads / 32] = {};
  jmp_buf scheduler_;
};

// threadIdx is one variable for all coroutines: each finds its own again after its turn.
inline void wait_at(Block::State reached) {
  const races::Unwatched meanwhile;
  const dim3 mine = threadIdx, block = blockIdx;
  Block::current().barrier(reached);
  threadIdx = mine;
  blockIdx = block;
}
inline void sync_warp() { wait_at(Block::State::at_warp); }
inline unsigned turn_of_warp() { return Block::current().turn(thread_of_cluster() / 32); }

}  // namespace emulation

inline void __syncthreads() {
  // One barrier serves a cluster: that of a single block of several is not here.
  if (emulation::cluster_blocks != 1) __builtin_trap();
  emulation::wait_at(emulation::Block::State::at_block);
}

inline void __syncwarp() { emulation::sync_warp(); }

// Products are not fused with sums here unless the compiler is asked for it.
inline double __dmul_rn(double a, double b) { return a * b; }

// What a driver answers that is asked about a kernel; emulated_driver() in library.cpp sets it.
namespace emulation {
inline cudaError_t driver_error = cudaSuccess;
inline int driver_version = 13000;
inline int64_t driver_questions = 0;
// Of the device, and of what the kernels were compiled for: 90 and more have clusters.
inline int device_architecture = 90, compiled_for = 90;
// Blocks of the largest cluster that the device has room for.
inline unsigned room_for_blocks = kMostBlocks;
}  // namespace emulation

struct cudaFuncAttributes {
  int ptxVersion;
};

inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
  ++emulation::driver_questions;
  found->ptxVersion = emulation::compiled_for;
  return emulation::last_error = emulation::driver_error;
}
// Bytes of dynamic shared memory that a block of a kernel may have; without asking, 48 KB.
namespace emulation {
inline std::map<const void*, size_t> bytes_allowed;
inline size_t most_bytes(const void* kernel) {
  const auto found = bytes_allowed.find(kernel);
  return found == bytes_allowed.end() ? size_t(48) << 10 : found->second;
}
}  // namespace emulation
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  if (bytes < 0 || size_t(bytes) > emulation::kBytesOfBlock) {
    return emulation::last_error = cudaErrorInvalidConfiguration;
  }
  emulation::bytes_allowed[kernel] = size_t(bytes);
  return cudaSuccess;
}
enum cudaDeviceAttr { cudaDevAttrClusterLaunch = 120 };  // from the same architecture on: overlaps
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = emulation::device_architecture >= 90;
  return cudaSuccess;
}
inline cudaError_t cudaOccupancyMaxActiveClusters(int* found, const void*,
                                                  const cudaLaunchConfig_t* config) {
  const unsigned blocks = config->numAttrs == 1 ? config->attrs[0].val.clusterDim.x : 1u;
  *found = blocks <= emulation::room_for_blocks;
  // Either answer: none at a time, or an error where there is room for no cluster at all.
  if (blocks == 1 || emulation::room_for_blocks > 1) return cudaSuccess;
  return emulation::last_error = cudaErrorInvalidClusterSize;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = emulation::driver_version;
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error"
         : error == cudaErrorInsufficientDriver
             ? "CUDA driver version is insufficient for CUDA runtime version"
             : "unknown error";
}

inline cudaError_t cudaGetLastError() { return std::exchange(emulation::last_error, cudaSuccess); }

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  using namespace emulation;
  ++launches;
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  if (config->stream != expected_stream) return last_error = cudaErrorInvalidResourceHandle;
  if (gridDim.x == 0 || blockDim.x == 0 || blockDim.x > 1024) {
    return last_error = cudaErrorInvalidConfiguration;
  }
  cluster_blocks = 1;
  bool overlaps = false;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config->attrs[i];
    if (attribute.id == cudaLaunchAttributeClusterDimension) {
      cluster_blocks = attribute.val.clusterDim.x;
    } else {
      overlaps = attribute.val.programmaticStreamSerializationAllowed != 0;
    }
  }
  launches_of_clusters += cluster_blocks > 1;
  if (cluster_blocks < 1 || cluster_blocks > room_for_blocks || gridDim.x % cluster_blocks != 0 ||
      cluster_blocks * blockDim.x > kMostThreads ||
      config->dynamicSmemBytes > most_bytes(reinterpret_cast<const void*>(kernel))) {
    return last_error = cudaErrorInvalidConfiguration;
  }
  if (rehearsing) {
    launched.push_back({reinterpret_cast<const void*>(kernel), gridDim.x, blockDim.x,
                        cluster_blocks, int64_t(config->dynamicSmemBytes), overlaps});
    return cudaSuccess;
  }
  if (largest_grid != 0) gridDim.x = std::min(gridDim.x, largest_grid * cluster_blocks);
  const std::tuple<std::remove_cv_t<Parameters>...> held(std::forward<Arguments>(arguments)...);
  const std::function<void()> body = [&] { std::apply(kernel, held); };
  races::launch_begins();
  threads_that_waited = 0;
  int64_t threads = 0;
  for (unsigned cluster : chosen_blocks(gridDim.x / cluster_blocks)) {
    first_block = cluster * cluster_blocks;
    races::block_begins(cluster);
    if (!Block::current().run(blockDim.x * cluster_blocks, body)) {
      return last_error = cudaErrorLaunchFailure;
    }
    threads += blockDim.x * cluster_blocks;
  }
  if (overlaps && threads_that_waited != threads) return last_error = cudaErrorLaunchFailure;
  return cudaSuccess;
}
