// Which entries of a product's operands and result a lane of a warp holds for mma.sync (PTX ISA,
// "Matrix fragments for mma"): plain arithmetic, for device and tests.
#pragma once

#include <cuda_runtime.h>

namespace ccdn::cuda {

// a (16 x 8) b (8 x 8) in TF32: entry i of the four of a, two of b, four of the result.
struct Tf32Fragment {
  static constexpr int kDepth = 8;
  static constexpr int kEntries = 1;  // in 32 bits
  static __host__ __device__ constexpr int a_row(int lane, int i) { return lane / 4 + i % 2 * 8; }
  static __host__ __device__ constexpr int a_depth(int lane, int i) { return lane % 4 + i / 2 * 4; }
  static __host__ __device__ constexpr int b_depth(int lane, int i) { return lane % 4 + i * 4; }
  static __host__ __device__ constexpr int b_column(int lane, int) { return lane / 4; }
};

// a (16 x 16) b (16 x 8) in bfloat16: the first of the pair i, whose second is one deeper.
struct Bf16Fragment {
  static constexpr int kDepth = 16;
  static constexpr int kEntries = 2;
  static __host__ __device__ constexpr int a_row(int lane, int i) { return lane / 4 + i % 2 * 8; }
  static __host__ __device__ constexpr int a_depth(int lane, int i) {
    return lane % 4 * 2 + i / 2 * 8;
  }
  static __host__ __device__ constexpr int b_depth(int lane, int i) { return lane % 4 * 2 + i * 8; }
  static __host__ __device__ constexpr int b_column(int lane, int) { return lane / 4; }
};

// Of either.
__host__ __device__ constexpr int result_row(int lane, int i) { return lane / 4 + i / 2 * 8; }
__host__ __device__ constexpr int result_column(int lane, int i) { return lane % 4 * 2 + i % 2; }

}  // namespace ccdn::cuda
