// A number or two of each sample: the sums, traces and inner products of the matrices of
// symmetric_kernels.cuh, and the factors that are made of them. On a napkin: a block a sample reads
// one or two matrices of 4 n^2 bytes, little beside the products' n^3.
#pragma once

#include <cstdint>

#include "element.cuh"
#include "symmetric_kernels.cuh"

namespace ccdn::cuda {

// The sum of every thread's value, in every thread.
__device__ inline double matrix_block_sum(double value) {
  __shared__ double values[kMatrixThreads];
  values[threadIdx.x] = value;
  for (int half = kMatrixThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < static_cast<unsigned>(half))
      values[threadIdx.x] += values[threadIdx.x + half];
  }
  __syncthreads();
  const double result = values[0];
  __syncthreads();
  return result;
}

// <left + shift 1, right> (B,). Piece: a sample.
template <typename Acc>
__global__ void __launch_bounds__(kMatrixThreads, 1)
    inner_product(int64_t batch, int64_t n, Matrix<const Acc> left, Matrix<const Acc> right,
                  double shift, double* sums) {
  const int64_t size = panel_size<Acc>(n);
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    const Acc *x = left.sample(b), *y = right.sample(b);
    double sum = 0;
    for (int64_t e = threadIdx.x; e < size; e += kMatrixThreads) sum += double(x[e]) * double(y[e]);
    if (shift != 0) {
      for (int64_t i = threadIdx.x; i < n; i += kMatrixThreads) {
        sum += shift * double(y[panel_place<Acc>(i, i, n)]);
      }
    }
    sum = matrix_block_sum(sum);
    if (threadIdx.x == 0) sums[b] = sum;
  }
}

// The trace of a sample's covariance from the sums of squares of the centred rows, 0 for a constant
// sample; in every thread.
template <typename Acc>
__device__ Acc covariance_trace(int64_t b, int64_t channels, int64_t positions,
                                const double* squares, const Acc* means) {
  double spread = 0, level = 0;
  for (int64_t d = threadIdx.x; d < channels; d += kMatrixThreads) {
    const double mean = double(means[b * channels + d]);
    spread += squares[b * channels + d] / double(positions);
    level += mean * mean;
  }
  spread = matrix_block_sum(spread);
  level = matrix_block_sum(level);
  return spread_or_zero<Acc>(spread, level);
}

// The traces (B,). Piece: a sample.
template <typename T>
__global__ void __launch_bounds__(kMatrixThreads, 1)
    covariance_traces(int64_t batch, int64_t channels, int64_t positions, const double* squares,
                      const Accumulator<T>* means, Accumulator<T>* traces) {
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    const auto trace = covariance_trace(b, channels, positions, squares, means);
    if (threadIdx.x == 0) traces[b] = trace;
  }
}

// The trace (B,) of matrices in rows. Piece: a sample.
template <typename T>
__global__ void __launch_bounds__(kMatrixThreads, 1)
    matrix_traces(int64_t batch, int64_t n, const T* a, Accumulator<T>* traces) {
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += kMatrixThreads) {
      sum += double(Element<T>::load(a[(b * n + i) * n + i]));
    }
    sum = matrix_block_sum(sum);
    if (threadIdx.x == 0) traces[b] = Accumulator<T>(sum);
  }
}

// What a factor is made of: the power of the trace, and the inner products of a gradient.
enum class FactorOf {
  one,
  trace,                // 1 / tr
  root,                 // sqrt(tr)
  inverse_root,         // 1 / sqrt(tr)
  root_gradient,        // (1, inner / 2 - other) / sqrt(tr)
  polynomial_gradient,  // (1, -(inner / 2 + other)) / tr
};

// factors (B, 2) = by (what `kind` says, shift times that): 0 where the trace is 0, NaN where it is
// infinite.
template <typename Acc>
__global__ void __launch_bounds__(kMatrixThreads, 1)
    sample_factors(int64_t batch, const Acc* traces, FactorOf kind, double by, double shift,
                   const double* inner, const double* other, double* factors) {
  const int64_t step = int64_t(gridDim.x) * kMatrixThreads;
  for (int64_t b = int64_t(blockIdx.x) * kMatrixThreads + threadIdx.x; b < batch; b += step) {
    const double trace = double(traces[b]), root = sqrt(trace);
    double scale = by, more = shift;
    if (kind == FactorOf::trace || kind == FactorOf::polynomial_gradient) scale = by / trace;
    if (kind == FactorOf::root) scale = by * root;
    if (kind == FactorOf::inverse_root || kind == FactorOf::root_gradient) scale = by / root;
    if (kind == FactorOf::root_gradient) more = inner[b] / 2 - other[b];
    if (kind == FactorOf::polynomial_gradient) more = -(inner[b] / 2 + other[b]);
    if (trace - trace != 0) scale = trace - trace;  // infinite: NaN everywhere
    factors[2 * b] = trace == 0 ? 0 : scale;
    factors[2 * b + 1] = trace == 0 ? 0 : scale * more;
  }
}

}  // namespace ccdn::cuda
