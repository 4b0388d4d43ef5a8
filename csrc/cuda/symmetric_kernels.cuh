// The kernels of covariance_pool, newton_schulz_sqrt and isqrt_cov: products of symmetric matrices
// and of features, half of whose tiles are computed where the result is symmetric, and conversions
// of matrices from one form to another. Each is a grid-stride loop over pieces of work.
//
// On a napkin, for a sample of s bytes a number, n the matrix's size, f the features' other axis:
//
//   symmetric_product   n^3 / 2 multiply-adds (of 64 x 64 tiles at n = 256: ten of sixteen), 8 n^2
//                       bytes read, 4 n^2 written: at 256 2.1e7 / 2 x 3 TF32 terms, 0.07 us of an
//                       H100's 495 TFLOP/s, and 0.23 us of its 3.35 TB/s, or less from L2, where
//                       the last product's result is: so the sums 1.5 Y - 0.5 Y P are its epilogue
//   gram                n^2 f / 2 multiply-adds, s n f bytes read, s n^2 written
//   multiply            n^2 f multiply-adds, s n f bytes read, s n f written, and a matrix
//   the others          a matrix read, a matrix written; n^2 numbers are little beside n^3
#pragma once

#include <cstdint>

#include "pack.cuh"
#include "product.cuh"

namespace ccdn::cuda {

constexpr int kMatrixThreads = 256;
constexpr int kSquare = 32;  // the tile of the kernels that move matrices

// Matrices of all samples.
template <typename Acc>
struct Matrix {
  Acc* data;
  int64_t stride;  // of the samples

  __device__ Acc* sample(int64_t b) const { return data ? data + b * stride : nullptr; }
};

// Features of all samples, seen as rows x depth.
template <typename T>
struct FeatureView {
  const T* data;
  int64_t batch_stride, row_stride, depth_stride;
  int64_t depth, channels;
  const Accumulator<T>*mean, *rest;  // (B, channels)
  MeanOf mean_of;

  __device__ FeatureOperand<T> sample(int64_t b) const {
    return {data + b * batch_stride, row_stride,          depth_stride, depth,
            mean + b * channels,     rest + b * channels, mean_of};
  }
};

// A factor and a shift for each sample, (B, 2). If both are 0 the sample is 0, whatever it holds.
struct Factors {
  const double* data;

  __device__ double scale(int64_t b) const { return data[2 * b]; }
  __device__ double shift(int64_t b) const { return data[2 * b + 1]; }
  __device__ bool none(int64_t b) const { return scale(b) == 0 && shift(b) == 0; }
};

// Matrices in rows of the element type: full, or the upper triangle's.
template <typename T>
struct RowMatrix {
  T* data;
  bool triangle;

