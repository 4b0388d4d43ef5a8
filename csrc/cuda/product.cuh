// The product of one tile of two operands, in tensor cores or, in double, in fused multiply-adds.
//
// On a napkin, for a tile of 64 x 64 and a slice of the sum 32 deep: the block stages 2 x 64 x 32
// numbers, 16 KB of float32, for 131072 multiply-adds, 8 to the byte; from L2 that is not what
// bounds it. Each of four warps makes 32 x 32 of the tile and reads its fragments from shared
// memory 2 x 32 x 32 numbers for 32768 multiply-adds, whose rows are 36 words apart so that the 8 x
// 4 lanes of a fragment meet in no bank. In three terms of TF32 there are 3 x 32 instructions of
// 1024 multiply-adds a warp, and 128 numbers a lane to split in four instructions each.
//
// float32 is multiplied in three terms: x = big + small, both TF32 (11 bits each), and
// big' big + (small' big + big' small), which leaves 2^-22 of a product. The accumulators of tensor
// cores round towards zero, so every slice starts from zero and is added in float32, the two small
// terms apart from the big one.
#pragma once

#include <cstdint>
#include <cstring>
#include <cuda/instructions.cuh>

#include "fragment.h"
#include "staging.cuh"

namespace ccdn::cuda {

// How two operands are multiplied: a template argument.
constexpr int kDouble = 0;     // fused multiply-adds of float64
constexpr int kTf32 = 1;       // one term: as good as float16
constexpr int kTf32x3 = 3;     // three: float32
constexpr int kBfloat16 = 16;  // operands rounded to it

template <int kProduct>
inline constexpr int kProductThreads = kProduct == kDouble ? kTileThreads : kTensorThreads;

template <int kProduct>
struct ProductOf {
  using Acc = float;
};
template <>
struct ProductOf<kDouble> {
  using Acc = double;
};

// In tensor cores ---------------------------------------------------------------------------------

template <int kProduct>
struct WordOf {
  using Type = float;
};
template <>
struct WordOf<kBfloat16> {
  using Type = __nv_bfloat16;
};
template <int kProduct>
using Word = typename WordOf<kProduct>::Type;

constexpr int kWarpTile = 32;  // rows and columns of a warp's part
constexpr int kRowFragments = 2, kColumnFragments = 4;
using WarpSums = float[kRowFragments][kColumnFragments][4];

// Two neighbours in 32 bits, at an even place.
__device__ __forceinline__ uint32_t pair_at(const __nv_bfloat16* first) {
  uint32_t pair;
  memcpy(&pair, __builtin_assume_aligned(first, 4), 4);
  return pair;
}

// big += and small += what the slice adds to the warp's part at (row, column) of the tile.
template <int kProduct>
__device__ __forceinline__ void multiply_slice(const Slice<Word<kProduct>>& left,
                                               const Slice<Word<kProduct>>& right, int row,
                                               int column, WarpSums& big, WarpSums& small) {
  const int lane = threadIdx.x % 32;
  if constexpr (kProduct == kBfloat16) {
    using Fragment = Bf16Fragment;
#pragma unroll
    for (int k0 = 0; k0 < kSlice; k0 += Fragment::kDepth) {
      uint32_t a[kRowFragments][4], b[kColumnFragments][2];
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          a[i][e] = pair_at(
              &left[row + i * 16 + Fragment::a_row(lane, e)][k0 + Fragment::a_depth(lane, e)]);
        }
      }
#pragma unroll
      for (int j = 0; j < kColumnFragments; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          b[j][e] = pair_at(&right[column + j * 8 + Fragment::b_column(lane, e)]
                                  [k0 + Fragment::b_depth(lane, e)]);
        }
      }
      multiply_bf16(big, a, b);
    }
  } else {
    using Fragment = Tf32Fragment;
#pragma unroll 2
    for (int k0 = 0; k0 < kSlice; k0 += Fragment::kDepth) {
      uint32_t a[kRowFragments][4], b[kColumnFragments][2];
      uint32_t a_rest[kRowFragments][4], b_rest[kColumnFragments][2];
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float value =
              left[row + i * 16 + Fragment::a_row(lane, e)][k0 + Fragment::a_depth(lane, e)];
          const float rounded = kProduct == kTf32x3 ? tf32_part(value) : to_tf32(value);
          a[i][e] = float_bits(rounded);
          a_rest[i][e] = float_bits(tf32_rest(value, rounded));
        }
      }
