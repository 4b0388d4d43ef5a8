// A tiled matrix product through shared memory for operands of any strides.
#pragma once

#include <cstdint>

namespace ccdn::cuda {

constexpr int kTile = 64;       // rows and columns of the tile that a block computes,
constexpr int kSmallTile = 32;  // and where there would be too few of those
constexpr int kDepth = 16;      // length of the slices that pass through shared memory
constexpr int kSpread = 16;     // threads along a side of the tile
constexpr int kTileThreads = kSpread * kSpread;

inline __host__ __device__ int64_t tiles(int64_t extent, int size = kTile) {
  return (extent + size - 1) / size;
}

// How the block's threads are laid over operands and result, so that neighbours touch neighbours.
struct TileOrder {
  bool left_along_depth;   // left(i, k) is contiguous in k, else in i
  bool right_along_depth;  // right(k, j) is contiguous in k, else in j
  bool result_along_rows;  // the result is contiguous in i, else in j
};

// Where in a slice the thread's load number e is: on which row or column of the tile, and how deep.
template <int kSize>
struct SlicePlace {
  int line, depth;

  __device__ SlicePlace(bool along_depth, int e) {
    const int at = e * kTileThreads + int(threadIdx.x);
    line = along_depth ? at / kDepth : at % kSize;
    depth = along_depth ? at % kDepth : at / kSize;
  }
};

// store(i, j, sum over k < depth of left(i, k) right(k, j)) for the tile at (row0, column0). Every
// thread of the block must call it. A slice's sum is added to the total as a whole, which keeps the
// rounding error of long sums near that of a blocked product.
template <typename Acc, int kSize = kTile, typename Left, typename Right, typename Store>
__device__ __forceinline__ void tile_product(int64_t row0, int64_t rows, int64_t column0,
                                             int64_t columns, int64_t depth, TileOrder order,
                                             Left left, Right right, Store store) {
  constexpr int kPerThread = kSize / kSpread;
  constexpr int kLoads = kSize * kDepth / kTileThreads;
  // One more entry a row: the transposing writes would otherwise meet in one bank.
  __shared__ Acc left_slice[kDepth][kSize + 1];
  __shared__ Acc right_slice[kDepth][kSize + 1];
  const int inner = threadIdx.x % kSpread, outer = threadIdx.x / kSpread;
  const int my_row = order.result_along_rows ? inner : outer;
  const int my_column = order.result_along_rows ? outer : inner;
  Acc total[kPerThread][kPerThread] = {};
  for (int64_t k0 = 0; k0 < depth; k0 += kDepth) {
    // Both operands are asked for before either is used, and what is outside is read at the edge
    // instead of being skipped: a branch around a load would make the next one wait for it.
    Acc from_left[kLoads], from_right[kLoads];
#pragma unroll
    for (int e = 0; e < kLoads; ++e) {
      const SlicePlace<kSize> place(order.left_along_depth, e);
      const int64_t i = row0 + place.line, k = k0 + place.depth;
      from_left[e] = left(i < rows ? i : rows - 1, k < depth ? k : depth - 1);
    }
#pragma unroll
    for (int e = 0; e < kLoads; ++e) {
      const SlicePlace<kSize> place(order.right_along_depth, e);
      const int64_t j = column0 + place.line, k = k0 + place.depth;
      from_right[e] = right(k < depth ? k : depth - 1, j < columns ? j : columns - 1);
    }
#pragma unroll
    for (int e = 0; e < kLoads; ++e) {
      const SlicePlace<kSize> place(order.left_along_depth, e);
      const bool inside = row0 + place.line < rows && k0 + place.depth < depth;
      left_slice[place.depth][place.line] = inside ? from_left[e] : Acc(0);
    }
#pragma unroll
    for (int e = 0; e < kLoads; ++e) {
      const SlicePlace<kSize> place(order.right_along_depth, e);
      const bool inside = column0 + place.line < columns && k0 + place.depth < depth;
      right_slice[place.depth][place.line] = inside ? from_right[e] : Acc(0);
    }
    __syncthreads();
    Acc sum[kPerThread][kPerThread] = {};
#pragma unroll 4
    for (int k = 0; k < kDepth; ++k) {
      Acc a[kPerThread], b[kPerThread];
#pragma unroll
      for (int r = 0; r < kPerThread; ++r) a[r] = left_slice[k][my_row + r * kSpread];
#pragma unroll
      for (int c = 0; c < kPerThread; ++c) b[c] = right_slice[k][my_column + c * kSpread];
#pragma unroll
      for (int r = 0; r < kPerThread; ++r) {
#pragma unroll
        for (int c = 0; c < kPerThread; ++c) sum[r][c] += a[r] * b[c];
      }
    }
#pragma unroll
    for (int r = 0; r < kPerThread; ++r) {
#pragma unroll
      for (int c = 0; c < kPerThread; ++c) total[r][c] += sum[r][c];
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < kPerThread; ++r) {
#pragma unroll
    for (int c = 0; c < kPerThread; ++c) {
      const int64_t i = row0 + my_row + r * kSpread, j = column0 + my_column + c * kSpread;
      if (i < rows && j < columns) store(i, j, total[r][c]);
    }
  }
}

}  // namespace ccdn::cuda
