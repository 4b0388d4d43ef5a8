// Chebyshev recurrences as in recurrence.cuh, with the matrix of a sample in the registers of a
// block or a cluster of blocks (cluster_matrix.cuh): it is read once instead of once a term.
//
// On a napkin, for n = 256 in float32: four blocks of 256 threads have 64 rows each, 64 entries a
// thread. A step is 64 fused multiply-adds a thread for each vector, 128 clocks of an H100's
// multiprocessor; five exchanges of float64 between the lanes of a row, about 40 clocks each; and a
// word from every lane to another block, which takes about 230 clocks to arrive. A prediction: 0.35
// us for a sample alone. A multiprocessor has room for two blocks, so that 66 samples are under way
// at a time on 132 of them, and one block computes while the other one's numbers travel.
#pragma once

#include <cstdint>
#include <cuda/instructions.cuh>

#include "cluster_matrix.cuh"
#include "dual_squeeze_kernels.cuh"

namespace ccdn::cuda {

// The trace of a sample's covariance, 0 where it is constant: the same bits in every warp.
template <typename Acc>
__device__ double trace_of(const SqueezeArguments<Acc>& p, int64_t b) {
  double spread = 0, level = 0;
#pragma unroll 4
  for (int64_t d = threadIdx.x % 32; d < p.channels; d += 32) {
    const double mean = double(p.mean[b * p.channels + d]);
    spread += p.squares[b * p.channels + d];
    level += mean * mean;
  }
  spread = sum_over_warp(spread) / double(p.positions);
  level = sum_over_warp(level);
  return double(spread_or_zero<Acc>(spread, level));
}

// Piece: a sample. As chebyshev_squeeze.
template <typename Acc, typename Form>
__device__ __forceinline__ void cluster_squeeze_sample(const SqueezeArguments<Acc>& p, int64_t b,
                                                       const Coefficients& coefficients,
                                                       Cluster<Form, 1>& cluster) {
  const int64_t n = p.n, place = b * p.channels;
  ResidentRows<Form> rows(p.matrix, b, int(n), cluster.first(), cluster.across());
  const double trace = trace_of(p, b);
  if (cluster.rank() == 0 && threadIdx.x == 0) p.trace[b] = Acc(trace);
  if (trace == 0) {
    for (int64_t d = cluster.rank() * Form::kThreads + int(threadIdx.x);
         p.second.data && d < p.channels; d += Form::kBlocks * Form::kThreads) {
      p.second.store(place + d, Acc(0));
    }
    return;
  }
  const auto start = [&](int64_t i) { return p.start ? p.start[b * n + i] : 1.0; };
  const double shrink = to_size_of_one(trace);                      // of the matrix
  const double unit = p.start ? to_size_of_one(sqrt(trace)) : 1.0;  // of the terms
  rows.scale(shrink);
  const double twice = 2 / trace * inverse(shrink);
  // Of what leaves: sums with the matrix, or terms.
  const double scale =
      (p.second.data ? 1 / (sqrt(trace) * double(p.channels)) * inverse(shrink) : 1.0) *
      inverse(unit);
  const bool inside = cluster.row() < n;
  const auto scaled = [&](int64_t i) { return unit * start(i); };
  cluster.fill(0, n, scaled);
  double last = inside ? scaled(cluster.row()) : 0.0, before = 0;
  double result = coefficients.c[0] * last;
  cluster.barrier();
#pragma unroll 1
  for (int j = 1; j < coefficients.terms; ++j) {
    const double moved = twice * cluster.product(rows, (j - 1) % 2) - last;
    const double value = j > 1 ? 2 * moved - before : moved;
    before = last;
    last = value;
    result += coefficients.c[j] * value;
    cluster.publish(j % 2, value);
  }
  if (p.second.data) {
    // The last term is in the other half.
    const int turn = coefficients.terms % 2;
    cluster.publish(turn, result);
    const double sum = cluster.product(rows, turn);
    if (cluster.copy() == 0 && inside) p.second.store(place + cluster.row(), Acc(scale * sum));
  } else if (cluster.copy() == 0 && inside) {
    p.vectors[b * 3 * n + cluster.row()] = scale * result;
  }
  cluster.barrier();  // before the next sample's vectors replace these, and before any block ends
}

template <typename Acc, typename Form>
__global__ void __launch_bounds__(Form::kThreads, Form::kResident)
    cluster_squeeze(SqueezeArguments<Acc> p, const __grid_constant__ Coefficients coefficients) {
  wait_for_last_launch();
  if constexpr (has_clusters(Form::kBlocks)) {
    Cluster<Form, 1> cluster;
    for (int64_t b = cluster.sample(); b < p.batch; b += cluster.samples()) {
      cluster.begin_sample();
      cluster_squeeze_sample<Acc, Form>(p, b, coefficients, cluster);
    }
  }
}

// combine_terms for entry i of the vectors, by the lanes that are left with its sums: each takes
// every kCopies-th row of the table. What is returned to the lanes of t adds up to entry i of
// (q + 2 t q')(A) v. Sixteen terms are loaded before the first one is used. `back` converts them
// from their units to those of the features.
template <int kCopies, typename Acc>
__device__ __forceinline__ double combine_entry(const double* table, AdjointRows at, double* base,
                                                PairRows<Acc> pair_rows, int64_t b, int64_t i,
                                                bool of_s, int copy, double back) {
  constexpr int kTerms = 16;
  const GradientTable numbers = {at.terms, at.rank};
  const double* x = base + (of_s ? at.s(0) : at.t(0)) + i;
  double radial = 0;
  for (int j0 = 0; j0 < at.terms; j0 += kTerms) {
    const int count = at.terms - j0 < kTerms ? at.terms - j0 : kTerms;
    double value[kTerms];
#pragma unroll
    for (int j = 0; j < kTerms; ++j) {
      const double found = x[(j0 + (j < count ? j : 0)) * at.n];
      value[j] = j < count ? back * found : 0.0;
    }
#pragma unroll 1
    for (int r = copy; r < at.rank + (of_s ? 1 : 2); r += kCopies) {
      const bool factor = r < at.rank, last = r == at.rank;
      const double* weights = table + (factor ? numbers.right(r) : last ? 0 : at.terms) + j0;
      double sum = 0;
#pragma unroll
      for (int j = 0; j < kTerms; ++j) sum += (j < count ? weights[j] : 0.0) * value[j];
      if (!factor && !last) {
        radial += sum;
        continue;
      }
      if (factor && of_s) sum *= table[numbers.factors() + r];
      const int row = factor ? (of_s ? r : at.rank + r) : 2 * at.rank + (of_s ? 2 : 1);
      double& entry = base[row * at.n + i];
      if (j0 > 0) sum += entry;
      entry = sum;
      if (j0 + kTerms >= at.terms) pair_rows.store(at, b, row, i, sum);
    }
  }
  return radial;
}

// The units of a gradient's vectors: powers of two that scale t and s to the size of 1, and the
// factor that turns the upstream gradient into s. If t begins as a product with the features, it
// has their size, and s the gradient's divided by theirs.
struct AdjointUnits {
  double by, t, s;
  template <typename Acc>
  __device__ __forceinline__ AdjointUnits(const AdjointArguments<Acc>& p, double trace) {
    const double scale = sqrt(trace) / double(p.channels);
    by = p.start ? scale / (double(p.positions) * trace) : scale / 2;
    t = p.start ? to_size_of_one(sqrt(trace)) : 1.0;
    s = to_size_of_one(p.start ? by * sqrt(trace) : by);
  }
};

// Piece: a sample. As chebyshev_gradient.
template <typename Acc, typename Form>
__device__ __forceinline__ void cluster_gradient_sample(const AdjointArguments<Acc>& p, int64_t b,
                                                        const Coefficients& travelling,
                                                        Cluster<Form, 2>& cluster) {
  using Working = Cluster<Form, 2>;
  const AdjointRows at = p.rows;
  const int64_t n = at.n;
  ResidentRows<Form> rows(p.matrix, b, int(n), cluster.first(), cluster.across());
  const double trace = double(p.trace[b]);
  if (trace == 0) {
    if (cluster.rank() == 0 && threadIdx.x == 0) p.trace_gradient[b] = 0;
    return;
  }
  double* base = p.vectors + b * at.size();
  const bool inside = cluster.row() < n, of_s = cluster.vector() == 1;
  const bool writes = cluster.copy() == 0 && inside;
  const double shrink = to_size_of_one(trace);  // of the matrix
  rows.scale(shrink);
  const double twice = 2 / trace * inverse(shrink);
  // t_0 and s_0, or what becomes s_0, in their units: as recurred and as they lie in `vectors`.
  const AdjointUnits units(p, trace);
  const auto start = [&](int64_t i) { return units.t * (p.start ? p.start[b * n + i] : 1.0); };
  const double* given = (p.start ? p.result_gradient : p.upstream) + b * n;
  const auto gradient = [&](int64_t i) { return units.s * (units.by * given[i]); };
  cluster.fill(0, n, start);
  cluster.fill(1, n, gradient);
  double last = !inside ? 0.0 : of_s ? gradient(cluster.row()) : start(cluster.row()), before = 0;
  cluster.barrier();
  if (!p.start) {
    if (writes && of_s) {
      const double value = inverse(units.s) * last;
      base[at.upstream() + cluster.row()] = value;
      p.pair_rows.store(at, b, 2 * at.rank, cluster.row(), value);
    }
    const double sum = cluster.product(rows, 0);
    if (of_s) last = twice * sum;
    cluster.publish(1, last);
  }
  double* x = base + (of_s ? at.s(0) : at.t(0)) + cluster.row();
  const int began = p.start ? 0 : 1;  // where t_0 and s_0 are
  if (writes) x[0] = last;
#pragma unroll 1
  for (int j = 1; j < at.terms; ++j) {
    const double moved = twice * cluster.product(rows, (j - 1 + began) % 2) - last;
    const double value = j > 1 ? 2 * moved - before : moved;
    before = last;
    last = value;
    if (writes) x[j * n] = value;
    cluster.publish((j + began) % 2, value);
  }
  __syncwarp();  // a lane reads what another one of its warp has written
  double radial = 0;
  if (inside) {
    // Computed again, so that the recurrence keeps no registers for it.
    const AdjointUnits again(p, double(p.trace[made_here(int(b))]));
    const double back = inverse(of_s ? again.s : again.t);
    const auto combine = [&](const double* table) {
      return combine_entry<Working::kCopies>(table, at, base, p.pair_rows, b, cluster.row(), of_s,
                                             cluster.copy(), back);
    };
    radial = p.table ? combine(p.table) : combine(travelling.c);
    radial *= inverse(again.s) * base[at.s(0) + cluster.row()];
  }
  radial = sum_over_warp(radial);
  if (cluster.lane() == 0) {
    *of_block<Form::kBlocks>(&cluster.mine.parts[cluster.warp()], 0) = radial;
  }
  cluster.barrier();  // before the next sample's vectors replace these, too
  if (cluster.rank() == 0 && threadIdx.x == 0) {
    double sum = 0;
    for (int k = 0; k < Form::kBlocks * Form::kWarps; ++k) sum += cluster.mine.parts[k];
    // The squeeze is sqrt(tr) * (1 / tr) * (...), and the matrix inside q is C / tr.
    p.trace_gradient[b] = -sum / (2 * trace);
  }
}

template <typename Acc, typename Form>
__global__ void __launch_bounds__(Form::kThreads, Form::kResident)
    cluster_gradient(AdjointArguments<Acc> p, const __grid_constant__ Coefficients travelling) {
  wait_for_last_launch();
  if constexpr (has_clusters(Form::kBlocks)) {
    Cluster<Form, 2> cluster;
    for (int64_t b = cluster.sample(); b < p.batch; b += cluster.samples()) {
      cluster.begin_sample();
      cluster_gradient_sample<Acc, Form>(p, b, travelling, cluster);
    }
  }
}

// Calls run(form) with the form that holds a matrix of n rows for this many terms; false if none
// does.
template <typename Acc, typename Run>
bool with_cluster_form(int64_t n, int terms, Run run) {
  if (n <= SmallForm::kLargest) {
    run(SmallForm{});
    return true;
  }
  if constexpr (sizeof(Acc) == 4) {
    if (n > LargeForm::kLargest && n <= HugeForm::kLargest) {
      run(HugeForm{});
      return true;
    }
    if (terms <= kRoundedTerms && n <= LargeForm::kLargest) {
      n <= MiddleForm::kLargest ? run(MiddleForm{}) : run(LargeForm{});
      return true;
    }
  }
  if (n > LargeWideForm::kLargest) return false;
  n <= MiddleWideForm::kLargest ? run(MiddleWideForm{}) : run(LargeWideForm{});
  return true;
}

}  // namespace ccdn::cuda
