// The last kernels of dual_squeeze.cu: tiles of the gradient from its factor, dense or of low rank.
#pragma once

#include <cstdint>
#include <cuda/instructions.cuh>

#include "dual_squeeze_kernels.cuh"
#include "element.cuh"
#include "product.cuh"
#include "recurrence.cuh"

namespace ccdn::cuda {

template <typename T>
struct ExpandArguments {
  Features<T> features;
  int64_t batch;
  AdjointRows rows;
  const double* vectors;  // (B, rows, n)
  PairRows<Accumulator<T>> pair_rows;
  const Accumulator<T>* factor;  // (B, n, n) or (B, free, pairs)
  GradientScale<Accumulator<T>> scale;
  Squeezes<T> grad_first;
  const double* upstream;  // (B, D) grad_second
  T* grad_x;               // strides of x
  bool accumulate;         // onto what grad_x holds
};

// What the entries of a tile of the gradient add to Xc P: the mean's share and, on the positions
// side, that of v = Xc^T 1 and of the last product with Xc. In shared memory, for the 64 channels
// and the 64 side entries of the tile: divisions and roots of float64 are dear, and so is a trip to
// memory.
template <typename T>
struct GradientRest {
  using Acc = Accumulator<T>;
  double of_channel[kTile], upstream[kTile];
  double of_side[kTile], product[kTile];
  Acc mean[kTile], mean_rest[kTile];

  // Every thread of the block must call it, for the tile at (free0, side0); visible after a
  // barrier.
  __device__ __forceinline__ void fill(const ExpandArguments<T>& p, int64_t b, int64_t free0,
                                       int64_t side0) {
    const Features<T>& x = p.features;
    const int i = int(threadIdx.x);
    const double of_mean = 1 / double(p.scale.positions);
    const int64_t channel0 = x.channel_is_side ? side0 : free0;
    if (i < kTile) {
      const int64_t left = x.channels - 1 - channel0;
      const int64_t d = b * x.channels + channel0 + (i < left ? i : left);
      of_channel[i] = double(p.grad_first.load(d)) * of_mean;
      upstream[i] = p.upstream[d];
      mean[i] = x.mean[d];
      mean_rest[i] = x.mean_rest[d];
    }
    if (i < kTile && !x.channel_is_side) {
      const int64_t left = x.side - 1 - side0, s = side0 + (i < left ? i : left);
      const double* base = p.vectors + b * p.rows.size();
      const double trace = double(p.scale.trace[b]);
      of_side[i] = base[p.rows.start_gradient() + s];
      product[i] = base[p.rows.result() + s] * (of_mean / (sqrt(trace) * double(x.channels)));
    }
  }
};

// The entries (f, s) of a tile of the gradient (free x side) at (free0, side0).
template <typename T, bool kDiagonal>
struct TileEntries {
  using Acc = Accumulator<T>;
  const ExpandArguments<T>& p;
  const GradientRest<T>& rest;
  bool constant;
  int64_t free0, side0;
  double diagonal;
  const T* x;
  T* out;

  __device__ __forceinline__ TileEntries(const ExpandArguments<T>& p, const GradientRest<T>& rest,
                                         int64_t b, int64_t free0, int64_t side0)
      : p(p),
        rest(rest),
        constant(p.scale.trace[b] == Acc(0)),
        free0(free0),
        side0(side0),
        diagonal(kDiagonal && !constant ? p.scale.diagonal(b) : 0),
        x(p.features.data + b * p.features.batch_stride),
        out(p.grad_x + b * p.features.batch_stride) {}

  // -1 outside of the sample.
  __device__ __forceinline__ int64_t place(int f, int s) const {
    const bool inside = free0 + f < p.features.free && side0 + s < p.features.side;
    return inside ? p.features.offset(free0 + f, side0 + s) : -1;
  }
  __device__ __forceinline__ T operator()(int f, int s, Acc sum, T from_x, T before) const {
    const int c = p.features.channel_is_side ? s : f;
    double value = double(sum) + rest.of_channel[c];
    if (!constant && !p.features.channel_is_side) {
      value += rest.of_side[s] + rest.upstream[c] * rest.product[s];
    }
    if (kDiagonal && !constant) {
      const Acc centred = (Element<T>::load(from_x) - rest.mean[c]) - rest.mean_rest[c];
      value += diagonal * double(centred);
    }
    if (p.accumulate) value += double(Element<T>::load(before));
    return Element<T>::store(Acc(value));
  }
};

// Where in the tile the thread's sums of tensor_product are, in the order in which it stores them.
struct TensorPlaces {
  int lane, row0, column0;

