// The means of features (B, D, N), by which several operators centre them.
#pragma once

#include <cstdint>
#include <cuda/instructions.cuh>

#include "element.cuh"
#include "line_sum.cuh"

namespace ccdn::cuda {

template <typename T>
struct MeanArguments {
  const T* x;
  int64_t batch, channels, positions, stride_b, stride_d, stride_n;
  Accumulator<T>* mean;       // (B, D), written forward, read backward
  Accumulator<T>* mean_rest;  // (B, D)
  Squeezes<T> first;          // forward, or null
  double* squares;            // forward: (B, D) sums of squares of the centred rows
  Squeezes<T> grad_second;    // backward
  double* upstream;           // backward: (B, D) grad_second in float64
};

// Piece: a few channels of a sample. Two passes over their rows, the second one from the cache.
template <typename T>
__global__ void __launch_bounds__(kLineThreads, 1) channel_means(MeanArguments<T> p) {
  wait_for_last_launch();
  using Acc = Accumulator<T>;
  __shared__ Acc mean[32], rest[32];
  const bool contiguous = p.stride_n <= p.stride_d;
  const int count = lines_of_block(contiguous);
  const int64_t pieces = (p.channels + count - 1) / count;
  for (int64_t piece = blockIdx.x; piece < p.batch * pieces; piece += gridDim.x) {
    const int64_t b = piece / pieces, d0 = piece % pieces * count;
    const T* x = p.x + b * p.stride_b;
    const double sum = line_sum(d0, p.channels, p.positions, contiguous, [&](int64_t d, int64_t n) {
      return double(Element<T>::load(x[d * p.stride_d + n * p.stride_n]));
    });
    const double exact = sum / double(p.positions);
    const int64_t d = d0 + threadIdx.x;
    const bool owner = threadIdx.x < static_cast<unsigned>(count) && d < p.channels;
    const int64_t index = b * p.channels + d;
    double more = 0;
    if constexpr (sizeof(Acc) == 8) {
      // A float64 sum of float64 numbers rounds too; the deviations from it say by how much.
      if (owner) mean[threadIdx.x] = exact;
      __syncthreads();
      more = line_sum(d0, p.channels, p.positions, contiguous, [&](int64_t line, int64_t n) {
        return x[line * p.stride_d + n * p.stride_n] - mean[line - d0];
      });
      more /= double(p.positions);
    }
    if (owner) {
      const Acc rounded = p.upstream ? p.mean[index] : Acc(exact + more);
      mean[threadIdx.x] = rounded;
      rest[threadIdx.x] = Acc((exact - double(rounded)) + more);
      p.mean_rest[index] = rest[threadIdx.x];
      if (p.upstream) {
        p.upstream[index] = double(p.grad_second.load(index));
      } else {
        p.mean[index] = rounded;
        if (p.first) p.first.store(index, rounded);
      }
    }
    __syncthreads();
    if (p.squares) {
      const double squares =
          line_sum(d0, p.channels, p.positions, contiguous, [&](int64_t line, int64_t n) {
            const Acc value = Element<T>::load(x[line * p.stride_d + n * p.stride_n]);
            const double centred = double((value - mean[line - d0]) - rest[line - d0]);
            return centred * centred;
          });
      if (owner) p.squares[index] = squares;
    }
    __syncthreads();
  }
}

// Blocks for pieces of a few lines each, of which `lines` make a sample.
inline int64_t line_pieces(int64_t batch, int64_t lines, bool line_is_contiguous) {
  const int64_t count = lines_of_block(line_is_contiguous);
  return batch * ((lines + count - 1) / count);
}

}  // namespace ccdn::cuda
