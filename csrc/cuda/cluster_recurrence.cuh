// Chebyshev recurrences as in recurrence.cuh, with the matrix of a sample in the registers of a
// cluster of blocks: it is read once instead of once a term.
//
// On a napkin, for n = 256: eight blocks of 256 threads hold 32 rows each, 32 float64 a thread. A
// step is 32 fused multiply-adds a thread for each vector, 128 clocks of an H100's multiprocessor
// (64 lanes of float64), a dozen shuffles that add up the lanes of a row, a store of every new
// entry into the shared memory of all eight blocks, and one barrier of the cluster. A prediction:
// 0.5 us, where reading 256 KB of float32 from L2 by one block takes 8.
//
// A sample's matrix takes two multiprocessors' registers, and the rest of what a thread needs as
// much again: 16 samples of 256 rows are under way at a time on 132 of them.
//
// A lane holds entries lane, lane + 32, ... of its warp's rows. Sums are made in an order that the
// form alone decides. There is no __syncthreads(): all that orders threads is the cluster's
// barrier.
#pragma once

#include <cstdint>
#include <cuda/instructions.cuh>

#include "dual_squeeze_kernels.cuh"
#include "launch.cuh"

namespace ccdn::cuda {

constexpr int kClusterThreads = 256;
constexpr int kClusterWarps = kClusterThreads / 32;

// kBlocks blocks, whose warps have kRows rows of 32 kColumns entries each.
template <int kBlocks_, int kRows_, int kColumns_>
struct ClusterForm {
  static constexpr int kBlocks = kBlocks_, kRows = kRows_, kColumns = kColumns_;
  static constexpr int kLargest = 32 * kColumns;            // n
  static constexpr int kBlockRows = kClusterWarps * kRows;  // of a block
  static_assert(kBlocks * kBlockRows == kLargest, "the blocks hold the whole matrix");
};
using SmallForm = ClusterForm<1, 8, 2>;   // n <= 64, on every architecture
using MiddleForm = ClusterForm<2, 8, 4>;  // n <= 128
using LargeForm = ClusterForm<8, 4, 8>;   // n <= 256

// What every block of a cluster has in shared memory: of every vector the last term and the next.
template <typename Form, int kVectors>
struct ClusterMemory {
  double term[2][kVectors][Form::kLargest];
  double parts[Form::kBlocks];
};

// The rows of a warp, in its registers.
template <typename Form>
struct ResidentRows {
  static constexpr int kTogether = 16 / Form::kColumns;
  double entry[Form::kRows][Form::kColumns];

