// The symmetric matrix of a sample in the registers of a block or a cluster of blocks, and its
// products with vectors.
//
// Precision. The terms are float64. Their products with the matrix are sums of 8 float32 terms,
// added up in float64: each product rounds the term that it multiplies, and the matrix damps that
// error; nothing would damp the error of a term that was stored rounded. From n = 65 on and for up
// to kRoundedTerms terms the error of value and gradient stays below half of what is allowed, on
// the features of the tests; small matrices and longer series are multiplied in float64. What is
// multiplied in float32 does not depend on the features' units: matrix and terms are scaled by
// powers of two to the size of 1, so that neither their products nor a gradient leave its range.
//
// A lane has four rows of the matrix, and of each packs of four entries kAcross packs apart. Sums
// are made in an order that the form alone decides. There is no __syncthreads() where there are
// several blocks: what orders threads is the cluster's barrier, once or twice a sample, and the
// arrival of a term, once a step.
#pragma once

#include <cstdint>
#include <cstring>
#include <cuda/instructions.cuh>

#include "dual_squeeze_kernels.cuh"
#include "pack.cuh"

namespace ccdn::cuda {

constexpr int kRoundedTerms = 66;  // K = 7

// The power of two that brings a number to the size of 1, as far as float32 has it.
__device__ __forceinline__ double to_size_of_one(double value) {
  constexpr int64_t kOne = 1023, kMost = 126;  // exponents
  int64_t bits;
  memcpy(&bits, &value, sizeof bits);
  int64_t exponent = (bits >> 52 & 2047) - kOne;
  exponent = exponent < -kMost ? -kMost : exponent > kMost ? kMost : exponent;
  bits = (kOne - exponent) << 52;
  memcpy(&value, &bits, sizeof bits);
  return value;
}
// 1 / a power of two of these.
__device__ __forceinline__ double inverse(double power) { return to_size_of_one(power); }

// kBlocks blocks for matrices of up to kLargest rows, held as Entry, kColumns columns a lane.
template <typename Entry_, int kLargest_, int kBlocks_, int kThreads_, int kColumns_>
struct ClusterForm {
  using Entry = Entry_;
  static constexpr int kLargest = kLargest_, kBlocks = kBlocks_, kThreads = kThreads_;
  static constexpr int kColumns = kColumns_;
  static constexpr int kPacks = kColumns / 4;          // of four columns
  static constexpr int kRows = 4;                      // of a lane
  static constexpr int kAcross = kLargest / kColumns;  // lanes that share their rows
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kWarpRows = 32 / kAcross * kRows, kBlockRows = kWarps * kWarpRows;
  // Of float32, two blocks fit on a multiprocessor.
  static constexpr int kResident = sizeof(Entry) == 4 && kThreads == 256 ? 2 : 1;
  static_assert(kBlocks * kBlockRows == kLargest, "the blocks hold the whole matrix");
};
using SmallForm = ClusterForm<double, 64, 1, 256, 4>;
using MiddleForm = ClusterForm<float, 128, 1, 256, 16>;
using LargeForm = ClusterForm<float, 256, 4, 256, 16>;
using HugeForm = ClusterForm<float, 512, 8, 512, 16>;
using MiddleWideForm = ClusterForm<double, 128, 2, 256, 8>;
using LargeWideForm = ClusterForm<double, 256, 8, 256, 8>;

// What every block of a cluster has in shared memory.
template <typename Form, int kVectors>
struct ClusterMemory {
  alignas(16) typename Form::Entry term[2][kVectors][Form::kLargest];  // the last and the next
  double parts[Form::kBlocks * Form::kWarps];
  uint64_t arrivals[2];  // of term[0] and term[1], where there are several blocks
};

// The rows of a lane, in its registers.
template <typename Form>
struct ResidentRows {
  using Entry = typename Form::Entry;
  Entry entry[Form::kRows][Form::kColumns];
  int first, across;  // the first row, and this lane's number among those that share the rows

