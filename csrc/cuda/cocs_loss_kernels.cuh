// The kernels of cocs_loss.cu. All arithmetic is in double: squares do not overflow, sums over
// the batch lose no digits, and there is little of it.
#pragma once

#include <cstdint>
#include <cuda/instructions.cuh>

#include "cocs_loss_plan.h"
#include "element.cuh"
#include "line_sum.cuh"

namespace ccdn::cuda {

// As in torch.nn.functional.normalize.
constexpr double kSmallestNorm = 1e-12;
// Sums below this have no direction, and the inverse of their size would be infinite.
constexpr double kSmallestSum = 1e-300;

// A few samples of one excitation of one level.
template <typename T>
struct CocsPiece {
  const CocsTask* task;
  int64_t excitation, chunk, first, count;

  __device__ CocsPiece(const CocsTasks& tasks, int64_t piece) {
    int found = 0;
    while (piece >= tasks.task[found].end) ++found;
    task = tasks.task + found;
    const int64_t local = piece - (found ? tasks.task[found - 1].end : 0);
    excitation = quotient(local, task->chunks);
    chunk = local - excitation * task->chunks;
    first = chunk * task->samples;
    const int64_t left = task->level.batch - first;
    count = left < task->samples ? left : task->samples;
  }

  __device__ const T* x(int64_t sample) const {
    const CocsLevel& level = task->level;
    return reinterpret_cast<const T*>(level.x) + (first + sample) * level.stride_b +
           excitation * level.stride_p;
  }
  __device__ T* grad(int64_t sample) const {
    const CocsLevel& level = task->level;
    return reinterpret_cast<T*>(level.grad_x) + (first + sample) * level.grad_stride_b +
           excitation * level.grad_stride_p;
  }
  __device__ double norm_sum(int64_t sample0) const {
    return line_sum(sample0, count, task->level.channels, true, [&](int64_t s, int64_t d) {
      const double value = double(Element<T>::load(x(s)[d]));
      return value * value;
    });
  }
};

// Forward. Piece: CocsPiece. parts[chunk, p] = the sum over its samples of f / max(|f|, 1e-12).
template <typename T>
__global__ void __launch_bounds__(kLineThreads, 2)
    unit_sums(const __grid_constant__ CocsTasks tasks, double* workspace) {
  wait_for_last_launch();
  __shared__ double scale[kCocsSamples];
  for (int64_t at = blockIdx.x; at < tasks.task[tasks.count - 1].end; at += gridDim.x) {
    const CocsPiece<T> piece(tasks, at);
    const int64_t channels = piece.task->level.channels;
    for (int64_t s0 = 0; s0 < piece.count; s0 += lines_of_block(true)) {
      const double norm = sqrt(piece.norm_sum(s0));
      const int64_t s = s0 + threadIdx.x;
      if (threadIdx.x < static_cast<unsigned>(lines_of_block(true)) && s < piece.count) {
        scale[s] = 1 / (norm < kSmallestNorm ? kSmallestNorm : norm);
      }
    }
    __syncthreads();
    double* out = workspace + piece.task->parts + piece.chunk * piece.task->size() +
                  piece.excitation * channels;
    for (int64_t d = threadIdx.x; d < channels; d += kLineThreads) {
      double sum = 0;
      for (int64_t s = 0; s < piece.count; ++s) {
        // Rounded on its own: fused into the addition, u + (-u) would not be 0.
        sum += __dmul_rn(double(Element<T>::load(piece.x(s)[d])), scale[s]);
      }
      out[d] = sum;
    }
    __syncthreads();
  }
}

// The largest of the block's values, or NaN, in every thread.
__device__ inline double block_max(double value) {
  __shared__ double values[kLineThreads];
  values[threadIdx.x] = value;
  for (int half = kLineThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < static_cast<unsigned>(half)) {
      const double a = values[threadIdx.x], b = values[threadIdx.x + half];
      values[threadIdx.x] = a > b || a != a ? a : b;
    }
  }
  __syncthreads();
  const double result = values[0];
  __syncthreads();
  return result;
}

