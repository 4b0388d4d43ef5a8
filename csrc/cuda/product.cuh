// The product of one tile of two operands, in tensor cores or, in double, in fused multiply-adds.
//
// On a napkin, for a tile of 64 x 64 and a slice of the sum 32 deep: the block stages 2 x 64 x 32
// numbers, 16 KB of float32, for 131072 multiply-adds, 8 to the byte; from L2 that is not what
// bounds it. Each of four warps makes 32 x 32 of the tile and reads its fragments from shared
// memory 2 x 32 x 32 numbers for 32768 multiply-adds, whose rows are 36 words apart so that the 8 x
// 4 lanes of a fragment meet in no bank. In three terms of TF32 there are 3 x 32 instructions of
// 1024 multiply-adds a warp, beside 128 numbers a lane to split: about as many issue slots again.
//
// float32 is multiplied in three terms: x = big + small, both TF32 (11 bits each), and
// big' big + (small' big + big' small), which leaves 2^-22 of a product. The accumulators of tensor
// cores round towards zero, so every slice starts from zero and is added in float32, the two small
// terms apart from the big one.
//
// Matrices come by cp.async, two slices in flight. Not by sm_90's bulk copies: a bulk copy without
// a tensor map lays its rows end to end, 128 bytes apart, where the eight rows of a fragment meet
// in four banks; one for each row would take 64 instructions where cp.async takes four a thread.
// Features go through registers, where they are centred and converted.
#pragma once

#include <cstdint>
#include <cstring>
#include <cuda/instructions.cuh>

#include "element.cuh"
#include "fragment.h"
#include "symmetric_plan.h"
#include "tile_product.cuh"

namespace ccdn::cuda {

// How two operands are multiplied: a template argument.
constexpr int kDouble = 0;     // fused multiply-adds of float64
constexpr int kTf32 = 1;       // one term: as good as float16
constexpr int kTf32x3 = 3;     // three: float32
constexpr int kBfloat16 = 16;  // operands rounded to it

template <int kProduct>
inline constexpr int kProductThreads = kProduct == kDouble ? kTileThreads : 128;

template <int kProduct>
struct ProductOf {
  using Acc = float;
};
template <>
struct ProductOf<kDouble> {
  using Acc = double;
};

// Operands, seen as rows x depth --------------------------------------------------------------

// One symmetric matrix or two, the second one's columns behind the first one's, in panels
// (symmetric_plan.h). Its rows have the padding of the panels, which is 0, as its depth.
template <typename Acc>
struct PanelOperand {
  static constexpr bool kStagedByCopies = true;
  const Acc *first, *second;  // of a sample; second is null where there is one
  int64_t n;

  __device__ int64_t panels() const { return panel_count<Acc>(n); }
  __device__ int64_t depth() const {
    return panels() * kPanelColumns<Acc> * (second != nullptr ? 2 : 1);
  }
  __device__ bool along_depth() const { return true; }
  // Row `row` of 128 bytes of a panel: of the columns from `k` on, a multiple of its width.
  __device__ const Acc* line(int64_t row, int64_t k) const {
    const int64_t panel = k / kPanelColumns<Acc>;
    const bool behind = panel >= panels();
    return (behind ? second : first) +
           ((behind ? panel - panels() : panel) * n + row) * kPanelColumns<Acc>;
  }
  __device__ Acc operator()(int64_t row, int64_t k) const {
    return line(row, k)[k % kPanelColumns<Acc>];
  }
};

enum class MeanOf { nothing, row, depth };

// Features of a sample in any layout, centred as they are read.
template <typename T>
struct FeatureOperand {
  static constexpr bool kStagedByCopies = false;
  const T* data;
  int64_t row_stride, depth_stride;
  int64_t length;  // of the depth
  const Accumulator<T>*mean, *rest;
  MeanOf mean_of;

