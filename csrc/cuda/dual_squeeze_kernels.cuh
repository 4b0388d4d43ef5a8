// The kernels of dual_squeeze.cu up to the factors of the gradient, in the order in which they run;
// the gradient itself is in dual_squeeze_gradient.cuh. Each is a grid-stride loop over pieces of
// work; a block does one piece at a time.
#pragma once

#include <cstdint>
#include <cuda/instructions.cuh>

#include "dual_squeeze_workspace.h"
#include "element.cuh"
#include "line_sum.cuh"
#include "means.cuh"
#include "product.cuh"
#include "recurrence.cuh"

namespace ccdn::cuda {

// ---- both directions --------------------------------------------------------------------------

// float32 in three terms of TF32 and slices of 32: as exact as float32 multiply-adds.
template <typename T>
inline constexpr int kGramProduct = sizeof(T) == 8 ? kDouble : kTf32x3;

template <typename T>
struct GramMatrixArguments {
  Features<T> features;
  int64_t batch, positions;
  GramParts parts;
  Accumulator<T>* out;  // (parts, B, n, n); (B, n, n) of one part is the matrix itself
};

// Piece: a part of the sum for a tile on or below the diagonal of matrix (B, n, n) = Xc^T Xc / N (x
// seen as free x side); the half above is its mirror image.
template <typename T>
__global__ void __launch_bounds__(kProductThreads<kGramProduct<T>>, 1)
    gram_matrix(GramMatrixArguments<T> p) {
  wait_for_last_launch();
  using Acc = Accumulator<T>;
  const Features<T>& f = p.features;
  const int64_t n = f.side, half = TriangleTile::count(tiles(n)), parts = p.parts.count;
  for (int64_t piece = blockIdx.x; piece < p.batch * half * parts; piece += gridDim.x) {
    const int64_t number = quotient(piece, parts), part = piece - number * parts;
    const int64_t b = quotient(number, half);
    const TriangleTile tile(number - b * half);
    const Features<T> x = f.sample(b);
    const int64_t begin = part * p.parts.length;
    const int64_t length = p.parts.length < f.free - begin ? p.parts.length : f.free - begin;
    const int64_t skipped = f.channel_is_side ? 0 : begin;  // of the means
    const FeatureOperand<T> operand{x.data + begin * f.free_stride,
                                    f.side_stride,
                                    f.free_stride,
                                    length,
                                    x.mean + skipped,
                                    x.mean_rest + skipped,
                                    f.channel_is_side ? MeanOf::row : MeanOf::depth};
    Acc* out = p.out + (part * p.batch + b) * n * n;
    product_tile<kGramProduct<T>>(tile.row * kTile, n, tile.column * kTile, n, operand, operand,
                                  tile.row == tile.column, [&](int64_t i, int64_t j, Acc sum) {
                                    if (i < j || i >= n) return;
                                    const Acc value = sum / Acc(p.positions);
                                    out[i * n + j] = value;
                                    out[j * n + i] = value;
                                  });
  }
}

// The matrices (B, n, n) as gram_matrix leaves them: sums of parts, each so far behind the one
// before.
template <typename Acc>
struct MatrixParts {
  const Acc* first;
  int64_t count, stride;
  Acc* sum;  // where there are several: to be stored here

