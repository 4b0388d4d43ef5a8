// The kernels of dual_squeeze.cu, in the order in which they run. Each is a grid-stride loop over
// pieces of work; a block does one piece at a time.
#pragma once

#include <cstdint>

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

// matrix (size,) = the sum of the parts (count, size), in their order.
template <typename Acc>
__global__ void __launch_bounds__(kLineThreads, 1)
    add_gram_parts(int64_t size, int64_t count, const Acc* parts, Acc* matrix) {
  const int64_t step = int64_t(gridDim.x) * kLineThreads;
  for (int64_t at = int64_t(blockIdx.x) * kLineThreads + threadIdx.x; at < size; at += step) {
    Acc sum = 0;
#pragma unroll 4
    for (int64_t part = 0; part < count; ++part) sum += parts[part * size + at];
    matrix[at] = sum;
  }
}

// Piece: a few side entries of a sample. sums[s] = sum over f of weights[f] Xc[f, s]; weights of
// null are ones.
template <typename T>
__global__ void __launch_bounds__(kLineThreads, 1)
    weighted_sums(Features<T> features, int64_t batch, const double* weights, double* sums) {
  const bool contiguous = !features.side_is_inner();
  const int count = lines_of_block(contiguous);
  const int64_t n = features.side, pieces = (n + count - 1) / count;
  for (int64_t piece = blockIdx.x; piece < batch * pieces; piece += gridDim.x) {
    const int64_t b = piece / pieces, s0 = piece % pieces * count;
    const Features<T> x = features.sample(b);
    const double* w = weights ? weights + b * features.free : nullptr;
    const double sum = line_sum(s0, n, features.free, contiguous, [&](int64_t s, int64_t f) {
      return double(x(f, s)) * (w ? w[f] : 1.0);
    });
    const int64_t s = s0 + threadIdx.x;
    if (threadIdx.x < static_cast<unsigned>(count) && s < n) sums[b * n + s] = sum;
  }
}

// ---- forward ----------------------------------------------------------------------------------

template <typename T>
struct SqueezeArguments {
  int64_t batch, channels, positions, n;
  const Accumulator<T>* matrix;  // (B, n, n)
  const Accumulator<T>* mean;    // (B, D)
  const double* squares;         // (B, D)
  const double* start;           // (B, n); null on the channels side: ones
  double* vectors;               // (B, 3, n); row 0 is the result
  Accumulator<T>* trace;         // (B,)
  Squeezes<T> second;            // channels side only
};