  __device__ explicit TensorPlaces(int thread)
      : lane(thread % 32),
        row0(thread / 32 / 2 * kWarpTile),
        column0(thread / 32 % 2 * kWarpTile) {}
  __device__ int row(int k) const {
    return row0 + k / (4 * kColumnFragments) * 16 + result_row(lane, k % 4);
  }
  __device__ int column(int k) const {
    return column0 + k / 4 % kColumnFragments * 8 + result_column(lane, k % 4);
  }
};

// A tile of the gradient = product + diagonal Xc + rest. product(store) calls store(f, s, sum) for
// the thread's entries of the tile. What eight of them need is asked for before the first one is
// stored: a store, the compiler thinks, could change what is loaded after it.
template <typename T, bool kDiagonal, typename Product>
__device__ __forceinline__ void expand_tile(const ExpandArguments<T>& p, int64_t b, int64_t free0,
                                            int64_t side0, Product product) {
  using Acc = Accumulator<T>;
  constexpr int kHeld = kTile * kTile / kProductThreads<kGramProduct<T>>;
  __shared__ GradientRest<T> rest;
  __syncthreads();  // the tile before is finished
  rest.fill(p, b, free0, side0);
  __syncthreads();
  if constexpr (sizeof(Acc) == 8) {  // of which there are too many to hold
    const TileEntries<T, kDiagonal> entries(p, rest, b, free0, side0);
    product([&](int64_t row, int64_t column, Acc sum) {
      const int i = int(row - free0), j = int(column - side0);
      const int64_t at = entries.place(i, j);
      if (at < 0) return;
      const T from_x = kDiagonal ? entries.x[at] : T(0);
      entries.out[at] = entries(i, j, sum, from_x, p.accumulate ? entries.out[at] : T(0));
    });
  } else {
    Acc sums[kHeld];
    int count = 0;
    product([&](int64_t, int64_t, Acc sum) { sums[count++] = sum; });
    // Nothing of it is made before the product, which has no registers for it.
    const TileEntries<T, kDiagonal> entries(p, rest, b + made_here(0), free0, side0);
    constexpr int kBatch = 8;
    static_assert(kHeld % kBatch == 0, "whole batches");
#pragma unroll
    for (int k0 = 0; k0 < kHeld; k0 += kBatch) {
      T from_x[kBatch], before[kBatch];
      const TensorPlaces asked(made_here(int(threadIdx.x)));
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const int64_t at = entries.place(asked.row(k0 + k), asked.column(k0 + k));
        const int64_t from = at < 0 ? 0 : at;
        if (kDiagonal) from_x[k] = entries.x[from];
        // Outside of the sample x is read, because the gradient's first entry has a writer.
        if (p.accumulate) before[k] = (at < 0 ? entries.x : entries.out)[from];
      }
      const TensorPlaces stored(made_here(int(threadIdx.x)));  // no places are kept
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const int i = stored.row(k0 + k), j = stored.column(k0 + k);
        const int64_t at = entries.place(i, j);
        const T found = entries(i, j, sums[k0 + k], from_x[k], before[k]);
        if (at >= 0) entries.out[at] = found;
      }
    }
  }
}

// Dense form. Piece: a tile of the gradient (free x side) = Xc P + rest.
template <typename T>
__global__ void __launch_bounds__(kProductThreads<kGramProduct<T>>, kProductBlocks<T>)
    expand_dense(ExpandArguments<T> p) {
  wait_for_last_launch();
  using Acc = Accumulator<T>;
  const int64_t n = p.features.side, free = p.features.free;
  const int64_t down = tiles(free), across = tiles(n);
  for (int64_t piece = blockIdx.x; piece < p.batch * down * across; piece += gridDim.x) {
    const int64_t line = quotient(piece, across), b = quotient(line, down);
    const int64_t depth = p.scale.trace[b] == Acc(0) ? 0 : n;
    const int64_t free0 = (line - b * down) * kTile, side0 = (piece - line * across) * kTile;
    expand_tile<T, false>(p, b, free0, side0, [&](auto store) {
      // P is symmetric.
      product_tile<kGramProduct<T>>(
          free0, free, side0, n, free_by_side(p.features.sample(b), depth),
          plain_operand<Acc>(p.factor + b * n * n, n, depth, true), false, store);
    });
  }
}

// Low-rank form. Piece: as above, with Xc P = factor (paired rows) + diagonal Xc.
template <typename T>
__global__ void __launch_bounds__(kProductThreads<kGramProduct<T>>, kProductBlocks<T>)
    expand_low_rank(ExpandArguments<T> p) {
  wait_for_last_launch();
  using Acc = Accumulator<T>;
  const int64_t n = p.features.side, free = p.features.free, pairs = p.pair_rows.pairs;
  const int64_t down = tiles(free), across = tiles(n);
  for (int64_t piece = blockIdx.x; piece < p.batch * down * across; piece += gridDim.x) {
    const int64_t line = quotient(piece, across), b = quotient(line, down);
    const int64_t depth = p.scale.trace[b] == Acc(0) ? 0 : pairs;
    const int64_t free0 = (line - b * down) * kTile, side0 = (piece - line * across) * kTile;
    expand_tile<T, true>(p, b, free0, side0, [&](auto store) {
      product_tile<kGramProduct<T>>(
          free0, free, side0, n,
          plain_operand<Acc>(p.factor + b * free * pairs, pairs, depth, true),
          plain_operand<Acc>(p.pair_rows.partners(b, n), n, depth, false), false, store);
    });
  }
}

}  // namespace ccdn::cuda
