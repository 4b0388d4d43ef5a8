// How the kernels of symmetric_kernels.cuh and symmetric_numbers.cuh are launched: what
// covariance_pool, newton_schulz_sqrt and isqrt_cov are made of.
#pragma once

#include <cstdint>

#include "../common/covariance_pool.h"
#include "launch.cuh"
#include "means.cuh"
#include "symmetric_kernels.cuh"
#include "symmetric_numbers.cuh"

namespace ccdn::cuda {

// Memory from a workspace, in pieces of multiples of 256 bytes; without one, only their size.
class DeviceArena {
 public:
  explicit DeviceArena(void* start) : start_(static_cast<char*>(start)) {}

  template <typename Number>
  Number* take(int64_t count) {
    Number* found = start_ ? reinterpret_cast<Number*>(start_ + used_) : nullptr;
    used_ += (count * int64_t(sizeof(Number)) + 255) / 256 * 256;
    return found;
  }
  int64_t used() const { return used_; }

 private:
  char* start_;
  int64_t used_ = 0;
};

inline int64_t matrix_blocks(int64_t numbers) { return round_up_quotient(numbers, kMatrixThreads); }

template <typename Acc>
Matrix<const Acc> read_only(Matrix<Acc> m) {
  return {m.data, m.stride};
}

// A factor and a shift for each sample, from the traces.
template <typename Trace>
Factors factors_of(Launcher& launch, int64_t batch, const Trace* traces, FactorOf kind, double by,
                   double shift, double* memory, const double* inner = nullptr,
                   const double* other = nullptr) {
  launch(sample_factors<Trace>, matrix_blocks(batch), kMatrixThreads, batch, traces, kind, by,
         shift, inner, other, memory);
  return {memory};
}

// The features of covariance_pool and isqrt_cov, their means and the trace of their covariance.
template <typename T>
struct CentredFeatures {
  using Acc = Accumulator<T>;
  const CovarianceShape& shape;
  const T* x;
  Acc *mean, *rest;
  double* squares;

  CentredFeatures(const CovarianceShape& shape, const void* x, DeviceArena& arena)
      : shape(shape),
        x(static_cast<const T*>(x)),
        mean(arena.take<Acc>(shape.batch * shape.channels)),
        rest(arena.take<Acc>(shape.batch * shape.channels)),
        squares(arena.take<double>(shape.batch * shape.channels)) {}

  void find_means(Launcher& launch, Acc* traces) const {
    MeanArguments<T> p = {};
    p.x = x;
    p.batch = shape.batch;
    p.channels = shape.channels;
    p.positions = shape.positions;
    p.stride_b = shape.stride_b;
    p.stride_d = shape.stride_d;
    p.stride_n = shape.stride_n;
    p.mean = mean;
    p.mean_rest = rest;
    p.squares = traces ? squares : nullptr;
    launch(channel_means<T>, line_pieces(p.batch, p.channels, p.stride_n <= p.stride_d),
           kLineThreads, p);
    if (traces) {
      launch(covariance_traces<T>, p.batch, kMatrixThreads, p.batch, p.channels, p.positions,
             static_cast<const double*>(squares), static_cast<const Acc*>(mean), traces);
    }
  }