  __device__ T* sample(int64_t b, int64_t n) const { return data + b * row_size(n, triangle); }
};

template <int kProduct>
using ProductAcc = typename ProductOf<kProduct>::Acc;

// ---- products ---------------------------------------------------------------------------------

template <typename Acc>
struct SymmetricArguments {
  int64_t batch, n;
  Matrix<const Acc> left, right, left2, right2;  // the second pair is null where there is one
  Matrix<const Acc> u, v;                        // or null
  Acc scale, a, b;
  Matrix<Acc> out;
};

// out = scale (left right + left2 right2) + a u + b v, all symmetric and in panels; the sum of the
// products is, too: a tile of the lower triangle and its mirror image.
template <int kProduct>
__device__ __forceinline__ void symmetric_tile(const SymmetricArguments<ProductAcc<kProduct>>& p,
                                               int64_t b, const TriangleTile& tile) {
  using Acc = ProductAcc<kProduct>;
  const int64_t n = p.n, width = panel_count<Acc>(n) * kPanelColumns<Acc>;
  const PanelOperand<Acc> left{p.left.sample(b), p.left2.sample(b), n};
  const PanelOperand<Acc> right{p.right.sample(b), p.right2.sample(b), n};
  const Acc *u = p.u.sample(b), *v = p.v.sample(b);
  Acc* out = p.out.sample(b);
  product_tile<kProduct>(tile.row * kTile, n, tile.column * kTile, n, left, right, false,
                         [&](int64_t i, int64_t j, Acc sum) {
                           // Rows beyond the last are the padding of the columns.
                           if (i < j || j >= n || i >= width) return;
                           if (i >= n) {
                             out[panel_place<Acc>(j, i, n)] = 0;
                             return;
                           }
                           const int64_t place = panel_place<Acc>(i, j, n);
                           Acc value = p.scale * sum;
                           if (u) value += p.a * u[place];
                           if (v) value += p.b * v[place];
                           out[place] = value;
                           out[panel_place<Acc>(j, i, n)] = value;
                         });
}

// Piece: a tile of the lower triangle.
template <int kProduct>
__global__ void __launch_bounds__(kProductThreads<kProduct>, kProduct == kDouble ? 1 : 3)
    symmetric_product(SymmetricArguments<ProductAcc<kProduct>> p) {
  const int64_t half = TriangleTile::count(tiles(p.n));
  for (int64_t piece = blockIdx.x; piece < p.batch * half; piece += gridDim.x) {
    const int64_t b = quotient(piece, half);
    symmetric_tile<kProduct>(p, b, TriangleTile(piece - b * half));
  }
}

// Products one after another, of matrices that are one tile each: no block needs another's.
template <typename Acc>
struct SymmetricChain {
  static constexpr int kMost = 20;  // parameters of a kernel have 4 KB
  int count;
  SymmetricArguments<Acc> product[kMost];
};

// Piece: a sample.
template <int kProduct>
__global__ void __launch_bounds__(kProductThreads<kProduct>, 1)
    symmetric_chain(const __grid_constant__ SymmetricChain<ProductAcc<kProduct>> chain) {
  for (int64_t b = blockIdx.x; b < chain.product[0].batch; b += gridDim.x) {
    for (int k = 0; k < chain.count; ++k) {
      symmetric_tile<kProduct>(chain.product[k], b, TriangleTile(0));
      __syncthreads();  // the next one reads what this one has written
    }
  }
}

template <typename T, typename Acc>
struct GramArguments {
  int64_t batch, n;
  FeatureView<T> left;
  FeatureView<Acc> right;  // kExpanded
  Factors factors;
  RowMatrix<T> rows;  // where it goes, or
  Matrix<Acc> panels;
};

// out = scale L R^T, symmetric, of features L and R = L or, kExpanded, others in Acc. Piece: a tile
// of the lower triangle.
template <typename T, int kProduct, bool kExpanded>
__global__ void __launch_bounds__(kProductThreads<kProduct>, 1)
    gram(GramArguments<T, ProductAcc<kProduct>> p) {
  using Acc = ProductAcc<kProduct>;
  const int64_t n = p.n, width = panel_count<Acc>(n) * kPanelColumns<Acc>;
  const int64_t half = TriangleTile::count(tiles(n));
  for (int64_t piece = blockIdx.x; piece < p.batch * half; piece += gridDim.x) {
    const int64_t b = quotient(piece, half);
    const TriangleTile tile(piece - b * half);
    const Acc scale = Acc(p.factors.scale(b));
    T* rows = p.rows.data ? p.rows.sample(b, n) : nullptr;
    Acc* panels = p.panels.sample(b);
    const auto store = [&](int64_t i, int64_t j, Acc sum) {
      if (i < j || j >= n || i >= width) return;
      const Acc value = i >= n || scale == 0 ? Acc(0) : scale * sum;
      if (panels) {
        if (i < n) panels[panel_place<Acc>(i, j, n)] = value;
        panels[panel_place<Acc>(j, i, n)] = value;
      } else if (i < n) {
        const T narrow = Element<T>::store(Accumulator<T>(value));
        rows[row_place(j, i, n, p.rows.triangle)] = narrow;
        if (!p.rows.triangle) rows[row_place(i, j, n, false)] = narrow;
      }
    };
    const auto left = p.left.sample(b);
    if constexpr (kExpanded) {
      product_tile<kProduct>(tile.row * kTile, n, tile.column * kTile, n, left, p.right.sample(b),
                             false, store);
    } else {
      product_tile<kProduct>(tile.row * kTile, n, tile.column * kTile, n, left, left,
                             tile.row == tile.column, store);
    }
  }
}

constexpr int kNarrow = 0;  // out = M X + own X in T
constexpr int kWide = 1;    // ... in Acc
constexpr int kPair = 2;    // out = M X + M' Y in T

template <typename T, typename Acc>
struct MultiplyArguments {
  int64_t batch, n, free;
  Matrix<const Acc> matrix, second;  // symmetric, in panels
  FeatureView<T> x;                  // n x free
  FeatureView<Acc> y;                // kPair
  double own;
  void* out;
  int64_t batch_stride, row_stride, free_stride;
};

// Piece: a tile of out (n x free).
template <typename T, int kProduct, int kForm>
__global__ void __launch_bounds__(kProductThreads<kProduct>, 1)
    multiply(MultiplyArguments<T, ProductAcc<kProduct>> p) {
  using Acc = ProductAcc<kProduct>;
  const int64_t down = tiles(p.n), across = tiles(p.free);
  for (int64_t piece = blockIdx.x; piece < p.batch * down * across; piece += gridDim.x) {
    const int64_t row = quotient(piece, across), b = quotient(row, down);
    const int64_t row0 = (row - b * down) * kTile, column0 = (piece - row * across) * kTile;
    const PanelOperand<Acc> matrix{p.matrix.sample(b),
                                   kForm == kPair ? p.second.sample(b) : nullptr, p.n};
    const FeatureOperand<T> x = p.x.sample(b);
    const auto store = [&](int64_t i, int64_t f, Acc sum) {
      if (i >= p.n || f >= p.free) return;
      const int64_t place = b * p.batch_stride + i * p.row_stride + f * p.free_stride;
      if constexpr (kForm == kPair) {
        static_cast<T*>(p.out)[place] = Element<T>::store(Accumulator<T>(sum));
      } else {
        if (p.own != 0) sum += Acc(p.own) * Acc(x(i, f));
        if constexpr (kForm == kWide) {
          static_cast<Acc*>(p.out)[place] = sum;
        } else {
          static_cast<T*>(p.out)[place] = Element<T>::store(Accumulator<T>(sum));
        }
      }
    };
    if constexpr (kForm == kPair) {
      const int64_t padded = panel_count<Acc>(p.n) * kPanelColumns<Acc>;
      const FeaturePair<T, Acc> pair{x.turned(p.n), p.y.sample(b).turned(p.n), padded};
      product_tile<kProduct>(row0, p.n, column0, p.free, matrix, pair, false, store);
    } else {
      product_tile<kProduct>(row0, p.n, column0, p.free, matrix, x.turned(p.n), false, store);
    }
  }
}

// ---- matrices from one form to another --------------------------------------------------------

// out, in panels, = scale (G + G^T) / 2 of rows, or of what an upper triangle stands for. Piece: a
// square of the matrix with its padding, whose mirror image is turned in shared memory.
template <typename T, bool kDoubles>
__global__ void __launch_bounds__(kMatrixThreads, 1)
    symmetrise(int64_t batch, int64_t n, RowMatrix<const T> from, Factors factors,
               Matrix<ProductAcc<kDoubles ? kDouble : kTf32x3>> to) {
  using Acc = ProductAcc<kDoubles ? kDouble : kTf32x3>;
  __shared__ Acc turned[kSquare][kSquare + 1];
  const int64_t width = panel_count<Acc>(n) * kPanelColumns<Acc>;
  const int64_t across = tiles(width, kSquare), squares = across * across;
  for (int64_t piece = blockIdx.x; piece < batch * squares; piece += gridDim.x) {
    const int64_t b = quotient(piece, squares);
    const int64_t row0 = quotient(piece - b * squares, across) * kSquare;
    const int64_t column0 = (piece - b * squares) % across * kSquare;
    const T* rows = from.sample(b, n);
    const auto entry = [&](int64_t i, int64_t j) {
      if (i >= n || j >= n || (from.triangle && i > j)) return Acc(0);
      return Acc(Element<T>::load(rows[row_place(i, j, n, from.triangle)]));
    };
    for (int e = threadIdx.x; e < kSquare * kSquare; e += kMatrixThreads) {
      turned[e % kSquare][e / kSquare] = entry(column0 + e / kSquare, row0 + e % kSquare);
    }
    __syncthreads();
    const Acc scale = factors.data ? Acc(factors.scale(b)) : Acc(1);
    for (int e = threadIdx.x; e < kSquare * kSquare; e += kMatrixThreads) {
      const int64_t i = row0 + e / kSquare, j = column0 + e % kSquare;
      if (i >= n || j >= width) continue;
      Acc value = entry(i, j);
      if (!from.triangle || i != j) value = (value + turned[e / kSquare][e % kSquare]) / 2;
      to.sample(b)[panel_place<Acc>(i, j, n)] = scale == 0 || j >= n ? Acc(0) : scale * value;
    }
    __syncthreads();
  }
}

// rows = scale M + shift 1.
template <typename T, bool kDoubles>
__global__ void __launch_bounds__(kMatrixThreads, 1)
    write_rows(int64_t batch, int64_t n,
               Matrix<const ProductAcc<kDoubles ? kDouble : kTf32x3>> from, Factors factors,
               RowMatrix<T> to) {
  using Acc = ProductAcc<kDoubles ? kDouble : kTf32x3>;
  const int64_t step = int64_t(gridDim.x) * kMatrixThreads;
  for (int64_t at = int64_t(blockIdx.x) * kMatrixThreads + threadIdx.x; at < batch * n * n;
       at += step) {
    const int64_t row = quotient(at, n), b = quotient(row, n), i = row - b * n, j = at - row * n;
    if (to.triangle && i > j) continue;
    Acc value = 0;
    if (!factors.none(b)) {
      value = Acc(factors.scale(b)) * from.sample(b)[panel_place<Acc>(i, j, n)];
      if (i == j) value += Acc(factors.shift(b));
    }
    to.sample(b, n)[row_place(i, j, n, to.triangle)] = Element<T>::store(Accumulator<T>(value));
  }
}

// out = scale M + shift 1, in panels, or `by` M where there are no factors; out may be M.
template <typename Acc>
__global__ void __launch_bounds__(kMatrixThreads, 1)
    scale_and_shift(int64_t batch, int64_t n, Matrix<const Acc> from, Factors factors, Acc by,
                    Matrix<Acc> to) {
  const int64_t size = panel_size<Acc>(n), step = int64_t(gridDim.x) * kMatrixThreads;
  for (int64_t at = int64_t(blockIdx.x) * kMatrixThreads + threadIdx.x; at < batch * size;
       at += step) {
    const int64_t b = quotient(at, size), place = at - b * size;
    const int64_t row = place / kPanelColumns<Acc>, i = row % n;
    const int64_t j = row / n * kPanelColumns<Acc> + place % kPanelColumns<Acc>;
    Acc value = 0;
    if (!factors.data) {
      value = by * from.sample(b)[place];
    } else if (!factors.none(b)) {
      value = Acc(factors.scale(b)) * from.sample(b)[place];
      if (i == j) value += Acc(factors.shift(b));
    }
    to.sample(b)[place] = value;
  }
}

}  // namespace ccdn::cuda
