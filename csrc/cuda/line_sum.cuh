// Sums along the lines of a matrix of any strides, a few lines for each block, in float64.
#pragma once

#include <cstdint>

namespace ccdn::cuda {

constexpr int kLineThreads = 256;

// Lines that one block sums: a warp for each if lines are contiguous in memory, a lane for each if
// neighbouring lines are adjacent.
inline __host__ __device__ int lines_of_block(bool line_is_contiguous) {
  return line_is_contiguous ? kLineThreads / 32 : 32;
}

// The sum over k < depth of value(line0 + i, k), returned to thread i < lines_of_block(...) (other
// threads and lines beyond `lines` get 0). Every thread of the block must call it. The order of the
// additions depends on the shape only.
template <typename Value>
__device__ double line_sum(int64_t line0, int64_t lines, int64_t depth, bool line_is_contiguous,
                           Value value) {
  constexpr int kWarps = kLineThreads / 32;
  __shared__ double parts[32 * (kWarps + 1)];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int line = line_is_contiguous ? warp : lane;
  const int slot = line_is_contiguous ? lane : warp;
  const int slots = line_is_contiguous ? 32 : kWarps;
  double sum = 0;
  if (line0 + line < lines) {
#pragma unroll 8
    for (int64_t k = slot; k < depth; k += slots) sum += value(line0 + line, k);
  }
  // One more entry a line, so that the threads that add up do not meet in one bank.
  parts[line * (slots + 1) + slot] = sum;
  __syncthreads();
  double result = 0;
  if (threadIdx.x < static_cast<unsigned>(lines_of_block(line_is_contiguous))) {
    for (int s = 0; s < slots; ++s) result += parts[threadIdx.x * (slots + 1) + s];
  }
  __syncthreads();
  return result;
}

}  // namespace ccdn::cuda
