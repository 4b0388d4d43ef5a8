// What every native entry point returns; Python turns anything but ok into an exception.
#pragma once

namespace ccdn {

enum class Status : int {
  ok = 0,
  unsupported_dtype = 1,
  bad_argument = 2,
  parallel_failed = 3,
  // This and above: a CUDA launch failed, and the rest is its cudaError_t.
  cuda_error = 1000,
};

enum class Dtype : int { f32 = 0, f64 = 1, bf16 = 2, f16 = 3 };

}  // namespace ccdn