// Piece: a sample. The trace, q(C / tr) v, and on the channels side the squeeze itself.
template <typename T>
__global__ void __launch_bounds__(kRecurrenceThreads, 1)
    chebyshev_squeeze(SqueezeArguments<T> p, const __grid_constant__ Coefficients coefficients) {
  using Acc = Accumulator<T>;
  for (int64_t b = blockIdx.x; b < p.batch; b += gridDim.x) {
    double spread = 0, level = 0;
    for (int64_t d = threadIdx.x; d < p.channels; d += kRecurrenceThreads) {
      const double mean = double(p.mean[b * p.channels + d]);
      spread += p.squares[b * p.channels + d] / double(p.positions);
      level += mean * mean;
    }
    spread = block_sum(spread);
    level = block_sum(level);
    const Acc stored = spread_or_zero<Acc>(spread, level);
    if (threadIdx.x == 0) p.trace[b] = stored;
    const double trace = double(stored);

    double* result = p.vectors + b * 3 * p.n;
    const Squeezes<T> second = p.second;
    const int64_t row = b * p.channels;
    if (trace == 0) {
      for (int64_t d = threadIdx.x; second && d < p.channels; d += kRecurrenceThreads) {
        second.store(row + d, Acc(0));
      }
      continue;
    }
    for (int64_t i = threadIdx.x; i < p.n; i += kRecurrenceThreads) {
      result[p.n + i] = p.start ? p.start[b * p.n + i] : 1.0;
    }
    const Acc* matrix = p.matrix + b * p.n * p.n;
    const int64_t n = p.n;
    chebyshev_sum(
        matrix, n, trace, coefficients, [=](int j) { return result + (1 + j % 2) * n; }, result);
    if (second) {
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

template <typename Acc>
struct AdjointArguments {
  int64_t batch, channels, positions;
  AdjointRows rows;
  const Acc* matrix;              // (B, n, n)
  const Acc* trace;               // (B,)
  const double* table;            // a GradientTable's numbers; null where they travel
  const double* upstream;         // (B, D) grad_second
  const double* start;            // (B, n), positions side; null on the channels side
  const double* result_gradient;  // (B, n), positions side: Xc^T grad_second
  double* vectors;                // (B, rows, n)
  double* trace_gradient;         // (B,)
};

// Piece: a part of a table that is too long to travel with the kernel that reads it.
__global__ void __launch_bounds__(kRecurrenceThreads, 1)
    store_numbers(const __grid_constant__ Coefficients numbers, double* to) {
  for (int i = threadIdx.x; i < numbers.terms; i += kRecurrenceThreads) to[i] = numbers.c[i];
}

// Piece: a sample. The rows of the gradient, and the gradient with respect to the trace.
template <typename Acc>
__global__ void __launch_bounds__(kRecurrenceThreads, 1)
    chebyshev_gradient(AdjointArguments<Acc> p, const __grid_constant__ Coefficients travelling) {
  const AdjointRows rows = p.rows;
  const double* table = p.table ? p.table : travelling.c;
  const int64_t n = rows.n;
  for (int64_t b = blockIdx.x; b < p.batch; b += gridDim.x) {
    const double trace = double(p.trace[b]);
    if (trace == 0) {
      if (threadIdx.x == 0) p.trace_gradient[b] = 0;
      continue;
    }
    const Acc* matrix = p.matrix + b * n * n;
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

// Low-rank form. Piece: a tile of factor (B, free, pairs) = 2 / (N tr) * Xc (rows of the pairs)^T.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, 1)
    pair_projection(Features<T> features, int64_t batch, AdjointRows rows, int64_t pairs,
                    const double* vectors, GradientScale<Accumulator<T>> scale,
                    Accumulator<T>* factor) {
  using Acc = Accumulator<T>;
  const int64_t n = features.side, free = features.free;
  const int64_t down = tiles(free), across = tiles(pairs);
  for (int64_t piece = blockIdx.x; piece < batch * down * across; piece += gridDim.x) {
    const int64_t b = piece / (down * across);
    if (scale.trace[b] == Acc(0)) continue;
    const Features<T> x = features.sample(b);
    const double* base = vectors + b * rows.size();
    const double outer = scale.outer(b);
    Acc* out = factor + b * free * pairs;
    tile_product<Acc>(
        piece / across % down * kTile, free, piece % across * kTile, pairs, n,
        TileOrder{features.side_is_inner(), true, false},
        [&](int64_t f, int64_t s) { return x(f, s); },
        [&](int64_t s, int64_t r) { return Acc(base[r * n + s]); },
        [&](int64_t f, int64_t r, Acc sum) { out[f * pairs + r] = Acc(outer) * sum; });
  }
}

template <typename T>
struct ExpandArguments {
  Features<T> features;
  int64_t batch;
  AdjointRows rows;
  int64_t pairs;
  const double* vectors;         // (B, rows, n)
  const Accumulator<T>* factor;  // (B, n, n) or (B, free, pairs)
  GradientScale<Accumulator<T>> scale;
  Squeezes<T> grad_first;
  const double* upstream;  // (B, D) grad_second
  T* grad_x;               // strides of x
  bool accumulate;         // onto what grad_x holds
};

// What every entry of the gradient adds to Xc P: the mean's share and, on the positions side, that
// of v = Xc^T 1 and of the last product with Xc. Made once for a tile: divisions and roots of
// float64 are dear.
template <typename T>
struct GradientRest {
  const ExpandArguments<T>& p;
  int64_t first;  // channel of the batch
  double of_mean, of_product;
  const double* base;  // null without a share of v

  __device__ GradientRest(const ExpandArguments<T>& p, int64_t b, bool constant)
      : p(p), first(b * p.features.channels), of_mean(1 / double(p.scale.positions)) {
    const bool with_start = !constant && !p.features.channel_is_side;
    base = with_start ? p.vectors + b * p.rows.size() : nullptr;
    of_product =
        with_start ? of_mean / (sqrt(double(p.scale.trace[b])) * double(p.features.channels)) : 0;
  }
  __device__ double operator()(int64_t f, int64_t s) const {
    const int64_t d = first + p.features.channel(f, s);
    double value = double(p.grad_first.load(d)) * of_mean;
    if (base) {
      value += base[p.rows.start_gradient() + s];
      value += p.upstream[d] * base[p.rows.result() + s] * of_product;
    }
    return value;
  }
};

// Dense form. Piece: a tile of the gradient (free x side) = Xc P + rest.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, 1) expand_dense(ExpandArguments<T> p) {
  using Acc = Accumulator<T>;
  const int64_t n = p.features.side, free = p.features.free;
  const int64_t down = tiles(free), across = tiles(n);
  const bool inner = p.features.side_is_inner();
  for (int64_t piece = blockIdx.x; piece < p.batch * down * across; piece += gridDim.x) {
    const int64_t b = piece / (down * across);
    const Features<T> x = p.features.sample(b);
    const bool constant = p.scale.trace[b] == Acc(0);
    const GradientRest<T> rest(p, b, constant);
    const Acc* factor = p.factor + b * n * n;
    T* out = p.grad_x + b * p.features.batch_stride;
    tile_product<Acc>(
        piece / across % down * kTile, free, piece % across * kTile, n, constant ? 0 : n,
        TileOrder{inner, false, !inner}, [&](int64_t f, int64_t k) { return x(f, k); },
        [&](int64_t k, int64_t s) { return factor[k * n + s]; },
        [&](int64_t f, int64_t s, Acc sum) {
          double value = double(sum) + rest(f, s);
          if (p.accumulate) value += double(Element<T>::load(out[x.offset(f, s)]));
          out[x.offset(f, s)] = Element<T>::store(Acc(value));
        });
  }
}

// Low-rank form. Piece: as above, with Xc P = factor (paired rows) + diagonal Xc.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, 1) expand_low_rank(ExpandArguments<T> p) {
  using Acc = Accumulator<T>;
  const int64_t n = p.features.side, free = p.features.free;
  const int64_t down = tiles(free), across = tiles(n);
  const AdjointRows rows = p.rows;
  for (int64_t piece = blockIdx.x; piece < p.batch * down * across; piece += gridDim.x) {
    const int64_t b = piece / (down * across);
    const Features<T> x = p.features.sample(b);
    const bool constant = p.scale.trace[b] == Acc(0);
    const GradientRest<T> rest(p, b, constant);
    const Acc* factor = p.factor + b * free * p.pairs;
    const double* base = p.vectors + b * rows.size();
    const double diagonal = constant ? 0 : p.scale.diagonal(b);
    T* out = p.grad_x + b * p.features.batch_stride;
    tile_product<Acc>(
        piece / across % down * kTile, free, piece % across * kTile, n, constant ? 0 : p.pairs,
        TileOrder{true, false, !p.features.side_is_inner()},
        [&](int64_t f, int64_t r) { return factor[f * p.pairs + r]; },
        [&](int64_t r, int64_t s) { return Acc(base[rows.partner(r) * n + s]); },
        [&](int64_t f, int64_t s, Acc sum) {
          double value = double(sum) + rest(f, s);
          if (!constant) value += diagonal * double(x(f, s));
          if (p.accumulate) value += double(Element<T>::load(out[x.offset(f, s)]));
          out[x.offset(f, s)] = Element<T>::store(Acc(value));
        });
  }
}

}  // namespace ccdn::cuda