  __device__ const Acc* part(int64_t b, int64_t n) const { return first + b * n * n; }
};

// matrix (size,) = the sum of the parts (count, size), in their order.
template <typename Acc>
__global__ void __launch_bounds__(kLineThreads, 1)
    add_gram_parts(int64_t size, int64_t count, const Acc* parts, Acc* matrix) {
  wait_for_last_launch();
  const int64_t step = int64_t(gridDim.x) * kLineThreads;
  for (int64_t at = int64_t(blockIdx.x) * kLineThreads + threadIdx.x; at < size; at += step) {
    Acc sum = 0;
#pragma unroll 4
    for (int64_t part = 0; part < count; ++part) sum += parts[part * size + at];
    matrix[at] = sum;
  }
}

// Piece: a few side entries of a sample. ones[s] = sum over f of Xc[f, s] and, where there are
// weights, sums[s] = sum over f of weights[f] Xc[f, s].
template <typename T>
__global__ void __launch_bounds__(kLineThreads, 1)
    weighted_sums(Features<T> features, int64_t batch, double* ones, const double* weights,
                  double* sums) {
  wait_for_last_launch();
  const bool contiguous = !features.side_is_inner();
  const int count = lines_of_block(contiguous);
  const int64_t n = features.side, pieces = (n + count - 1) / count;
  for (int64_t piece = blockIdx.x; piece < batch * pieces; piece += gridDim.x) {
    const int64_t b = piece / pieces, s0 = piece % pieces * count, s = s0 + threadIdx.x;
    const bool owner = threadIdx.x < static_cast<unsigned>(count) && s < n;
    const Features<T> x = features.sample(b);
    const double one = line_sum(s0, n, features.free, contiguous,
                                [&](int64_t s, int64_t f) { return double(x(f, s)); });
    if (owner) ones[b * n + s] = one;
    if (weights == nullptr) continue;
    const double* w = weights + b * features.free;
    const double sum = line_sum(s0, n, features.free, contiguous,
                                [&](int64_t s, int64_t f) { return double(x(f, s)) * w[f]; });
    if (owner) sums[b * n + s] = sum;
  }
}

// ---- forward ----------------------------------------------------------------------------------

template <typename Acc>
struct SqueezeArguments {
  int64_t batch, channels, positions, n;
  MatrixParts<Acc> matrix;
  const Acc* mean;        // (B, D)
  const double* squares;  // (B, D)
  const double* start;    // (B, n); null on the channels side: ones
  double* vectors;        // (B, 3, n); row 0 is the result
  Acc* trace;             // (B,)
  StoredSqueezes second;  // channels side only
};

// Piece: a sample, of whose matrix there is one part. The trace, q(C / tr) v, and on the channels
// side the squeeze itself.
template <typename Acc>
__global__ void __launch_bounds__(kRecurrenceThreads, 1)
    chebyshev_squeeze(SqueezeArguments<Acc> p, const __grid_constant__ Coefficients coefficients) {
  wait_for_last_launch();
  for (int64_t b = blockIdx.x; b < p.batch; b += gridDim.x) {
    double spread = 0, level = 0;
    for (int64_t d = threadIdx.x; d < p.channels; d += kRecurrenceThreads) {
      const double mean = double(p.mean[b * p.channels + d]);
      spread += p.squares[b * p.channels + d];
      level += mean * mean;
    }
    spread = block_sum(spread) / double(p.positions);
    level = block_sum(level);
    const Acc stored = spread_or_zero<Acc>(spread, level);
    if (threadIdx.x == 0) p.trace[b] = stored;
    const double trace = double(stored);

    double* result = p.vectors + b * 3 * p.n;
    const StoredSqueezes second = p.second;
    const int64_t row = b * p.channels;
    if (trace == 0) {
      for (int64_t d = threadIdx.x; second.data && d < p.channels; d += kRecurrenceThreads) {
        second.store(row + d, Acc(0));
      }
      continue;
    }
    for (int64_t i = threadIdx.x; i < p.n; i += kRecurrenceThreads) {
      result[p.n + i] = p.start ? p.start[b * p.n + i] : 1.0;
    }
    const int64_t n = p.n;
    const Acc* matrix = p.matrix.part(b, n);
    chebyshev_sum(
        matrix, n, trace, coefficients, [=](int j) { return result + (1 + j % 2) * n; }, result);
    if (second.data) {
      const double scale = 1 / (sqrt(trace) * double(p.channels));
      symmetric_product(matrix, n, result,
                        [=](int64_t d, double sum) { second.store(row + d, Acc(scale * sum)); });
    }
  }
}

// Positions side. Piece: a few channels of a sample. second = sqrt(tr) / D * Xc y / (N tr).
template <typename T>
__global__ void __launch_bounds__(kLineThreads, 1)
    squeeze_positions(Features<T> features, int64_t batch, const Accumulator<T>* traces,
                      const double* vectors, Squeezes<T> second) {
  wait_for_last_launch();
  const bool contiguous = features.side_is_inner();
  const int count = lines_of_block(contiguous);
  const int64_t n = features.side, channels = features.free;
  const int64_t pieces = (channels + count - 1) / count;
  for (int64_t piece = blockIdx.x; piece < batch * pieces; piece += gridDim.x) {
    const int64_t b = piece / pieces, d0 = piece % pieces * count;
    const Features<T> x = features.sample(b);
    const double trace = double(traces[b]);
    const double* y = vectors + b * 3 * n;
    double value = 0;
    if (trace != 0) {
      value = line_sum(d0, channels, n, contiguous,
                       [&](int64_t d, int64_t s) { return double(x(d, s)) * y[s]; });
      value /= sqrt(trace) * double(channels) * double(n);
    }
    const int64_t d = d0 + threadIdx.x;
    if (threadIdx.x < static_cast<unsigned>(count) && d < channels) {
      second.store(b * channels + d, Accumulator<T>(value));
    }
  }
}

// ---- backward ---------------------------------------------------------------------------------

// What the gradient's pairs are made of (AdjointRows), once more in the type of the products with
// the features: (B, 2, pairs, n), every row in its place and in its partner's.
template <typename Acc>
struct PairRows {
  Acc* data;  // or null: the dense form has no need of them
  int64_t pairs;

