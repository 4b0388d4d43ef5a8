// Work on the threads of torch's own pool, without linking to torch.
#pragma once

#include <cstdint>

#include "common/status.h"

namespace ccdn {

// Hands over the address of torch_parallel_for (libtorch_cpu, torch >= 2.10); null means serial.
void set_parallel_for(void* address) noexcept;
bool has_parallel_for() noexcept;

// Calls body(index, context) once for every index in [0, count), on as many threads as torch gives,
// and returns when all have returned. The body must not throw. Serial without torch's pool.
Status parallel_for(int64_t count, void (*body)(int64_t index, void* context) noexcept,
                    void* context) noexcept;

}  // namespace ccdn
