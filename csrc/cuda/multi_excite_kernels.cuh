// The kernels of multi_excite.cu: grid-stride loops over pieces of a map, one block a piece.
#pragma once

#include <cstdint>
#include <cuda/instructions.cuh>

#include "multi_excite_plan.h"
#include "pack.cuh"

namespace ccdn::cuda {

// Piece: kExciteThreads packs of a map, in the order of memory. They are read once and written P
// times.
template <typename T, int V, bool kChannelsLast>
__global__ void __launch_bounds__(kExciteThreads, 4)
    excite(MultiExciteExtents e, const T* x, const Accumulator<T>* gates, T* out) {
  wait_for_last_launch();
  using Acc = Accumulator<T>;
  const int64_t map = e.map(), pieces = round_up_quotient(map, kExciteThreads * V);
  for (int64_t piece = blockIdx.x; piece < e.batch * pieces; piece += gridDim.x) {
    const int64_t b = quotient(piece, pieces);
    const int64_t place = ((piece - b * pieces) * kExciteThreads + threadIdx.x) * V;
    if (place >= map) continue;
    const int64_t line = quotient(place, e.length), column = place - line * e.length;
    Acc value[V];
    load_wide<T, V>(x + b * e.batch_stride + line * e.line_stride + column, value);
    // Without channels_last a pack may end in a later line than it begins in.
    const bool one_line = column + V <= e.length;
    for (int64_t p = 0; p < e.excitations; ++p) {
      const Acc* gate = gates + e.gate(b, p) + (kChannelsLast ? column : line);
      Acc gated[V];
      if constexpr (kChannelsLast) {
        Acc factor[V];
        load_wide<Acc, V>(gate, factor);
#pragma unroll
        for (int v = 0; v < V; ++v) gated[v] = value[v] * factor[v];
      } else if (one_line) {
        const Acc factor = *gate;
#pragma unroll
        for (int v = 0; v < V; ++v) gated[v] = value[v] * factor;
      } else {
        int64_t left = e.length - column;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          gated[v] = value[v] * *gate;
          if (--left == 0 && v + 1 < V) {
            left = e.length;
            ++gate;
          }
        }
      }
      store_narrow<T, V>(out + e.plane(b, p) + place, gated);
    }
  }
}

// Piece: a tile of a map (MultiExciteBlocks). x and the P gradients are read once, grad_x is
// written once, and so is the tile's share of the gradient of every gate that it touches: sums is
// (B, chunks, P, D).
template <typename T, int V, bool kChannelsLast>
__global__ void __launch_bounds__(kExciteThreads, 2)
    excite_backward(MultiExciteExtents e, MultiExciteBlocks blocks, const T* grad_out, const T* x,
                    const Accumulator<T>* gates, T* grad_x, Accumulator<T>* sums) {
  wait_for_last_launch();
  using Acc = Accumulator<T>;
  constexpr int kHeld = held_packs(V, sizeof(Acc));
  constexpr int kParts = kChannelsLast ? V : 1;
  __shared__ Acc parts[kParts][kExciteThreads];
  const int column_lane = threadIdx.x % blocks.width, line_lane = threadIdx.x / blocks.width;
  const int64_t tiles = blocks.tiles * blocks.bands;
  // From one pack that a thread holds to the next.
  const int64_t column_step = kChannelsLast ? 0 : int64_t(blocks.width) * V;
  const int64_t line_step = kChannelsLast ? blocks.height : 0;
  for (int64_t piece = blockIdx.x; piece < e.batch * tiles; piece += gridDim.x) {
    const int64_t b = quotient(piece, tiles);
    const int64_t band = quotient(piece - b * tiles, blocks.tiles);
    const int64_t tile = piece - b * tiles - band * blocks.tiles;
    const int64_t line = band * blocks.rows + line_lane;
    const int64_t column = tile * blocks.columns + column_lane * V;
    const T* from = x + b * e.batch_stride + line * e.line_stride + column;
    const int64_t place = line * e.length + column;
    // How many of the thread's packs lie inside the map.
    int count = 0;
    if (line < e.lines && column < e.length) {
      const int64_t room = kChannelsLast ? round_up_quotient(e.lines - line, line_step)
                                         : round_up_quotient(e.length - column, column_step);
      count = room < kHeld ? int(room) : kHeld;
    }
    Acc value[kHeld][V], gradient[kHeld][V];
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
#pragma unroll
      for (int v = 0; v < V; ++v) value[h][v] = gradient[h][v] = Acc(0);
      if (h < count) {
        load_wide<T, V>(from + h * (line_step * e.line_stride + column_step), value[h]);
      }
    }
    const int64_t step = line_step * e.length + column_step;
    for (int64_t p = 0; p < e.excitations; ++p) {
      Acc factor[kParts] = {}, part[kParts] = {};
      const int64_t channel = kChannelsLast ? column : line;
      if (count > 0) load_wide<Acc, kParts>(gates + e.gate(b, p) + channel, factor);
      const T* upstream = grad_out + e.plane(b, p) + place;
#pragma unroll
      for (int h = 0; h < kHeld; ++h) {
        if (h < count) {
          Acc up[V];
          load_wide<T, V>(upstream + h * step, up);
#pragma unroll
          for (int v = 0; v < V; ++v) {
            part[kChannelsLast ? v : 0] += up[v] * value[h][v];
            gradient[h][v] += up[v] * factor[kChannelsLast ? v : 0];
          }
        }
      }
      // Along the lines or, channels_last, down the lines: halves are added to halves.
#pragma unroll
      for (int v = 0; v < kParts; ++v) parts[v][threadIdx.x] = part[v];
      const int lane = kChannelsLast ? line_lane : column_lane;
      const int apart = kChannelsLast ? blocks.width : 1;
      for (int half = (kChannelsLast ? blocks.height : blocks.width) / 2; half > 0; half /= 2) {
        __syncthreads();
        if (lane < half) {
#pragma unroll
          for (int v = 0; v < kParts; ++v) {
            parts[v][threadIdx.x] += parts[v][threadIdx.x + half * apart];
          }
        }
      }
      if (lane == 0 && count > 0) {
        const int64_t chunk = kChannelsLast ? band : tile;
        Acc* target = sums + e.gate(b * blocks.chunks + chunk, p) + channel;
#pragma unroll
        for (int v = 0; v < kParts; ++v) target[v] = parts[v][threadIdx.x];
      }
      __syncthreads();
    }
    T* to = grad_x + b * e.map() + place;
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      if (h < count) store_narrow<T, V>(to + h * step, gradient[h]);
    }
  }
}

// grad_gates (B, P D) = the sum over the chunks of sums (B, chunks, P D), a thread for each entry.
template <typename Acc>
__global__ void __launch_bounds__(kExciteThreads)
    add_chunks(int64_t batch, int64_t chunks, int64_t gates, const Acc* sums, Acc* grad_gates) {
  wait_for_last_launch();
  const int64_t stride = int64_t(gridDim.x) * kExciteThreads;
  for (int64_t i = int64_t(blockIdx.x) * kExciteThreads + threadIdx.x; i < batch * gates;
       i += stride) {
    const int64_t b = quotient(i, gates);
    const Acc* from = sums + b * (chunks - 1) * gates + i;
    double sum = 0;
    for (int64_t c = 0; c < chunks; ++c) sum += double(from[c * gates]);
    grad_gates[i] = Acc(sum);
  }
}

}  // namespace ccdn::cuda
