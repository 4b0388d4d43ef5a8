// covariance_pool of bfloat16 features in one reading of them: the tiles of half the matrix, with
// the means that they subtract found on the way.
//
// A channel is shifted by the mean of a few of its numbers, rounded to bfloat16, before it is
// multiplied: y = x - s, rounded once. With the sums of y the covariance is
//
//   S_ij = (sum y_i y_j) / N - (sum y_i / N) (sum y_j / N)
//
// exactly that of y, whatever the shift is; a shift near the mean only keeps the two terms from
// being much larger than their difference (ShiftPlaces). The sums are products with ones.
//
// On a napkin, for D = 512, N = 1024: a tile of 128 x 128 reads 2 x 256 KB (one on the diagonal)
// for 33.5 MFLOP, ten of sixteen tiles: 4 MB a sample from L2, 64 samples in 36 us of its 7.4 TB/s;
// 21.5 GFLOP for them and one in eight more for the sums, 39 us of the 620 TFLOP/s that mma.sync
// reaches of an H100's 990. Memory has 101 MB, 21 us of an H200's 4.8 TB/s. So tensor cores bound
// it, and a pass before that finds the means would cost its 14 us of memory on top. Each of four
// warps makes 64 x 64: for 16 positions it reads 4 KB of fragments, 32 cycles of the shared
// memory's for 36 instructions of 6, and shifts its 128 numbers a lane in 32 instructions.
#pragma once

#include <cstdint>
#include <cstring>
#include <cuda/instructions.cuh>

#include "covariance_plan.h"
#include "element.cuh"
#include "fragment.h"
#include "pack.cuh"
#include "symmetric_kernels.cuh"
#include "symmetric_numbers.cuh"

namespace ccdn::cuda {

struct CovarianceArguments {
  const __nv_bfloat16* x;
  int64_t batch, channels, positions;
  int64_t stride_b, stride_d, stride_n;
  float* means;     // (B, D)
  double* squares;  // (B, D), sums of squares of the centred rows
  __nv_bfloat16* covariance;
  bool packs;  // whether rows of the covariance are whole packs
};

using ShiftedPack = Pack<__nv_bfloat16, kCovariancePack>;

// What a block has in shared memory; the tile takes the slices' place.
struct CovarianceMemory {
  static constexpr int kPacks = kCovarianceTile * kCovarianceSlice / kCovariancePack;
  // Rows are apart so that the lanes of a fragment meet in no bank.
  static constexpr int kTileStride = kCovarianceTile + 8;
  union {
    ShiftedPack slice[kCovarianceStages][2][kPacks];
    __nv_bfloat16 tile[kCovarianceTile][kTileStride];
  };
  __nv_bfloat16 shift[2][kCovarianceTile];  // of the rows, of the columns
  float sum[2][kCovarianceTile];            // of y
};

// The channels that one side of a tile has: 128 from `first` on, fewer at the end.
template <bool kTurned>
struct ChannelRows {
  const __nv_bfloat16* data;  // of the first one
  int count, positions;
  int64_t channel_stride, position_stride;

  __device__ ChannelRows(const CovarianceArguments& p, int64_t b, int64_t first)
      : data(p.x + b * p.stride_b + first * p.stride_d),
        count(p.channels - first < kCovarianceTile ? int(p.channels - first) : kCovarianceTile),
        positions(int(p.positions)),
        channel_stride(kTurned ? 1 : p.stride_d),
        position_stride(kTurned ? p.stride_n : 1) {}

  // Of a channel: 0 of those that are not there.
  __device__ __nv_bfloat16 shift(int row) const {
    float mean = 0;
    if (row < count) {
      constexpr int kWidth = kTurned ? 1 : kCovariancePack;
      const ShiftPlaces places(positions, kWidth);
      const float share = 1.f / float(places.count * kWidth);
      const __nv_bfloat16* from = data + row * channel_stride;
#pragma unroll 4
      for (int i = 0; i < places.count; ++i) {
        const auto pack = *reinterpret_cast<const Pack<__nv_bfloat16, kWidth>*>(
            from + int64_t(places.place(i) * kWidth) * position_stride);
#pragma unroll
        for (int v = 0; v < kWidth; ++v) mean += share * __bfloat162float(pack.value[v]);
      }
    }
    return __float2bfloat16(mean);
  }