  __device__ Acc* of(int64_t b, int64_t n) const { return data + b * 2 * pairs * n; }
  __device__ Acc* partners(int64_t b, int64_t n) const { return of(b, n) + pairs * n; }
  __device__ void store(AdjointRows at, int64_t b, int64_t row, int64_t i, double value) const {
    if (data == nullptr || row >= pairs) return;
    of(b, at.n)[row * at.n + i] = Acc(value);
    partners(b, at.n)[at.partner(row) * at.n + i] = Acc(value);
  }
};

template <typename Acc>
struct AdjointArguments {
  int64_t batch, channels, positions;
  AdjointRows rows;
  MatrixParts<Acc> matrix;
  const Acc* trace;               // (B,)
  const double* table;            // a GradientTable's numbers; null where they travel
  const double* upstream;         // (B, D) grad_second
  const double* start;            // (B, n), positions side; null on the channels side
  const double* result_gradient;  // (B, n), positions side: Xc^T grad_second
  double* vectors;                // (B, rows, n)
  PairRows<Acc> pair_rows;
  double* trace_gradient;  // (B,)
};

// Piece: a part of a table that is too long to travel with the kernel that reads it.
__global__ void __launch_bounds__(kRecurrenceThreads, 1)
    store_numbers(const __grid_constant__ Coefficients numbers, double* to) {
  wait_for_last_launch();
  for (int i = threadIdx.x; i < numbers.terms; i += kRecurrenceThreads) to[i] = numbers.c[i];
}

// Piece: a sample, of whose matrix there is one part. The rows of the gradient, and the gradient
// with respect to the trace.
template <typename Acc>
__global__ void __launch_bounds__(kRecurrenceThreads, 1)
    chebyshev_gradient(AdjointArguments<Acc> p, const __grid_constant__ Coefficients travelling) {
  wait_for_last_launch();
  const AdjointRows rows = p.rows;
  const double* table = p.table ? p.table : travelling.c;
  const int64_t n = rows.n;
  for (int64_t b = blockIdx.x; b < p.batch; b += gridDim.x) {
    const double trace = double(p.trace[b]);
    if (trace == 0) {
      if (threadIdx.x == 0) p.trace_gradient[b] = 0;
      continue;
    }
    const Acc* matrix = p.matrix.part(b, n);
    double* base = p.vectors + b * rows.size();
    double *t = base + rows.t(0), *s = base + rows.s(0);
    const double scale = sqrt(trace) / double(p.channels);
    if (p.start) {
      for (int64_t i = threadIdx.x; i < n; i += kRecurrenceThreads) {
        t[i] = p.start[b * n + i];
        s[i] = scale / (double(p.positions) * trace) * p.result_gradient[b * n + i];
      }
    } else {
      double* upstream = base + rows.upstream();
      for (int64_t i = threadIdx.x; i < n; i += kRecurrenceThreads) {
        t[i] = 1;
        upstream[i] = scale / 2 * p.upstream[b * n + i];
      }
      symmetric_product(matrix, n, upstream,
                        [=](int64_t i, double sum) { s[i] = 2 * sum / trace; });
    }
    const double radial = chebyshev_adjoint(matrix, trace, table, rows, base);
    for (int64_t e = threadIdx.x; e < p.pair_rows.pairs * n; e += kRecurrenceThreads) {
      const int64_t row = quotient(e, n);
      p.pair_rows.store(rows, b, row, e - row * n, base[e]);
    }
    // The squeeze is sqrt(tr) * (1 / tr) * (...), and the matrix inside q is C / tr.
    if (threadIdx.x == 0) p.trace_gradient[b] = -radial / (2 * trace);
  }
}

template <typename Acc>
struct GradientScale {
  const Acc* trace;              // (B,)
  const double* trace_gradient;  // (B,)
  int64_t positions;