  // Xc, D x N or, by_positions, N x D.
  FeatureView<T> view(bool by_positions) const {
    if (by_positions) {
      return {x,    shape.stride_b, shape.stride_n, shape.stride_d, shape.channels, shape.channels,
              mean, rest,           MeanOf::depth};
    }
    return {x,    shape.stride_b, shape.stride_d, shape.stride_n, shape.positions, shape.channels,
            mean, rest,           MeanOf::row};
  }
};

// Features (B, D, N) of our own, contiguous, seen as D x N or, by_positions, N x D.
template <typename Acc>
FeatureView<Acc> plain_view(const CovarianceShape& shape, const Acc* data, bool by_positions) {
  const int64_t d = shape.channels, n = shape.positions;
  if (by_positions) return {data, d * n, 1, n, d, 0, nullptr, nullptr, MeanOf::nothing};
  return {data, d * n, n, 1, n, 0, nullptr, nullptr, MeanOf::nothing};
}

// scale L R^T, R = L or, kExpanded, `right`: in rows of the element type, or in panels.
template <int kProduct, bool kExpanded, typename T>
void launch_gram(Launcher& launch, int64_t batch, int64_t n, const FeatureView<T>& left,
                 const FeatureView<ProductAcc<kProduct>>& right, Factors factors, RowMatrix<T> rows,
                 Matrix<ProductAcc<kProduct>> panels) {
  const GramArguments<T, ProductAcc<kProduct>> p{batch, n, left, right, factors, rows, panels};
  launch(gram<T, kProduct, kExpanded>, batch * TriangleTile::count(tiles(n)),
         kProductThreads<kProduct>, p);
}

// out, with the strides of rows, of columns and of samples that are given, = M X + own X, n x free.
template <int kProduct, int kForm, typename T>
void launch_multiply(Launcher& launch, int64_t batch, int64_t n,
                     Matrix<const ProductAcc<kProduct>> matrix, const FeatureView<T>& x, double own,
                     void* out, int64_t batch_stride, int64_t row_stride, int64_t free_stride,
                     Matrix<const ProductAcc<kProduct>> second = {},
                     const FeatureView<ProductAcc<kProduct>>& y = {}) {
  MultiplyArguments<T, ProductAcc<kProduct>> p = {};
  p.batch = batch;
  p.n = n;
  p.free = x.depth;
  p.matrix = matrix;
  p.second = second;
  p.x = x;
  p.y = y;
  p.own = own;
  p.out = out;
  p.batch_stride = batch_stride;
  p.row_stride = row_stride;
  p.free_stride = free_stride;
  launch(multiply<T, kProduct, kForm>, batch * tiles(n) * tiles(p.free), kProductThreads<kProduct>,
         p);
}

// to = scale (G + G^T) / 2, of rows or of an upper triangle.
template <bool kDoubles, typename T, typename Acc>
void launch_symmetrise(Launcher& launch, int64_t batch, int64_t n, const void* from, bool triangle,
                       Factors factors, Matrix<Acc> to) {
  const int64_t across = tiles(panel_count<Acc>(n) * kPanelColumns<Acc>, kSquare);
  launch(symmetrise<T, kDoubles>, batch * across * across, kMatrixThreads, batch, n,
         RowMatrix<const T>{static_cast<const T*>(from), triangle}, factors, to);
}

template <bool kDoubles, typename T, typename Acc>
void launch_write_rows(Launcher& launch, int64_t batch, int64_t n, Matrix<Acc> from,
                       Factors factors, void* to, bool triangle) {
  launch(write_rows<T, kDoubles>, matrix_blocks(batch * n * n), kMatrixThreads, batch, n,
         read_only(from), factors, RowMatrix<T>{static_cast<T*>(to), triangle});
}

// to = scale M + shift 1, or `by` M.
template <typename Acc>
void launch_scale(Launcher& launch, int64_t batch, int64_t n, Matrix<Acc> from, Factors factors,
                  double by, Matrix<Acc> to) {
  launch(scale_and_shift<Acc>, matrix_blocks(batch * panel_size<Acc>(n)), kMatrixThreads, batch, n,
         read_only(from), factors, Acc(by), to);
}

// <left + shift 1, right> of each sample.
template <typename Acc>
void launch_inner_product(Launcher& launch, int64_t batch, int64_t n, Matrix<Acc> left,
                          Matrix<Acc> right, double shift, double* sums) {
  launch(inner_product<Acc>, batch, kMatrixThreads, batch, n, read_only(left), read_only(right),
         shift, sums);
}

}  // namespace ccdn::cuda
