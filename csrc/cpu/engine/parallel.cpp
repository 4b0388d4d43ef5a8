#include "cpu/engine/parallel.h"

#include <atomic>

namespace ccdn {
namespace {

// torch/csrc/stable/c/shim.h; the result is 0 when all went well.
using TorchParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain,
                                     void (*function)(int64_t, int64_t, void*), void* context);

std::atomic<TorchParallelFor> torch_parallel_for{nullptr};

struct Work {
  void (*body)(int64_t, void*) noexcept;
  void* context;
};

void run(int64_t begin, int64_t end, void* context) noexcept {
  const Work& work = *static_cast<const Work*>(context);
  for (int64_t index = begin; index < end; ++index) work.body(index, work.context);
}

}  // namespace

void set_parallel_for(void* address) noexcept {
  torch_parallel_for.store(reinterpret_cast<TorchParallelFor>(address));
}

bool has_parallel_for() noexcept { return torch_parallel_for.load() != nullptr; }

Status parallel_for(int64_t count, void (*body)(int64_t index, void* context) noexcept,
                    void* context) noexcept {
  Work work{body, context};
  const TorchParallelFor pool = torch_parallel_for.load();
  if (pool == nullptr || count <= 1) {
    run(0, count, &work);
    return Status::ok;
  }
  return pool(0, count, 1, run, &work) == 0 ? Status::ok : Status::parallel_failed;
}

}  // namespace ccdn