#pragma unroll
      for (int j = 0; j < kColumnFragments; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float value =
              right[column + j * 8 + Fragment::b_column(lane, e)][k0 + Fragment::b_depth(lane, e)];
          const float rounded = kProduct == kTf32x3 ? tf32_part(value) : to_tf32(value);
          b[j][e] = float_bits(rounded);
          b_rest[j][e] = float_bits(tf32_rest(value, rounded));
        }
      }
      if constexpr (kProduct == kTf32x3) {
        multiply_tf32(small, a_rest, b);
        multiply_tf32(small, a, b_rest);
      }
      multiply_tf32(big, a, b);
    }
  }
}

template <int kProduct, typename Left, typename Right, typename Store>
__device__ __forceinline__ void tensor_product(int64_t row0, int64_t rows, int64_t column0,
                                               int64_t columns, const Left& left,
                                               const Right& right, bool square, Store store) {
  using W = Word<kProduct>;
  alignas(16) __shared__ Slice<W> left_slice[2];
  alignas(16) __shared__ Slice<W> right_slice[2];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = warp / 2 * kWarpTile, column = warp % 2 * kWarpTile;
  typename Left::Pending left_pending;
  typename Right::Pending right_pending;
  const auto& right_now = square ? left_slice : right_slice;
  WarpSums total = {};
  const int64_t depth = left.depth();
  // Each turn asks for the next slice, multiplies this one and writes down what it asked for; the
  // first turn has nothing to multiply yet. The slice that it writes was read before the barrier.
#pragma unroll 1
  for (int64_t k0 = -kSlice; k0 < depth; k0 += kSlice) {
    const int64_t next = k0 + kSlice;
    const int now = int(k0 / kSlice) & 1, then = 1 - now;
    if (next < depth) {
      left_pending.template load<W>(left, row0, rows, next, left_slice[then]);
      if (!square) right_pending.template load<W>(right, column0, columns, next, right_slice[then]);
    }
    commit_copies();
    if (k0 >= 0) {
      WarpSums big = {}, small = {};
      multiply_slice<kProduct>(left_slice[now], right_now[now], row, column, big, small);
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
        for (int j = 0; j < kColumnFragments; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) total[i][j][e] += big[i][j][e] + small[i][j][e];
        }
      }
    }
    if (next < depth) {
      left_pending.template store<W>(left, row0, rows, next, left_slice[then]);
      if (!square)
        right_pending.template store<W>(right, column0, columns, next, right_slice[then]);
    }
    wait_for_copies<0>();
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
    for (int j = 0; j < kColumnFragments; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        store(row0 + row + i * 16 + result_row(lane, e),
              column0 + column + j * 8 + result_column(lane, e), total[i][j][e]);
      }
    }
  }
}

// store(i, j, sum over k of left(i, k) right(j, k)) for a tile of 64 x 64 at (row0, column0), whose
// entries beyond `rows` and `columns` of the operands are 0. `square`: both operands and places are
// the same, and one slice of them is enough. Every thread of the block must call it.
template <int kProduct, typename Left, typename Right, typename Store>
__device__ __forceinline__ void product_tile(int64_t row0, int64_t rows, int64_t column0,
                                             int64_t columns, const Left& left, const Right& right,
                                             bool square, Store store) {
  if constexpr (kProduct == kDouble) {
    // Its own bounds are those of the tile: what is beyond the operands is stored, too, as 0.
    tile_product<double>(
        row0, row0 + kTile, column0, column0 + kTile, left.depth(),
        TileOrder{left.along_depth(), right.along_depth(), false},
        [&](int64_t i, int64_t k) {
          const double value = double(left(i < rows ? i : rows - 1, k));
          return i < rows ? value : 0.0;
        },
        [&](int64_t k, int64_t j) {
          const int64_t last = right.depth() - 1;
          const double value = double(right(j < columns ? j : columns - 1, k < last ? k : last));
          return j < columns && k <= last ? value : 0.0;
        },
        store);
  } else {
    tensor_product<kProduct>(row0, rows, column0, columns, left, right, square, store);
  }
}

}  // namespace ccdn::cuda
