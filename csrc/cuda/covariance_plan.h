// Which features covariance_tiles.cuh serves, and how it is laid out: plain arithmetic, for host,
// device and tests.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../common/covariance_pool.h"

namespace ccdn::cuda {

constexpr int kCovarianceTile = 128;  // rows and columns of a block's part of the covariance
constexpr int kCovarianceSlice = 32;  // positions that are staged at a time
constexpr int kCovarianceStages = 4;  // slices in shared memory
constexpr int kCovarianceThreads = 128;
constexpr int kCovariancePack = 8;  // bfloat16 numbers of 16 bytes
// The accumulators of tensor cores round towards zero, 2^-24 of the sum for every 16 positions: so
// many positions lose 2^-14, and thirty-two times that, where a shift is far from the mean, is
// still what bfloat16 loses.
constexpr int64_t kMostPositions = 1 << 14;

// Features whose memory has whole packs of neighbours: of positions or, turned, of channels.
struct CovarianceLayout {
  bool fits, turned;

  CovarianceLayout(const CovarianceShape& s, const void* x) : fits(false), turned(false) {
    const bool aligned =
        reinterpret_cast<uintptr_t>(x) % 16 == 0 && s.stride_b % kCovariancePack == 0;
    // Smaller matrices fill less than half of a tile.
    if (!aligned || s.channels <= kCovarianceTile / 2 || s.positions > kMostPositions) return;
    const auto whole = [](int64_t inner, int64_t outer, int64_t line) {
      return inner == 1 && outer % kCovariancePack == 0 && line % kCovariancePack == 0;
    };
    turned = !whole(s.stride_n, s.stride_d, s.positions);
    fits = !turned || whole(s.stride_d, s.stride_n, s.channels);
  }
};

// The places of a channel whose mean stands for the channel's, roughly: `count` of `extent` packs
// (or positions), one in each of as many equal parts, at varying places in them because maps have
// borders. Whatever the numbers are, the mean of this many of N is at most sqrt(N / numbers), 8,
// standard deviations from the channel's (Cauchy-Schwarz); rounding it to bfloat16, which moves it
// no further than the numbers themselves, at most doubles that. For usual features it is a fraction
// of one standard deviation.
struct ShiftPlaces {
  int extent, count;

  __host__ __device__ ShiftPlaces(int positions, int numbers_each)
      : extent(positions / numbers_each), count((positions + 63) / 64) {
    count = (count + numbers_each - 1) / numbers_each;
    const int least = 16 / numbers_each;
    if (count < least) count = least;
    if (count > extent) count = extent;
  }
  __host__ __device__ int place(int i) const {
    return (i * extent + i * 37 % 64 * extent / 64) / count;
  }
};

// Where a slice has a pack of 16 bytes: packs of a channel side by side or, turned, packs of a
// position. Eight lines that tensor cores read at once meet in no bank.
template <bool kTurned>
__host__ __device__ constexpr int slice_pack(int row, int depth) {
  if constexpr (kTurned) {
    return depth * (kCovarianceTile / kCovariancePack) + (row / kCovariancePack ^ (depth & 7));
  } else {
    return row * (kCovarianceSlice / kCovariancePack) + (depth / kCovariancePack ^ (row / 2 & 3));
  }
}

}  // namespace ccdn::cuda
