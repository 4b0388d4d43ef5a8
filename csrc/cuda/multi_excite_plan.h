// How multi_excite's kernels cut their work: plain arithmetic, for host, device and tests.
#pragma once

#include <cstdint>

#include "../common/multi_excite.h"
#include "pack.cuh"

namespace ccdn::cuda {

constexpr int kExciteThreads = 256;
// Packs of v elements that a thread of the backward pass keeps in registers: 128 bytes of the
// accumulation type, or a quarter of that as single elements.
constexpr __host__ __device__ int held_packs(int v, int accumulator_bytes) {
  return (v == 1 ? 32 : 128 / v) / accumulator_bytes;
}

// A map is `lines` lines of `length` neighbours in memory: channels of positions or, channels_last,
// positions of channels.
struct MultiExciteExtents {
  int64_t batch, excitations, channels, lines, length;
  int64_t batch_stride, line_stride;  // of x; everything else is dense

  explicit __host__ __device__ MultiExciteExtents(const MultiExciteShape& shape)
      : batch(shape.batch),
        excitations(shape.excitations),
        channels(shape.channels),
        lines(shape.channels_last ? shape.positions : shape.channels),
        length(shape.channels_last ? shape.channels : shape.positions),
        batch_stride(shape.stride_b),
        line_stride(shape.stride_row) {}

  __host__ __device__ int64_t map() const { return lines * length; }
  __host__ __device__ int64_t plane(int64_t b, int64_t p) const {
    return (b * excitations + p) * map();
  }
  __host__ __device__ int64_t gate(int64_t b, int64_t p) const {
    return (b * excitations + p) * channels;
  }

  // Whether V neighbours can be moved at once: they are, in every tensor, and start at multiples of
  // V. Lines without gaps may break within the V where `crossing` lines is allowed.
  __host__ __device__ bool packs(int v, bool crossing) const {
    const bool within = length % v == 0 && line_stride % v == 0;
    const bool across = crossing && line_stride == length && map() % v == 0;
    return (within || across) && (batch == 1 || batch_stride % v == 0);
  }
};

// The backward pass: a block has `width` threads side by side along the lines (V elements each) and
// the others below each other. A thread holds several packs: along its line or, channels_last, of
// one line after another. Every chunk of a sample gives one sum for each of the gates that it
// touches.
struct MultiExciteBlocks {
  int width, height;     // threads
  int64_t columns;       // elements along a line
  int64_t rows;          // lines
  int64_t tiles, bands;  // blocks along the lines, and below each other
  int64_t chunks;        // sums that each gate's gradient is made of

  __host__ __device__ MultiExciteBlocks(const MultiExciteExtents& e, bool channels_last, int v,
                                        int accumulator_bytes) {
    const int held = held_packs(v, accumulator_bytes);
    if (channels_last) {
      width = power_of_two(round_up_quotient(e.length, v), 32);
      height = kExciteThreads / width;
      columns = int64_t(width) * v;
      rows = int64_t(height) * held;
    } else {
      width = power_of_two(round_up_quotient(e.length, int64_t(v) * held), kExciteThreads);
      height = kExciteThreads / width;
      columns = int64_t(width) * v * held;
      rows = height;
    }
    tiles = round_up_quotient(e.length, columns);
    bands = round_up_quotient(e.lines, rows);
    chunks = channels_last ? bands : tiles;
  }
};

}  // namespace ccdn::cuda
