// The product of one tile of two operands, in tensor cores or, in double, in fused multiply-adds.
//
// On a napkin, for a tile of 64 x 64 and a slice of the sum 32 deep: the block stages 2 x 64 x 32
// numbers, 16 KB of float32, for 131072 multiply-adds, 8 to the byte; from L2 that is not what
// bounds it. Each of four warps makes 32 x 32 of the tile and reads its fragments from shared
// memory 2 x 32 x 32 numbers for 32768 multiply-adds, whose rows are 36 words apart so that eight
// rows of a fragment meet in no bank. In three terms of TF32 there are 3 x 32 instructions of
// 1024 multiply-adds a warp, and 128 numbers a lane to split in four instructions each.
//
// float32 is multiplied in three terms: x = big + small, both TF32 (11 bits each), and
// big' big + (small' big + big' small), which leaves 2^-22 of a product. The accumulators of tensor
// cores round towards zero, so every slice starts from zero and is added in float32, the two small
// terms apart from the big one.
#pragma once

#include <cstdint>
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
// By pair of columns' fragments, fragment of rows, which of the pair.
using WarpSums = float[kColumnFragments / 2][kRowFragments][2][4];

// 16 rows of a slice, 32 bytes of the depth from k0 on, as mma.sync takes its left operand (16 x 16
// bfloat16, or 16 x 8 float32, which are pairs of 16 bits to the instruction). Of the right operand
// numbers 0 and 2 are the first eight columns, 1 and 3 the others.
template <typename W>
__device__ __forceinline__ void load_fragment(const Slice<W>& slice, int row, int k0,
                                              uint32_t (&to)[4]) {
  const int lane = threadIdx.x % 32;
  load_matrices(to, &slice[row + lane % 16][k0 + lane / 16 * (16 / int(sizeof(W)))]);
}

// Numbers of float32, and what TF32 leaves of them.
template <int kProduct>
__device__ __forceinline__ void split(uint32_t (&numbers)[4], uint32_t (&rest)[4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const float value = bits_float(numbers[e]);
    const float rounded = kProduct == kTf32x3 ? tf32_part(value) : to_tf32(value);
    numbers[e] = float_bits(rounded);
    rest[e] = float_bits(tf32_rest(value, rounded));
  }
}

// big += and small += what the slice adds to the warp's part at (row, column) of the tile.
template <int kProduct>
__device__ __forceinline__ void multiply_slice(const Slice<Word<kProduct>>& left,
                                               const Slice<Word<kProduct>>& right, int row,
                                               int column, WarpSums& big, WarpSums& small) {
  constexpr int kDepth = kProduct == kBfloat16 ? Bf16Fragment::kDepth : Tf32Fragment::kDepth;
#pragma unroll 2
  for (int k0 = 0; k0 < kSlice; k0 += kDepth) {
    uint32_t a[kRowFragments][4], a_rest[kRowFragments][4];
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
      load_fragment(left, row + i * 16, k0, a[i]);
      if constexpr (kProduct != kBfloat16) split<kProduct>(a[i], a_rest[i]);
    }
#pragma unroll
    for (int j = 0; j < kColumnFragments / 2; ++j) {
      uint32_t both[4], rest[4] = {};
      load_fragment(right, column + j * 16, k0, both);
      if constexpr (kProduct != kBfloat16) split<kProduct>(both, rest);
      const uint32_t b[2][2] = {{both[0], both[2]}, {both[1], both[3]}};
      const uint32_t b_rest[2][2] = {{rest[0], rest[2]}, {rest[1], rest[3]}};
      if constexpr (kProduct == kBfloat16) {
        multiply_bf16(big[j], a, b);
      } else {
        if constexpr (kProduct == kTf32x3) {
          multiply_tf32(small[j], a_rest, b);
          multiply_tf32(small[j], a, b_rest);
        }
        multiply_tf32(big[j], a, b);
      }
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
  // Each iteration asks for the next slice, multiplies this one and then stores what it asked for;
  // the first has nothing to multiply yet. The slice that it overwrites was read before the
  // barrier.
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
          for (int e = 0; e < 4; ++e) {
            total[j / 2][i][j % 2][e] += big[j / 2][i][j % 2][e] + small[j / 2][i][j % 2][e];
          }
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
              column0 + column + j * 8 + result_column(lane, e), total[j / 2][i][j % 2][e]);
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