  // Rows from `first` on of a matrix that is a sum of parts; where there are several, the sum is
  // stored, too.
  template <typename Acc>
  __device__ __forceinline__ ResidentRows(const MatrixParts<Acc>& matrix, int64_t b, int n,
                                          int first, int across)
      : first(first), across(across) {
    const Acc* from = matrix.part(b, n);
    const bool in_packs = n % 4 == 0 && (reinterpret_cast<uintptr_t>(from) & 15) == 0;
    if (in_packs) {
      read<Acc, 4>(from, n);
    } else {
      read<Acc, 1>(from, n);
    }
    if (matrix.count == 1) return;
#pragma unroll 1
    for (int64_t k = 1; k < matrix.count; ++k) {
      from += matrix.stride;
      if (in_packs) {
        add<Acc, 4>(from, n);
      } else {
        add<Acc, 1>(from, n);
      }
    }
    Acc* to = matrix.sum + b * n * n;
    each<1>(n, [&](int r, int c, int64_t at) { to[at] = Acc(entry[r][c]); });
  }

  // Multiplies by a power of two.
  __device__ __forceinline__ void scale(double by) {
#pragma unroll
    for (int r = 0; r < Form::kRows; ++r) {
#pragma unroll
      for (int c = 0; c < Form::kColumns; ++c) entry[r][c] *= Entry(by);
    }
  }

 private:
  // body(r, c, place in the matrix) for packs of kWidth entries that are in it.
  template <int kWidth, typename Body>
  __device__ __forceinline__ void each(int n, Body body) {
    const int begin = made_here(across) * 4;  // no addresses are kept from one pass to the next
#pragma unroll
    for (int r = 0; r < Form::kRows; ++r) {
      const int64_t line = int64_t(first + r) * n + begin;
      const int left = first + r < n ? n - begin : 0;
#pragma unroll
      for (int c = 0; c < Form::kColumns; c += kWidth) {
        const int column = c / 4 * Form::kAcross * 4 + c % 4;
        if (column < left) body(r, c, line + column);
      }
      // Row by row, so that addresses do not take the registers that the rows need.
      if constexpr (kWidth == 1) __syncwarp();
    }
  }
  template <typename Acc, int kWidth>
  __device__ __forceinline__ void read(const Acc* from, int n) {
#pragma unroll
    for (int r = 0; r < Form::kRows; ++r) {
#pragma unroll
      for (int c = 0; c < Form::kColumns; ++c) entry[r][c] = 0;
    }
    each<kWidth>(n, [&](int r, int c, int64_t at) {
      const auto pack = *reinterpret_cast<const Pack<Acc, kWidth>*>(from + at);
#pragma unroll
      for (int v = 0; v < kWidth; ++v) entry[r][c + v] = Entry(pack.value[v]);
    });
  }
  // As add_gram_parts rounds.
  template <typename Acc, int kWidth>
  __device__ __forceinline__ void add(const Acc* from, int n) {
    each<kWidth>(n, [&](int r, int c, int64_t at) {
      const auto pack = *reinterpret_cast<const Pack<Acc, kWidth>*>(from + at);
#pragma unroll
      for (int v = 0; v < kWidth; ++v) {
        entry[r][c + v] = Entry(Acc(entry[r][c + v]) + pack.value[v]);
      }
    });
  }
};

// The sums over 2 kMask neighbouring lanes of each values[i]; a lane's upper bits say which of them
// it is left with. In each of the first rounds half of the values change lanes.
template <int kSums, int kMask>
__device__ __forceinline__ double sum_over_lanes(const double (&values)[kSums]) {
  if constexpr (kMask == 0) {
    static_assert(kSums == 1, "more sums than lanes");
    return values[0];
  } else if constexpr (kSums == 1) {
    const double sum[1] = {values[0] + from_lane(values[0], kMask)};
    return sum_over_lanes<1, kMask / 2>(sum);
  } else {
    constexpr int kHalf = kSums / 2;
    const bool upper = (threadIdx.x & kMask) != 0;
    double sums[kHalf];
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const double kept = upper ? values[i + kHalf] : values[i];
      sums[i] = kept + from_lane(upper ? values[i] : values[i + kHalf], kMask);
    }
    return sum_over_lanes<kHalf, kMask / 2>(sums);
  }
}

__device__ __forceinline__ double sum_over_warp(double value) {
  const double values[1] = {value};
  return sum_over_lanes<1, 16>(values);
}

// A cluster at work on one sample after another.
template <typename Form_, int kVectors>
struct Cluster {
  using Form = Form_;
  using Entry = typename Form::Entry;
  using Memory = ClusterMemory<Form, kVectors>;
  static constexpr int kSums = kVectors * Form::kRows;
  static constexpr int kCopies = Form::kAcross / kSums;  // lanes that are left with the same sum