  // The thread's packs of the positions from k0 on are on their way. Behind the last position comes
  // the shift itself, so that y is 0 there.
  __device__ __forceinline__ void stage(int k0, const __nv_bfloat16 (&shifts)[kCovarianceTile],
                                        ShiftedPack (&to)[CovarianceMemory::kPacks]) const {
    constexpr int kLine = (kTurned ? kCovarianceTile : kCovarianceSlice) / kCovariancePack;
    constexpr int kStep = kCovarianceThreads / kLine;
    constexpr int kPerThread = CovarianceMemory::kPacks / kCovarianceThreads;
    const int thread = made_here(threadIdx.x), line = thread / kLine;
    const int pack = thread % kLine * kCovariancePack;
    const int64_t line_stride = kTurned ? position_stride : channel_stride;
    const __nv_bfloat16* from = data + k0 * position_stride + line * line_stride + pack;
    const auto copy = [&](int e) {
      // What is not inside is not read, but its address is formed.
      const bool is_row = (kTurned ? pack : line + e * kStep) < count;
      copy_async(&to[kTurned ? slice_pack<true>(pack, line) + e * kStep * kLine
                             : slice_pack<false>(line, pack) + e * kStep * kLine],
                 is_row ? from + e * kStep * line_stride : data, is_row);
    };
    if (k0 + kCovarianceSlice <= positions) {
#pragma unroll
      for (int e = 0; e < kPerThread; ++e) copy(e);
      return;
    }
#pragma unroll 1
    for (int e = 0; e < kPerThread; ++e) {
      const int row = kTurned ? pack : line + e * kStep, depth = kTurned ? line + e * kStep : pack;
      if (k0 + depth < positions || row >= count) {
        copy(e);
        continue;
      }
      ShiftedPack& place = to[slice_pack<kTurned>(row, depth)];
      for (int v = 0; v < kCovariancePack; ++v) place.value[v] = shifts[kTurned ? row + v : row];
    }
  }
};

// 16 channels by 16 positions of a slice as mma.sync takes its left operand, shifted. For columns:
// numbers 0 and 2 are its right operand for the first eight channels, 1 and 3 for the others.
template <bool kTurned>
__device__ __forceinline__ void load_shifted(const ShiftedPack (&slice)[CovarianceMemory::kPacks],
                                             int row, int depth, const uint32_t (&shift)[2],
                                             uint32_t (&to)[4]) {
  const int lane = threadIdx.x % 32, matrix = lane / 8, line = lane % 8;
  const int side = matrix % 2 * 8, deep = matrix / 2 * 8;
  if constexpr (kTurned) {
    load_matrices_turned(to, &slice[slice_pack<true>(row + side, depth + deep + line)]);
  } else {
    // `row` is a multiple of 16: it has no part in how packs are exchanged.
    load_matrices(to, &slice[slice_pack<false>(side + line, depth + deep)] +
                          row * (kCovarianceSlice / kCovariancePack));
  }
#pragma unroll
  for (int e = 0; e < 4; ++e) to[e] = subtract_bf16(to[e], shift[e % 2]);
}

// A warp's 64 x 64: four fragments of rows by four of columns, in two halves. The two warps that
// have the same rows begin with different halves of them, each adding up its first one, and so with
// columns.
struct WarpPlace {
  int row[2], column[2];

  explicit __device__ WarpPlace(int thread) {
    const int down = thread / 64, across = thread / 32 % 2;
    row[0] = down * 64 + across * 32;
    row[1] = down * 64 + 32 - across * 32;
    column[0] = across * 64 + down * 32;
    column[1] = across * 64 + 32 - down * 32;
  }
  __device__ int row_of(int i) const { return row[i / 2] + i % 2 * 16; }
  __device__ int column_of(int j) const { return column[j / 2] + j % 2 * 16; }
};

using CovarianceSums = float[4][4][2][4];  // by fragment of columns, of rows, half of the columns
constexpr uint32_t kTwoOnes = 0x3F803F80u;

// A channel's shift, twice, for those of a fragment that the lane has.
__device__ __forceinline__ void load_shifts(const __nv_bfloat16 (&shifts)[kCovarianceTile], int row,
                                            uint32_t (&to)[2]) {
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    uint16_t bits;
    memcpy(&bits, &shifts[row + Bf16Fragment::a_row(threadIdx.x % 32, e)], 2);
    to[e] = bits * 0x10001u;
  }
}