  __device__ int64_t depth() const { return length; }
  __device__ bool along_depth() const { return depth_stride <= row_stride; }
  __device__ Accumulator<T> operator()(int64_t row, int64_t k) const {
    const Accumulator<T> value = Element<T>::load(data[row * row_stride + k * depth_stride]);
    if (mean_of == MeanOf::nothing) return value;
    const int64_t c = mean_of == MeanOf::row ? row : k;
    return (value - mean[c]) - rest[c];
  }
  // The same numbers, rows and depth exchanged.
  __device__ FeatureOperand turned(int64_t rows) const {
    const MeanOf other = mean_of == MeanOf::row     ? MeanOf::depth
                         : mean_of == MeanOf::depth ? MeanOf::row
                                                    : MeanOf::nothing;
    return {data, depth_stride, row_stride, rows, mean, rest, other};
  }
};

// In tensor cores ---------------------------------------------------------------------------------

constexpr int kSlice = 32;  // of the depth, staged at a time

template <int kProduct>
struct Staged {
  using Word = float;
  static constexpr int kStride = kSlice + 4;
};
template <>
struct Staged<kBfloat16> {
  using Word = __nv_bfloat16;
  static constexpr int kStride = kSlice + 8;
};

template <int kProduct>
using Slice = typename Staged<kProduct>::Word[kTile][Staged<kProduct>::kStride];

// Rows row0 .. row0 + 63 of the operand, from k0 on; zeros outside of it.
template <int kProduct, typename Operand>
__device__ __forceinline__ void stage(const Operand& x, int64_t row0, int64_t rows, int64_t k0,
                                      Slice<kProduct>& to) {
  constexpr int kThreads = kProductThreads<kProduct>;
  if constexpr (Operand::kStagedByCopies) {
    static_assert(kPanelColumns<float> == kSlice, "a slice is a panel");
#pragma unroll
    for (int e = 0; e < kTile * kSlice / 4 / kThreads; ++e) {
      const int at = e * kThreads + int(threadIdx.x), i = at / (kSlice / 4);
      const int part = at % (kSlice / 4) * 4;
      const bool inside = row0 + i < rows;
      // What is not inside is not read, but its address is formed.
      copy_async(&to[i][part], x.line(inside ? row0 + i : 0, k0) + part, inside);
    }
  } else {
    const bool along = x.along_depth();
#pragma unroll 4
    for (int at = threadIdx.x; at < kTile * kSlice; at += kThreads) {
      const int i = along ? at / kSlice : at % kTile, k = along ? at % kSlice : at / kTile;
      const bool inside = row0 + i < rows && k0 + k < x.depth();
      const float value = inside ? float(x(row0 + i, k0 + k)) : 0.f;
      if constexpr (kProduct == kBfloat16) {
        to[i][k] = __float2bfloat16(value);
      } else {
        to[i][k] = value;
      }
    }
  }
}

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
__device__ __forceinline__ void multiply_slice(const Slice<kProduct>& left,
                                               const Slice<kProduct>& right, int row, int column,
                                               WarpSums& big, WarpSums& small) {
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
          const float rounded = to_tf32(value);
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
          const float rounded = to_tf32(value);
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
                                               const Right& right, Store store) {
  alignas(16) __shared__ Slice<kProduct> left_slice[2];
  alignas(16) __shared__ Slice<kProduct> right_slice[2];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = warp / 2 * kWarpTile, column = warp % 2 * kWarpTile;
  WarpSums total = {};
  const int64_t slices = (left.depth() + kSlice - 1) / kSlice;
  stage<kProduct>(left, row0, rows, 0, left_slice[0]);
  stage<kProduct>(right, column0, columns, 0, right_slice[0]);
  commit_copies();
  for (int64_t s = 0; s < slices; ++s) {
    const int now = int(s % 2);
    if (s + 1 < slices) {
      stage<kProduct>(left, row0, rows, (s + 1) * kSlice, left_slice[1 - now]);
      stage<kProduct>(right, column0, columns, (s + 1) * kSlice, right_slice[1 - now]);
    }
    commit_copies();
    wait_for_copies<1>();
    __syncthreads();
    WarpSums big = {}, small = {};
    multiply_slice<kProduct>(left_slice[now], right_slice[now], row, column, big, small);
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
      for (int j = 0; j < kColumnFragments; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) total[i][j][e] += big[i][j][e] + small[i][j][e];
      }
    }
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
// entries beyond `rows` and `columns` of the operands are 0. Every thread of the block must call
// it.
template <int kProduct, typename Left, typename Right, typename Store>
__device__ __forceinline__ void product_tile(int64_t row0, int64_t rows, int64_t column0,
                                             int64_t columns, const Left& left, const Right& right,
                                             Store store) {
  if constexpr (kProduct == kDouble) {
    // Its own bounds are those of the tile: what is beyond the operands is stored, too, as 0.
    tile_product<double>(
        row0, row0 + kTile, column0, column0 + kTile, left.depth(),
        TileOrder{left.along_depth(), right.along_depth(), false},
        [&](int64_t i, int64_t k) { return i < rows ? double(left(i, k)) : 0.0; },
        [&](int64_t k, int64_t j) {
          return j < columns && k < right.depth() ? double(right(j, k)) : 0.0;
        },
        store);
  } else {
    tensor_product<kProduct>(row0, rows, column0, columns, left, right, store);
  }
}

}  // namespace ccdn::cuda
