// Reading one sample's features: converted, centred, from either memory order.
#pragma once

#include <type_traits>

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
    const S* in = data + row * row_stride + column * column_stride;
    if (channel_rows && column_stride == 1) {
      const T m = mean[row], r = rest[row];
      if constexpr (std::is_same_v<S, T>) {
        constexpr int lanes = Simd<T>::lanes;
        int64_t i = 0;
        for (; i + lanes <= count; i += lanes) store(out + i, load(in + i) - m - r);
        if (i < count) store_first(out + i, load_first(in + i, count - i) - m - r, count - i);
      } else {
        for (int64_t i = 0; i < count; ++i) out[i] = widen(in[i]) - m - r;
      }
    } else if (column_stride == 1) {
      const T *m = mean + column, *r = rest + column;
      for (int64_t i = 0; i < count; ++i) out[i] = widen(in[i]) - m[i] - r[i];
    } else {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t d = channel_rows ? row : column + i;
        out[i] = widen(in[i * column_stride]) - mean[d] - rest[d];
      }
    }
  }

  // `count` elements from (row, column) on, zeros up to whole panels: in `line`, or in place.
  CCDN_INLINE const T* panels(bool centre, int64_t row, int64_t column, int64_t count,
                              T* line) const {
    const S* in = data + row * row_stride + column * column_stride;
    constexpr int64_t width = kPanel<T>;
    const int64_t whole = count / width * width;
    if constexpr (std::is_same_v<S, T>) {
      if (!centre && column_stride == 1 && whole == count) return in;
    }
    if (whole < count) {
      for (int64_t i = 0; i < width; i += Simd<T>::lanes) {
        store(line + whole + i, typename Simd<T>::Vector{});
      }
    }
    if (centre) {
      if (count == width) {
        centred(row, column, width, line);
      } else {
        centred(row, column, count, line);
      }
    } else if (column_stride != 1) {
      for (int64_t i = 0; i < count; ++i) line[i] = widen(in[i * column_stride]);
    } else if constexpr (std::is_same_v<S, T>) {
      copy(in, count, line);
    } else {
      for (int64_t i = 0; i < count; ++i) line[i] = widen(in[i]);
    }
    return line;
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

// out_q[row] = sum over the columns of x[row][column] * weight_q[column], for rows begin,
// begin + step ... and kCount weights; a null weight is 1. Sums are in double. Weights are finite
// up to whole panels, and the line holds 8 panels.
template <class S, class T, int kCount>
CCDN_TARGET void row_sums(const Features<S, T>& x, bool centre, const double* const* weight,
                          double* const* out, int64_t begin, int64_t step, T* line) {
  constexpr int64_t width = kPanel<T>, kBlock = 8 * width;
  constexpr int vectors = width / kDoubles, kChains = vectors < 4 ? vectors : 4;
  for (int64_t row = begin; row < x.rows; row += step) {
    Doubles sums[kCount][kChains] = {};
    for (int64_t column = 0; column < x.columns; column += kBlock) {
      const int64_t count = x.columns - column < kBlock ? x.columns - column : kBlock;
      const T* values = x.panels(centre, row, column, count, line);
      for (int64_t i = 0; i < count; i += width) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
          const Doubles value = load_doubles(values + i + v * kDoubles);
#pragma GCC unroll 2
          for (int q = 0; q < kCount; ++q) {
            sums[q][v % kChains] +=
                weight[q] ? value * load(weight[q] + column + i + v * kDoubles) : value;
          }
        }
      }
    }
    for (int q = 0; q < kCount; ++q) {
      Doubles total = sums[q][0];
      for (int chain = 1; chain < kChains; ++chain) total += sums[q][chain];
      out[q][row] = sum<double>(total);
    }
  }
}

// out_q[column] = sum over the rows of x[row][column] * weight_q[row], for panels begin, begin +
// step ... of columns. out has room up to whole panels.
template <class S, class T, int kCount>
CCDN_TARGET void column_sums(const Features<S, T>& x, bool centre, const double* const* weight,
                             double* const* out, int64_t begin, int64_t step, T* line) {
  constexpr int64_t width = kPanel<T>;
  constexpr int vectors = width / kDoubles;
  for (int64_t column = begin * width; column < x.columns; column += step * width) {
    const int64_t count = x.columns - column < width ? x.columns - column : width;
    Doubles sums[kCount][vectors] = {};
    for (int64_t row = 0; row < x.rows; ++row) {
      const T* values = x.panels(centre, row, column, count, line);
      double w[kCount];
      for (int q = 0; q < kCount; ++q) w[q] = weight[q] ? weight[q][row] : 1.0;
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        const Doubles value = load_doubles(values + v * kDoubles);
#pragma GCC unroll 2
        for (int q = 0; q < kCount; ++q) sums[q][v] += w[q] * value;
      }
    }
    for (int q = 0; q < kCount; ++q) {
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) store(out[q] + column + v * kDoubles, sums[q][v]);
    }
  }
}

// The sums over columns or over rows, on all workers.
template <class S, class T, int kCount>
struct SumsWork {
  const Features<S, T>* x;
  bool centre, by_row;
  const double* weight[kCount];
  double* out[kCount];
  Workers<T> workers;
};

template <class S, class T, int kCount>
CCDN_TARGET void sums_phase(SumsWork<S, T, kCount>& w, int64_t begin, int64_t step, int worker) {
  const auto sums = w.by_row ? row_sums<S, T, kCount> : column_sums<S, T, kCount>;
  sums(*w.x, w.centre, w.weight, w.out, begin, step, w.workers[worker].line);
}

}  // namespace CCDN_ISA
}  // namespace ccdn