// The warp's part of sum y_i y_j over all positions, and in memory.sum the sums of y.
template <bool kTurned>
__device__ __forceinline__ void multiply_channels(const ChannelRows<kTurned>& rows,
                                                  const ChannelRows<kTurned>& columns, bool square,
                                                  CovarianceMemory& memory, CovarianceSums& sums) {
  const WarpPlace warp(threadIdx.x);
  const int right_side = square ? 0 : 1;
  const auto stage = [&](int slice) {
    const int k0 = slice * kCovarianceSlice;
    auto& to = memory.slice[slice % kCovarianceStages];
    if (k0 < rows.positions) {
      rows.stage(k0, memory.shift[0], to[0]);
      if (!square) columns.stage(k0, memory.shift[1], to[1]);
    }
    commit_copies();  // even of nothing: groups are counted
  };
  uint32_t row_shift[4][2], column_shift[4][2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    load_shifts(memory.shift[0], warp.row_of(i), row_shift[i]);
    load_shifts(memory.shift[right_side], warp.column_of(i), column_shift[i]);
  }
  const int slices = int(round_up_quotient(rows.positions, kCovarianceSlice));
  float row_sums[2][1][4] = {}, column_sums[2][1][1][4] = {};
  const uint32_t ones[1][2] = {{kTwoOnes, kTwoOnes}};
  // The first iterations have nothing to multiply yet.
#pragma unroll 1
  for (int slice = 1 - kCovarianceStages; slice < slices; ++slice) {
    if (slice >= 0) {
      wait_for_copies<kCovarianceStages - 2>();
      __syncthreads();
    }
    // Overwrites the slice before this one, which every warp has read.
    stage(slice + kCovarianceStages - 1);
    if (slice < 0) continue;
    const auto& now = memory.slice[slice % kCovarianceStages];
#pragma unroll
    for (int depth = 0; depth < kCovarianceSlice; depth += Bf16Fragment::kDepth) {
      uint32_t a[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        load_shifted<kTurned>(now[0], warp.row_of(i), depth, row_shift[i], a[i]);
      }
      const uint32_t first[2][4] = {{a[0][0], a[0][1], a[0][2], a[0][3]},
                                    {a[1][0], a[1][1], a[1][2], a[1][3]}};
      multiply_bf16(row_sums, first, ones);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t b[1][4];
        load_shifted<kTurned>(now[right_side], warp.column_of(j), depth, column_shift[j], b[0]);
        const uint32_t right[2][2] = {{b[0][0], b[0][2]}, {b[0][1], b[0][3]}};
        multiply_bf16(sums[j], a, right);
        if (j < 2) multiply_bf16(column_sums[j], b, ones);
      }
    }
  }
  // All columns of a product with ones are the same.
  const int lane = threadIdx.x % 32;
  if (lane % 4 == 0) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int in = result_row(lane, e % 2 * 2);
      memory.sum[0][warp.row_of(e / 2) + in] = row_sums[e / 2][0][e % 2 * 2];
      memory.sum[1][warp.column_of(e / 2) + in] = column_sums[e / 2][0][0][e % 2 * 2];
    }
  }
}

// sums becomes the covariance of y.
__device__ __forceinline__ void subtract_means(const WarpPlace& warp,
                                               const CovarianceMemory& memory, float per,
                                               CovarianceSums& sums) {
  const int lane = made_here(threadIdx.x % 32);
  float row_mean[4][2], column_mean[8][2];
#pragma unroll
  for (int e = 0; e < 2; ++e) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      row_mean[i][e] = per * memory.sum[0][warp.row_of(i) + result_row(lane, 2 * e)];
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int column = warp.column_of(j / 2) + j % 2 * 8 + result_column(lane, e);
      column_mean[j][e] = per * memory.sum[1][column];
    }
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& sum = sums[j / 2][i][j % 2][e];
        sum = per * sum - row_mean[i][e / 2] * column_mean[j][e % 2];
      }
    }
  }
}

// The warp's part, rounded, to memory.tile as it is or, kTurned, rows and columns exchanged.
template <bool kTurned>
__device__ __forceinline__ void write_tile(const WarpPlace& warp, const CovarianceSums& values,
                                           CovarianceMemory& memory) {
  const int lane = made_here(threadIdx.x % 32);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int e = 0; e < 4; e += 2) {
        const int row = warp.row_of(i) + result_row(lane, e);
        const int column = warp.column_of(j / 2) + j % 2 * 8 + result_column(lane, e);
        const float (&value)[4] = values[j / 2][i][j % 2];
        const Pack<__nv_bfloat16, 2> pair = {
            {__float2bfloat16(value[e]), __float2bfloat16(value[e + 1])}};
        if constexpr (kTurned) {
          memory.tile[column][row] = pair.value[0];
          memory.tile[column + 1][row] = pair.value[1];
        } else {
          *reinterpret_cast<Pack<__nv_bfloat16, 2>*>(&memory.tile[row][column]) = pair;
        }
      }
    }
  }
}

// Which entries of a tile are stored: of a tile on the diagonal only one triangle's, so that the
// matrix is symmetric to the last bit.
enum class TilePart { all, lower, upper };