  template <typename Acc>
  __device__ __forceinline__ ResidentRows(const Acc* matrix, int n, int first) {
    const int lane = threadIdx.x % 32;
    // A few rows at a time, so that what is on its way does not need more registers than there are.
#pragma unroll
    for (int r0 = 0; r0 < Form::kRows; r0 += kTogether) {
      Acc value[kTogether][Form::kColumns];
#pragma unroll
      for (int r = 0; r < kTogether; ++r) {
#pragma unroll
        for (int c = 0; c < Form::kColumns; ++c) {
          const int row = first + r0 + r, column = lane + 32 * c;
          value[r][c] = matrix[row < n && column < n ? row * n + column : 0];
        }
      }
#pragma unroll
      for (int r = 0; r < kTogether; ++r) {
#pragma unroll
        for (int c = 0; c < Form::kColumns; ++c) {
          const bool inside = first + r0 + r < n && lane + 32 * c < n;
          entry[r0 + r][c] = inside ? double(value[r][c]) : 0.0;
        }
      }
      __syncwarp();
    }
  }
};

// Which sum a lane has after sum_over_lanes, and its place among the lanes that have the same.
template <int kSums>
struct LaneOfSum {
  static constexpr int kLanes = 32 / kSums;
  int number, place;
  __device__ LaneOfSum() : number(threadIdx.x % 32 / kLanes), place(threadIdx.x % kLanes) {}
};

// The sum over the warp's lanes of values[LaneOfSum().number]. Half of the values change lanes in
// each of the first turns, and after them one a lane is left.
template <int kSums, int kMask = 16>
__device__ __forceinline__ double sum_over_lanes(const double (&values)[kSums]) {
  if constexpr (kMask == 0) {
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
  return sum_over_lanes(values);
}

// A cluster at work on one sample after another.
template <typename Form, int kVectors>
struct Cluster {
  static constexpr int kSums = kVectors * Form::kRows;
  using Lane = LaneOfSum<kSums>;
  using Memory = ClusterMemory<Form, kVectors>;

  Memory& mine = block_memory<Memory>();
  int rank = cluster_rank<Form::kBlocks>();
  int first = rank * Form::kBlockRows + int(threadIdx.x) / 32 * Form::kRows;  // row of the warp
  Lane lane;
  // The sum that this lane has is of this vector and this row.
  int vector = lane.number / Form::kRows, row = first + lane.number % Form::kRows;
  bool writes = lane.place == 0;

  __device__ int64_t sample() const { return blockIdx.x / Form::kBlocks; }
  __device__ int64_t samples() const { return gridDim.x / Form::kBlocks; }
  __device__ void barrier() const { cluster_barrier<Form::kBlocks>(); }

  // The entry `row` of the matrix times the vector `vector`, of those that term[turn] holds.
  __device__ __forceinline__ double product(const ResidentRows<Form>& rows, int turn) const {
    double sums[kSums];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      double x[Form::kColumns];
#pragma unroll
      for (int c = 0; c < Form::kColumns; ++c) {
        x[c] = mine.term[turn][v][threadIdx.x % 32 + 32 * c];
      }
#pragma unroll
      for (int r = 0; r < Form::kRows; ++r) {
        double sum = 0;
#pragma unroll
        for (int c = 0; c < Form::kColumns; ++c) sum += rows.entry[r][c] * x[c];
        sums[v * Form::kRows + r] = sum;
      }
    }
    return sum_over_lanes(sums);
  }

  // term[turn] of every block gets `value` at the lane's row and vector. Visible after a barrier.
  __device__ __forceinline__ void publish(int turn, double value) const {
#pragma unroll
    for (int k = 0; k < Form::kBlocks; k += Lane::kLanes) {
      const int to = k + lane.place;
      if (to < Form::kBlocks) {
        *of_block<Form::kBlocks>(&mine.term[turn][vector][row], to) = value;
      }
    }
  }

  // term[0][v] of this block = value(i), 0 beyond n. Visible after a barrier.
  template <typename Value>
  __device__ __forceinline__ void fill(int v, int64_t n, Value value) const {
    for (int i = threadIdx.x; i < Form::kLargest; i += kClusterThreads) {
      mine.term[0][v][i] = i < n ? value(i) : 0.0;
    }
  }
};

// The trace of a sample's covariance, 0 where it is constant: the same bits in every warp.
template <typename T>
__device__ double trace_of(const SqueezeArguments<T>& p, int64_t b) {
  using Acc = Accumulator<T>;
  double spread = 0, level = 0;
  for (int64_t d = threadIdx.x % 32; d < p.channels; d += 32) {
    const double mean = double(p.mean[b * p.channels + d]);
    spread += p.squares[b * p.channels + d] / double(p.positions);
    level += mean * mean;
  }
  spread = sum_over_warp(spread);
  level = sum_over_warp(level);
  return double(spread_or_zero<Acc>(spread, level));
}

// Piece: a sample. As chebyshev_squeeze.
template <typename T, typename Form>
__device__ __forceinline__ void cluster_squeeze_sample(const SqueezeArguments<T>& p, int64_t b,
                                                       const Coefficients& coefficients,
                                                       const Cluster<Form, 1>& cluster) {
  using Acc = Accumulator<T>;
  const double trace = trace_of(p, b);
  if (cluster.rank == 0 && threadIdx.x == 0) p.trace[b] = Acc(trace);
  const int64_t n = p.n, place = b * p.channels;
  const Squeezes<T> second = p.second;
  if (trace == 0) {
    for (int64_t d = cluster.rank * kClusterThreads + threadIdx.x; second && d < p.channels;
         d += Form::kBlocks * kClusterThreads) {
      second.store(place + d, Acc(0));
    }
    return;
  }
  const auto start = [&](int64_t i) { return p.start ? p.start[b * n + i] : 1.0; };
  const double twice = 2 / trace, scale = 1 / (sqrt(trace) * double(p.channels));
  const bool inside = cluster.row < n;
  cluster.fill(0, n, start);
  double last = inside ? start(cluster.row) : 0.0, before = 0;
  double result = coefficients.c[0] * last;
  const ResidentRows<Form> rows(p.matrix + b * n * n, int(n), cluster.first);
  cluster.barrier();
#pragma unroll 1
  for (int j = 1; j < coefficients.terms; ++j) {
    const double moved = twice * cluster.product(rows, (j - 1) % 2) - last;
    const double value = j > 1 ? 2 * moved - before : moved;
    before = last;
    last = value;
    result += coefficients.c[j] * value;
    // What it replaces is two terms old: every block has read it before the last barrier.
    cluster.publish(j % 2, value);
    cluster.barrier();
  }
  if (second) {
    // The last term is in the other half, which nobody reads any more.
    const int turn = coefficients.terms % 2;
    cluster.publish(turn, result);
    cluster.barrier();
    const double sum = cluster.product(rows, turn);
    if (cluster.writes && inside) {
      second.store(place + cluster.row, Acc(scale * sum));
    }
  } else if (cluster.writes && inside) {
    p.vectors[b * 3 * n + cluster.row] = result;
  }
  cluster.barrier();  // before the next sample's vectors replace these, and before any block ends
}

template <typename T, int kBlocks, int kRows, int kColumns>
__global__ void __launch_bounds__(kClusterThreads, kBlocks == 1 ? 2 : 1)
    cluster_squeeze(SqueezeArguments<T> p, const __grid_constant__ Coefficients coefficients) {
  using Form = ClusterForm<kBlocks, kRows, kColumns>;
  if constexpr (has_clusters(kBlocks)) {
    const Cluster<Form, 1> cluster;
    for (int64_t b = cluster.sample(); b < p.batch; b += cluster.samples()) {
      cluster_squeeze_sample<T, Form>(p, b, coefficients, cluster);
    }
  }
}

// Piece: a sample. As chebyshev_gradient.
template <typename Acc, typename Form>
__device__ __forceinline__ void cluster_gradient_sample(const AdjointArguments<Acc>& p, int64_t b,
                                                        const double* table,
                                                        const Cluster<Form, 2>& cluster) {
  const AdjointRows at = p.rows;
  const int64_t n = at.n;
  const double trace = double(p.trace[b]);
  if (trace == 0) {
    if (cluster.rank == 0 && threadIdx.x == 0) p.trace_gradient[b] = 0;
    return;
  }
  double* base = p.vectors + b * at.size();
  double *t = base + at.t(0), *s = base + at.s(0);
  const double twice = 2 / trace, scale = sqrt(trace) / double(p.channels);
  const bool inside = cluster.row < n, of_s = cluster.vector == 1;
  // t_0 and s_0, or what becomes s_0.
  const auto start = [&](int64_t i) { return p.start ? p.start[b * n + i] : 1.0; };
  const double* given = (p.start ? p.result_gradient : p.upstream) + b * n;
  const double by = p.start ? scale / (double(p.positions) * trace) : scale / 2;
  const auto gradient = [&](int64_t i) { return by * given[i]; };
  cluster.fill(0, n, start);
  cluster.fill(1, n, gradient);
  double last = !inside ? 0.0 : of_s ? gradient(cluster.row) : start(cluster.row), before = 0;
  const ResidentRows<Form> rows(p.matrix + b * n * n, int(n), cluster.first);
  cluster.barrier();
  if (!p.start) {
    if (cluster.writes && inside && of_s) base[at.upstream() + cluster.row] = last;
    const double sum = cluster.product(rows, 0);
    if (of_s) last = twice * sum;
    cluster.publish(1, last);
    cluster.barrier();
  }
  double* x = (of_s ? s : t) + cluster.row;
  const int began = p.start ? 0 : 1;  // where t_0 and s_0 are
  if (cluster.writes && inside) x[0] = last;
#pragma unroll 1
  for (int j = 1; j < at.terms; ++j) {
    const double moved = twice * cluster.product(rows, (j - 1 + began) % 2) - last;
    const double value = j > 1 ? 2 * moved - before : moved;
    before = last;
    last = value;
    if (cluster.writes && inside) x[j * n] = value;
    cluster.publish((j + began) % 2, value);
    cluster.barrier();
  }
  if (at.terms == 1) cluster.barrier();  // x[0] has not been waited for yet
  // Each block combines the rows of the vectors that it has made.
  const int64_t begin = cluster.rank * int64_t(Form::kBlockRows);
  const int64_t left = n - begin, count = left < Form::kBlockRows ? left : Form::kBlockRows;
  if (count > 0) combine_terms(table, at, base, begin, count, threadIdx.x, kClusterThreads);
  double radial = 0;
  if (threadIdx.x < 32) {
    for (int64_t i = begin + threadIdx.x; i < begin + count; i += 32) {
      radial += radial_term(table, at, base, i);
    }
    radial = sum_over_warp(radial);
    if (threadIdx.x == 0) *of_block<Form::kBlocks>(&cluster.mine.parts[cluster.rank], 0) = radial;
  }
  cluster.barrier();
  if (cluster.rank == 0 && threadIdx.x == 0) {
    double sum = 0;
    for (int k = 0; k < Form::kBlocks; ++k) sum += cluster.mine.parts[k];
    // The squeeze is sqrt(tr) * (1 / tr) * (...), and the matrix inside q is C / tr.
    p.trace_gradient[b] = -sum / (2 * trace);
  }
  cluster.barrier();
}

template <typename Acc, int kBlocks, int kRows, int kColumns>
__global__ void __launch_bounds__(kClusterThreads, 1)
    cluster_gradient(AdjointArguments<Acc> p, const __grid_constant__ Coefficients travelling) {
  using Form = ClusterForm<kBlocks, kRows, kColumns>;
  if constexpr (has_clusters(kBlocks)) {
    const double* table = p.table ? p.table : travelling.c;
    const Cluster<Form, 2> cluster;
    for (int64_t b = cluster.sample(); b < p.batch; b += cluster.samples()) {
      cluster_gradient_sample<Acc, Form>(p, b, table, cluster);
    }
  }
}

// run(form) with the smallest form that holds a matrix of n rows: false where none does.
template <typename Run>
bool with_cluster_form(int64_t n, Run run) {
  if (n <= SmallForm::kLargest) {
    run(SmallForm{});
  } else if (n <= MiddleForm::kLargest) {
    run(MiddleForm{});
  } else if (n <= LargeForm::kLargest) {
    run(LargeForm{});
  } else {
    return false;
  }
  return true;
}

// Whether this device can launch a cluster of the kernel: it may be too old, and so may be what the
// kernel was compiled for, where a newer device runs its PTX; and a small device, or a small part
// of one, may have too few multiprocessors side by side for so many blocks.
inline bool launches_clusters(const void* kernel, int blocks, size_t bytes) {
  int device = 0, served = 0, at_once = 0;
  cudaFuncAttributes attributes = {};
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&served, cudaDevAttrClusterLaunch, device) != cudaSuccess ||
      cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess || served == 0 ||
      attributes.ptxVersion < 90) {
    return false;
  }
  const ClusterLaunch one(1, blocks, bytes, kClusterThreads, nullptr);
  const cudaError_t error = cudaOccupancyMaxActiveClusters(&at_once, kernel, &one.config);
  // This one is an answer, too; any other is left for the next launch to report.
  if (error == cudaErrorInvalidClusterSize) cudaGetLastError();
  return error == cudaSuccess && at_once > 0;
}

}  // namespace ccdn::cuda