  __device__ double outer(int64_t b) const { return 2 / (double(positions) * double(trace[b])); }
  __device__ double diagonal(int64_t b) const { return 2 * trace_gradient[b] / double(positions); }
};

// Dense form. Piece: a tile of factor (B, n, n), the matrix P of dXc = Xc P (x as free x side).
template <typename Acc>
__global__ void __launch_bounds__(kTileThreads, 1)
    pair_matrix(int64_t batch, AdjointRows rows, int64_t pairs, const double* vectors,
                GradientScale<Acc> scale, Acc* factor) {
  wait_for_last_launch();
  const int64_t n = rows.n, across = tiles(n);
  for (int64_t piece = blockIdx.x; piece < batch * across * across; piece += gridDim.x) {
    const int64_t b = piece / (across * across);
    const int64_t tile_i = piece / across % across, tile_j = piece % across;
    if (tile_j > tile_i || scale.trace[b] == Acc(0)) continue;
    const double* base = vectors + b * rows.size();
    const double outer = scale.outer(b), diagonal = scale.diagonal(b);
    Acc* out = factor + b * n * n;
    tile_product<double>(
        tile_i * kTile, n, tile_j * kTile, n, pairs, TileOrder{false, false, false},
        [&](int64_t i, int64_t r) { return base[r * n + i]; },
        [&](int64_t r, int64_t j) { return base[rows.partner(r) * n + j]; },
        [&](int64_t i, int64_t j, double sum) {
          const Acc value = Acc(outer * sum + (i == j ? diagonal : 0.0));
          out[i * n + j] = value;
          if (tile_i != tile_j) out[j * n + i] = value;
        });
  }
}

// Blocks of a multiprocessor whose tiles are products with the features.
template <typename T>
inline constexpr int kProductBlocks = sizeof(T) == 8 ? 1 : 2;

// The features of a sample as the left operand, free x side.
template <typename T>
__device__ FeatureOperand<T> free_by_side(const Features<T>& x, int64_t depth) {
  return {x.data,
          x.free_stride,
          x.side_stride,
          depth,
          x.mean,
          x.mean_rest,
          x.channel_is_side ? MeanOf::depth : MeanOf::row};
}

// Numbers that are not centred: `lines` of so many neighbours each, whose depth is along them or
// across.
template <typename Acc>
__device__ FeatureOperand<Acc> plain_operand(const Acc* data, int64_t line, int64_t depth,
                                             bool along) {
  return {data, along ? line : 1, along ? 1 : line, depth, nullptr, nullptr, MeanOf::nothing};
}

// Low-rank form. Piece: a tile of factor (B, free, pairs) = 2 / (N tr) * Xc (rows of the pairs)^T.
template <typename T>
__global__ void __launch_bounds__(kProductThreads<kGramProduct<T>>, kProductBlocks<T>)
    pair_projection(Features<T> features, int64_t batch, PairRows<Accumulator<T>> rows,
                    GradientScale<Accumulator<T>> scale, Accumulator<T>* factor) {
  wait_for_last_launch();
  using Acc = Accumulator<T>;
  const int64_t n = features.side, free = features.free, pairs = rows.pairs;
  const int64_t down = tiles(free), across = tiles(pairs);
  for (int64_t piece = blockIdx.x; piece < batch * down * across; piece += gridDim.x) {
    const int64_t line = quotient(piece, across), b = quotient(line, down);
    if (scale.trace[b] == Acc(0)) continue;
    const Features<T> x = features.sample(b);
    const Acc outer = Acc(scale.outer(b));
    Acc* out = factor + b * free * pairs;
    product_tile<kGramProduct<T>>(
        (line - b * down) * kTile, free, (piece - line * across) * kTile, pairs, free_by_side(x, n),
        plain_operand<Acc>(rows.of(b, n), n, n, true), false, [&](int64_t f, int64_t r, Acc sum) {
          if (f < free && r < pairs) out[f * pairs + r] = outer * sum;
        });
  }
}

}  // namespace ccdn::cuda