// memory.tile to the covariance from (row0, column0) on.
__device__ __forceinline__ void store_tile(const CovarianceMemory& memory,
                                           const CovarianceArguments& p, int64_t b, int64_t row0,
                                           int64_t column0, TilePart part) {
  const int64_t d = p.channels;
  const int rows = d - row0 < kCovarianceTile ? int(d - row0) : kCovarianceTile;
  const int columns = d - column0 < kCovarianceTile ? int(d - column0) : kCovarianceTile;
  __nv_bfloat16* to = p.covariance + (b * d + row0) * d + column0;
  constexpr int kAcross = kCovarianceTile / kCovariancePack;
  const int column = int(threadIdx.x) % kAcross * kCovariancePack;
  for (int row = int(threadIdx.x) / kAcross; row < rows; row += kCovarianceThreads / kAcross) {
    // Lower: the columns up to the row's number; upper: those after it.
    const int first = part == TilePart::upper ? row + 1 : 0;
    const int last = part == TilePart::lower && row < columns ? row + 1 : columns;
    __nv_bfloat16* line = to + row * d;
    if (p.packs && column >= first && column + kCovariancePack <= last) {
      *reinterpret_cast<ShiftedPack*>(line + column) =
          *reinterpret_cast<const ShiftedPack*>(&memory.tile[row][column]);
    } else {
      for (int c = column; c < column + kCovariancePack; ++c) {
        if (c >= first && c < last) line[c] = memory.tile[row][c];
      }
    }
  }
}

// What finish_covariances reads of the channels of a tile on the diagonal.
__device__ __forceinline__ void store_channels(const WarpPlace& warp, const CovarianceSums& values,
                                               const CovarianceMemory& memory, float per,
                                               const CovarianceArguments& p, int64_t b,
                                               int64_t row0) {
  const int thread = threadIdx.x, lane = made_here(thread % 32);
  if (row0 + thread < p.channels) {
    p.means[b * p.channels + row0 + thread] =
        __bfloat162float(memory.shift[0][thread]) + per * memory.sum[0][thread];
  }
  if (warp.row[0] != warp.column[0]) return;
  // Here fragment i of the rows has the channels of fragment i of the columns.
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int in = result_row(lane, e), row = warp.row_of(i) + in;
      if (in != e / 2 * 8 + result_column(lane, e) || row0 + row >= p.channels) continue;
      const float value = values[i][i][e / 2][e];
      // A negative number is rounding; NaN stays NaN.
      p.squares[b * p.channels + row0 + row] = value < 0 ? 0 : double(value) * double(p.positions);
    }
  }
}

// The covariances, and of each channel the mean and the sum of squares; finish_covariances has to
// follow. Piece: a tile of the lower triangle, and with it its mirror image.
template <bool kTurned>
__global__ void __launch_bounds__(kCovarianceThreads, 2) covariance_tiles(CovarianceArguments p) {
  static_assert(kCovarianceThreads == kCovarianceTile, "a thread has a row and a column");
  CovarianceMemory& memory = block_memory<CovarianceMemory>();
  const int64_t half = TriangleTile::count(round_up_quotient(p.channels, kCovarianceTile));
  for (int64_t piece = blockIdx.x; piece < p.batch * half; piece += gridDim.x) {
    const int64_t b = quotient(piece, half);
    const TriangleTile tile(piece - b * half);
    const int64_t row0 = tile.row * kCovarianceTile, column0 = tile.column * kCovarianceTile;
    const bool square = row0 == column0;
    CovarianceSums sums = {};
    {
      const ChannelRows<kTurned> rows(p, b, row0), columns(p, b, column0);
      memory.shift[0][threadIdx.x] = rows.shift(threadIdx.x);
      if (!square) memory.shift[1][threadIdx.x] = columns.shift(threadIdx.x);
      __syncthreads();
      multiply_channels<kTurned>(rows, columns, square, memory, sums);
    }
    __syncthreads();
    const WarpPlace warp(made_here(threadIdx.x));
    const float per = 1.f / float(p.positions);
    subtract_means(warp, memory, per, sums);
    if (square) store_channels(warp, sums, memory, per, p, b, row0);
    write_tile<false>(warp, sums, memory);
    __syncthreads();
    store_tile(memory, p, b, row0, column0, square ? TilePart::lower : TilePart::all);
    __syncthreads();
    write_tile<true>(warp, sums, memory);
    __syncthreads();
    store_tile(memory, p, b, column0, row0, square ? TilePart::upper : TilePart::all);
    __syncthreads();
  }
}

// The traces (B,). A covariance whose trace is 0 becomes 0, one whose trace is not finite NaN.
// Piece: a sample.
__global__ void __launch_bounds__(kMatrixThreads, 1)
    finish_covariances(CovarianceArguments p, float* traces) {
  const int64_t size = p.channels * p.channels;
  for (int64_t b = blockIdx.x; b < p.batch; b += gridDim.x) {
    const float trace = covariance_trace(b, p.channels, p.positions, p.squares, p.means);
    if (threadIdx.x == 0) traces[b] = trace;
    if (trace != 0 && trace - trace == 0) continue;
    const __nv_bfloat16 everywhere = __float2bfloat16(trace - trace);
    for (int64_t e = threadIdx.x; e < size; e += kMatrixThreads) {
      p.covariance[b * size + e] = everywhere;
    }
  }
}

}  // namespace ccdn::cuda
