// Reading one sample's features: converted, centred, from either memory order.
#pragma once

#include "cpu/dual_squeeze_job.h"
#include "cpu/tile.h"

namespace ccdn {
namespace CCDN_ISA {

// A sample as rows of columns, and what centres it: x - mean - rest, with the mean rounded to T and
// the rest of it apart, so that a mean far above the deviations costs no digits.
template <class S, class T>
struct Features {
  const S* data;
  int64_t rows, columns, row_stride, column_stride;
  bool channel_rows;
  const T *mean, *rest;  // by channel

  // out[i] = the centred element (row, column + i).
  CCDN_INLINE void centred(int64_t row, int64_t column, int64_t count, T* out) const {
    raw(row, column, count, out);
    if (channel_rows) {
      const T m = mean[row], r = rest[row];
      for (int64_t i = 0; i < count; ++i) out[i] = out[i] - m - r;
    } else {
      const T *m = mean + column, *r = rest + column;
      for (int64_t i = 0; i < count; ++i) out[i] = out[i] - m[i] - r[i];
    }
  }

  CCDN_INLINE void raw(int64_t row, int64_t column, int64_t count, T* out) const {
    const S* in = data + row * row_stride + column * column_stride;
    if (column_stride == 1) {
      for (int64_t i = 0; i < count; ++i) out[i] = widen(in[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) out[i] = widen(in[i * column_stride]);
    }
  }

  CCDN_INLINE void get(bool centre, int64_t row, int64_t column, int64_t count, T* out) const {
    if (centre) {
      centred(row, column, count, out);
    } else {
      raw(row, column, count, out);
    }
  }
};

template <class S, class T>
CCDN_INLINE Features<S, T> features_of(const DualSqueezeShape& shape, const Sizes& sizes,
                                       const void* x, int64_t sample, const T* mean,
                                       const T* rest) {
  const S* data = static_cast<const S*>(x) + sample * shape.stride_b;
  if (sizes.channel_rows) {
    return {data, shape.channels, shape.positions, shape.stride_d, shape.stride_n, true, mean,
            rest};
  }
  return {data, shape.positions, shape.channels, shape.stride_n, shape.stride_d, false, mean, rest};
}

// out[row] = sum over the columns of x[row][column] * weight[column], rows begin, begin + step ...
// Without weights a plain sum. Sums are in double. Weights have room up to whole panels, and the
// line holds 8 panels.
template <class S, class T>
CCDN_TARGET void row_sums(const Features<S, T>& x, bool centre, const double* weight, double* out,
                          int64_t begin, int64_t step, T* line) {
  constexpr int64_t kBlock = 8 * kPanel<T>, kStep = 4 * kDoubles;
  for (int64_t row = begin; row < x.rows; row += step) {
    Doubles sums[4] = {};
    for (int64_t column = 0; column < x.columns; column += kBlock) {
      const int64_t count = x.columns - column < kBlock ? x.columns - column : kBlock;
      x.get(centre, row, column, count, line);
      int64_t i = 0;
      for (; i + kStep <= count; i += kStep) {
#pragma GCC unroll 4
        for (int b = 0; b < 4; ++b) {
          const Doubles value = load_doubles(line + i + b * kDoubles);
          sums[b] += weight ? value * load(weight + column + i + b * kDoubles) : value;
        }
      }
      for (; i < count; ++i) sums[0][0] += weight ? line[i] * weight[column + i] : double(line[i]);
    }
    out[row] = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
}

// out[column] = sum over the rows of x[row][column] * weight[row], panels begin, begin + step ...
// of columns. out has room up to whole panels.
template <class S, class T>
CCDN_TARGET void column_sums(const Features<S, T>& x, bool centre, const double* weight,
                             double* out, int64_t begin, int64_t step, T* line) {
  constexpr int vectors = kPanel<T> / kDoubles;
  for (int64_t column = begin * kPanel<T>; column < x.columns; column += step * kPanel<T>) {
    const int64_t count = x.columns - column < kPanel<T> ? x.columns - column : kPanel<T>;
    for (int64_t i = 0; i < kPanel<T>; ++i) line[i] = 0;
    Doubles sums[vectors] = {};
    for (int64_t row = 0; row < x.rows; ++row) {
      if (count == kPanel<T>) {
        x.get(centre, row, column, kPanel<T>, line);
      } else {
        x.get(centre, row, column, count, line);
      }
      const double w = weight ? weight[row] : 1.0;
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) sums[v] += w * load_doubles(line + v * kDoubles);
    }
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(out + column + v * kDoubles, sums[v]);
  }
}

}  // namespace CCDN_ISA
}  // namespace ccdn
