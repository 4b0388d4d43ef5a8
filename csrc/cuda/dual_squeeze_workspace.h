// Where dual_squeeze's kernels keep what passes between them: plain arithmetic, for host and tests.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../common/dual_squeeze.h"
#include "recurrence.cuh"
#include "symmetric_plan.h"

namespace ccdn::cuda {

// The sum of the gram matrix in parts, where its tiles alone would leave most of a device idle. How
// many depends on the shape alone, so that the order of the additions does, too.
struct GramParts {
  int64_t count, length;  // of each but the last

  static constexpr int64_t kBlocks = 256, kShortest = 128, kMultiple = 32;

  static GramParts plan(int64_t batch, int64_t side, int64_t free) {
    const int64_t blocks = batch * TriangleTile::count((side + 63) / 64);
    const int64_t wanted = blocks > 0 ? kBlocks / blocks : 1, most = free / kShortest;
    const int64_t count = wanted < most ? wanted : most;
    if (count <= 1) return {1, free};
    // Rounded up, so that `count` parts hold all of it.
    const int64_t length = (free + count * kMultiple - 1) / (count * kMultiple) * kMultiple;
    return {(free + length - 1) / length, length};
  }
};

struct DualSqueezeExtents {
  int64_t batch, channels, positions;
  int64_t side, free;  // the axis of the recurrence's matrix, and the one it sums over
  bool channel_is_side;
  bool dense;  // backward: the n x n matrix of the gradient rather than its low-rank factors
  AdjointRows rows;
  int64_t pairs;  // rank of that matrix
  GramParts parts;

  explicit DualSqueezeExtents(const DualSqueezeShape& shape)
      : batch(shape.batch), channels(shape.channels), positions(shape.positions) {
    channel_is_side = shape.side == Side::channels;
    side = channel_is_side ? channels : positions;
    free = channel_is_side ? positions : channels;
    rows = {shape.terms, shape.rank, side};
    pairs = AdjointRows::pairs(shape.rank, channel_is_side);
    // Products with the features: n for each of them in the dense form, 2 x pairs in the other,
    // which also takes a launch more: a tile of the matrix is no more than that.
    dense = side <= 2 * pairs || side <= 64;
    parts = GramParts::plan(batch, side, free);
  }
};

// Byte offsets from the workspace's start, each a multiple of 256; size is what to allocate.
struct DualSqueezeWorkspace {
  int64_t mean_rest = 0;        // (B, D) accumulation type: what the stored mean rounds off
  int64_t squares = 0;          // (B, D) float64, forward: sums of squares of the centred rows
  int64_t gram = 0;             // (B, n, n) accumulation type, where it is not an output
  int64_t gram_parts = 0;       // (parts, B, n, n) accumulation type, where there are several
  int64_t start = 0;            // (B, n) float64: the vector that the polynomial is applied to
  int64_t upstream = 0;         // (B, D) float64, backward: grad_second
  int64_t result_gradient = 0;  // (B, n) float64, backward, positions: Xc^T grad_second
  int64_t vectors = 0;          // float64: the recurrence, (B, 3, n) or B AdjointRows
  int64_t pair_rows = 0;        // (B, 2, pairs, n) accumulation type, backward, low rank
  int64_t trace_gradient = 0;   // (B,) float64, backward
  int64_t table = 0;            // float64, backward: a GradientTable that does not travel
  int64_t factor = 0;           // backward: (B, n, n) dense or (B, free, pairs), accumulation type
  int64_t size = 0;

  static DualSqueezeWorkspace plan(const DualSqueezeShape& shape, bool backward) {
    const DualSqueezeExtents e(shape);
    const int64_t accumulator = shape.dtype == Dtype::f64 ? 8 : 4;
    DualSqueezeWorkspace w;
    w.mean_rest = w.take(e.batch * e.channels * accumulator);
    if (!shape.saves_gram) w.gram = w.take(e.batch * e.side * e.side * accumulator);
    if (e.parts.count > 1 && (!backward || !shape.saves_gram)) {
      w.gram_parts = w.take(e.parts.count * e.batch * e.side * e.side * accumulator);
    }
    if (!e.channel_is_side) w.start = w.take(e.batch * e.side * 8);
    if (!backward) {
      w.squares = w.take(e.batch * e.channels * 8);
    } else {
      w.upstream = w.take(e.batch * e.channels * 8);
      if (!e.channel_is_side) w.result_gradient = w.take(e.batch * e.side * 8);
      if (!e.dense) w.pair_rows = w.take(2 * e.batch * e.pairs * e.side * accumulator);
      w.trace_gradient = w.take(e.batch * 8);
      const GradientTable table = {shape.terms, shape.rank};
      if (!table.travels()) w.table = w.take(table.size() * 8);
      w.factor = w.take(e.batch * accumulator * (e.dense ? e.side * e.side : e.free * e.pairs));
    }
    w.vectors = w.take(e.batch * (backward ? e.rows.size() : 3 * e.side) * 8);
    return w;
  }

 private:
  int64_t take(int64_t bytes) {
    const int64_t offset = size;
    size += (bytes + 255) / 256 * 256;
    return offset;
  }
};

}  // namespace ccdn::cuda