  Memory& mine = block_memory<Memory>();
  int thread = 0;  // threadIdx.x
  int odd = 0;     // of term[turn], in bit `turn`: parity of the phases waited for

  // These are cheaper to compute again than to keep: the matrix takes the registers.
  __device__ int rank() const { return cluster_rank<Form::kBlocks>(); }
  __device__ int warp() const { return rank() * Form::kWarps + thread / 32; }
  __device__ int lane() const { return thread % 32; }
  __device__ int across() const { return lane() % Form::kAcross; }
  // First of the lane's rows.
  __device__ int first() const {
    return warp() * Form::kWarpRows + lane() / Form::kAcross * Form::kRows;
  }
  // The sum that the lane is left with: of this vector, for this row.
  __device__ int vector() const { return across() / kCopies / Form::kRows; }
  __device__ int row() const { return first() + across() / kCopies % Form::kRows; }
  // Which of the lanes with the same sum.
  __device__ int copy() const { return across() % kCopies; }

  __device__ Cluster() {
    if constexpr (Form::kBlocks > 1) {
      if (threadIdx.x == 0) {
        begin_arrivals(&mine.arrivals[0]);
        begin_arrivals(&mine.arrivals[1]);
      }
      barrier();
    }
  }
  __device__ int64_t sample() const { return blockIdx.x / Form::kBlocks; }
  __device__ int64_t samples() const { return gridDim.x / Form::kBlocks; }
  __device__ void begin_sample() { thread = made_here(int(threadIdx.x)); }
  __device__ void barrier() const { cluster_barrier<Form::kBlocks>(); }

  // The entry `row` of the matrix times the vector `vector`, of those that term[turn] has.
  __device__ __forceinline__ double product(const ResidentRows<Form>& rows, int turn) const {
    // Chains of at most eight fused multiply-adds.
    constexpr int kChains = Form::kColumns > 8 ? 2 : 1;
    double sums[kSums];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      Entry chain[kChains][Form::kRows] = {};
#pragma unroll
      for (int pack = 0; pack < Form::kPacks; ++pack) {
        const int column = (pack * Form::kAcross + across()) * 4;
        const auto x = *reinterpret_cast<const Pack<Entry, 4>*>(&mine.term[turn][v][column]);
#pragma unroll
        for (int r = 0; r < Form::kRows; ++r) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            chain[pack * kChains / Form::kPacks][r] += rows.entry[r][pack * 4 + i] * x.value[i];
          }
        }
      }
#pragma unroll
      for (int r = 0; r < Form::kRows; ++r) {
        Entry sum = chain[0][r];
        if constexpr (kChains == 2) sum += chain[1][r];
        sums[v * Form::kRows + r] = double(sum);
      }
    }
    return sum_over_lanes<kSums, Form::kAcross / 2>(sums);
  }

  // Writes `value` to term[turn] of every block at the lane's row and vector; every thread waits
  // for the whole term. A block sends a term only when the one before has arrived in full, so every
  // warp has read what the new one replaces.
  __device__ __forceinline__ void publish(int turn, double value) {
    Entry* to = &mine.term[turn][vector()][row()];
    if constexpr (Form::kBlocks == 1) {
      if (copy() == 0) *to = Entry(value);
      __syncthreads();
    } else {
      if (threadIdx.x == 0) expect_arrivals(&mine.arrivals[turn], int(sizeof(mine.term[turn])));
#pragma unroll
      for (int block = copy(); block < Form::kBlocks; block += kCopies) {
        send(to, Entry(value), &mine.arrivals[turn], block);
      }
      wait_for_arrivals(&mine.arrivals[turn], odd >> turn & 1);
      odd ^= 1 << turn;
    }
  }

  // term[0][v] of this block = value(i), 0 beyond n. Visible after a barrier.
  template <typename Value>
  __device__ __forceinline__ void fill(int v, int64_t n, Value value) const {
    for (int i = threadIdx.x; i < Form::kLargest; i += Form::kThreads) {
      mine.term[0][v][i] = i < n ? Entry(value(i)) : Entry(0);
    }
  }
};

}  // namespace ccdn::cuda