// Piece: a level. Forward its sums S (P, D) and its loss; backward, from the sums, what it passes
// to each of them (parts).
//
// L = sum of Q_pq^2 (p != q) / sum of Q_pp^2 does not change with the size of Q, nor with that of
// the sums in Q = S S^T: they are divided by the largest of them, which can neither over- nor
// underflow. Then dL/dS_p = 4 (sum of Q_pq S_q (q != p) - L Q_pp S_p) / sum of Q_pp^2.
template <typename T, bool kBackward>
__global__ void __launch_bounds__(kLineThreads, 1)
    level_losses(const __grid_constant__ CocsTasks tasks, double* workspace,
                 Accumulator<T>* all_sums, T* losses) {
  wait_for_last_launch();
  using Acc = Accumulator<T>;
  __shared__ double totals[2];
  for (int64_t at = blockIdx.x; at < tasks.count; at += gridDim.x) {
    const CocsTask& task = tasks.task[at];
    const int64_t count = task.level.excitations, channels = task.level.channels;
    const int64_t size = task.size();
    double* products = workspace + task.products;
    double* parts = workspace + task.parts;
    Acc* sums = all_sums + task.sums;
    double largest = 0;
    for (int64_t i = threadIdx.x; i < size; i += kLineThreads) {
      if constexpr (!kBackward) {
        double total = 0;
        for (int64_t chunk = 0; chunk < task.chunks; ++chunk) total += parts[chunk * size + i];
        sums[i] = Acc(total);
      }
      const double found = fabs(double(sums[i]));
      largest = largest > found || largest != largest ? largest : found;
    }
    largest = block_max(largest);
    const bool vanishes = largest < kSmallestSum;
    const double scale = vanishes ? 0 : 1 / largest;
    for (int64_t pair0 = 0; pair0 < count * count; pair0 += lines_of_block(true)) {
      const double product =
          line_sum(pair0, count * count, channels, true, [&](int64_t pair, int64_t d) {
            const int64_t p = quotient(pair, count);
            return double(sums[p * channels + d]) * double(sums[(pair - p * count) * channels + d]);
          });
      const int64_t pair = pair0 + threadIdx.x;
      if (threadIdx.x < static_cast<unsigned>(lines_of_block(true)) && pair < count * count) {
        products[pair] = product * scale * scale;
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      double own = 0, cross = 0;
      // In two loops: one thread would take microseconds for the divisions that separate p and q.
      for (int64_t p = 0; p < count; ++p) {
#pragma unroll 4
        for (int64_t q = 0; q < count; ++q) {
          const double product = products[p * count + q];
          (p == q ? own : cross) += product * product;
        }
      }
      totals[0] = own;
      totals[1] = vanishes ? 0 : cross / own;
      if constexpr (!kBackward) losses[task.number] = Element<T>::store(Acc(totals[1]));
    }
    __syncthreads();
    if constexpr (kBackward) {
      const double upstream = double(Element<T>::load(losses[task.number]));
      const double factor = vanishes ? 0 : 4 / totals[0] * scale * scale * upstream;
      for (int64_t i = threadIdx.x; i < size; i += kLineThreads) {
        const int64_t p = quotient(i, channels), d = i - p * channels;
        double sum = 0;
        for (int64_t q = 0; q < count; ++q) {
          const double product = products[p * count + q];
          const double weight = factor * (p == q ? -totals[1] * product : product);
          sum += weight * double(sums[q * channels + d]);
        }
        parts[i] = sum;
      }
    }
    __syncthreads();
  }
}

// Backward. Piece: CocsPiece. With u = x / |x|:  dx = (g - u (u . g)) / |x|, and 0 for a vector
// without a direction.
template <typename T>
__global__ void __launch_bounds__(kLineThreads, 2)
    unit_gradients(const __grid_constant__ CocsTasks tasks, const double* workspace) {
  wait_for_last_launch();
  using Acc = Accumulator<T>;
  __shared__ double scale[kCocsSamples], along[kCocsSamples];
  for (int64_t at = blockIdx.x; at < tasks.task[tasks.count - 1].end; at += gridDim.x) {
    const CocsPiece<T> piece(tasks, at);
    const int64_t channels = piece.task->level.channels;
    const double* g = workspace + piece.task->parts + piece.excitation * channels;
    for (int64_t s0 = 0; s0 < piece.count; s0 += lines_of_block(true)) {
      const double own = piece.norm_sum(s0);
      const double cross = line_sum(s0, piece.count, channels, true, [&](int64_t s, int64_t d) {
        return double(Element<T>::load(piece.x(s)[d])) * g[d];
      });
      const int64_t s = s0 + threadIdx.x;
      if (threadIdx.x < static_cast<unsigned>(lines_of_block(true)) && s < piece.count) {
        const double norm = sqrt(own);
        const bool direction = !(norm < kSmallestNorm);
        scale[s] = direction ? 1 / norm : 0;
        along[s] = direction ? cross / own * scale[s] : 0;
      }
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < piece.count * channels; i += kLineThreads) {
      const int64_t s = quotient(i, channels), d = i - s * channels;
      const double value = double(Element<T>::load(piece.x(s)[d]));
      // An infinite vector has a scale of 0, too, but NaN along it.
      const bool nothing = scale[s] == 0 && along[s] == 0;
      piece.grad(s)[d] =
          Element<T>::store(nothing ? Acc(0) : Acc(g[d] * scale[s] - value * along[s]));
    }
    __syncthreads();
  }
}

}  // namespace ccdn::cuda
