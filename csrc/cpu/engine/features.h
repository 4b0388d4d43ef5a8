// One sample's features, their sums and their mean.
//
// In memory they are `rows` of contiguous `columns`: channels by positions, or positions by
// channels when the channels are contiguous (channels_last).
#pragma once

#include "cpu/engine/symmetric.h"

namespace ccdn {
namespace CCDN_ISA {

template <class T>
struct Features {
  const Codec<T>* codec;
  const void* data;
  int64_t rows, columns, row_stride, column_stride;
  bool channel_rows;
  int64_t channels, positions;
  const T *mean, *rest;  // by channel: see Centre

  // out (rows of `count`, `stride` apart) = the block at (row, column), less the mean if `centre`.
  CCDN_INLINE void block(bool centre, int64_t row, int64_t some, int64_t column, int64_t count,
                         T* out, int64_t stride) const {
    const int64_t first = channel_rows ? row : column;
    const Centre<T> less{centre ? mean + first : nullptr, centre ? rest + first : nullptr,
                         channel_rows};
    codec->read(codec->at(data, row * row_stride + column * column_stride), row_stride,
                column_stride, some, count, less, out, stride);
  }

  // The same up to whole panels, with zeros: in place, or in `room` of rows `stride` apart, which
  // becomes the stride of the result.
  CCDN_INLINE const T* panels(bool centre, int64_t row, int64_t some, int64_t column, int64_t count,
                              T* room, int64_t& stride) const {
    const int64_t whole = count / kPanel<T> * kPanel<T>;
    if (!centre && codec->same && column_stride == 1 && whole == count) {
      stride = row_stride;
      return static_cast<const T*>(codec->at(data, row * row_stride + column));
    }
    if (whole < count) {
      for (int64_t r = 0; r < some; ++r) {
        for (int64_t c = 0; c < kPanel<T>; c += Simd<T>::lanes) {
          store(room + r * stride + whole + c, typename Simd<T>::Vector{});
        }
      }
    }
    block(centre, row, some, column, count, room, stride);
    return room;
  }

  // Writes a block of a gradient, which has the strides of the features.
  CCDN_INLINE void put(const T* in, int64_t stride, int64_t row, int64_t some, int64_t column,
                       int64_t count, void* out) const {
    codec->write(in, stride, some, count, codec->at(out, row * row_stride + column * column_stride),
                 row_stride, column_stride);
  }
};

// Whether memory holds rows of channels: else positions by channels (channels_last). A shape is one
// with batch, channels, positions and their strides (csrc/common).
template <class Shape>
inline bool has_channel_rows(const Shape& s) {
  return s.stride_n == 1 || s.positions == 1 || s.stride_d != 1;
}

template <class T, class Shape>
CCDN_INLINE Features<T> features_of(const Shape& s, const Codec<T>& codec, const void* x,
                                    int64_t sample, const T* mean, const T* rest) {
  const void* data = codec.at(x, sample * s.stride_b);
  if (has_channel_rows(s)) {
    return {&codec, data,       s.channels,  s.positions, s.stride_d, s.stride_n,
            true,   s.channels, s.positions, mean,        rest};
  }
  return {&codec, data,       s.positions, s.channels, s.stride_n, s.stride_d,
          false,  s.channels, s.positions, mean,       rest};
}

// out_q = sums over the columns (`by_row`) or over the rows of the features times weight_q, in
// double, for kCount weights; a null weight is 1. Weights of columns are finite, and sums by column
// have room, up to whole panels.
template <class T, int kCount>
struct SumsWork {
  const Features<T>* x;
  bool centre, by_row;
  const double* weight[kCount];
  double* out[kCount];
};

constexpr int64_t kSumRows = 8;    // of a task
constexpr int64_t kSumPanels = 8;  // read together

template <class T, int kCount>
CCDN_TARGET void row_sums(const SumsWork<T, kCount>& w, int64_t task, int) {
  constexpr int64_t width = kPanel<T>, kBlock = kSumPanels * width;
  constexpr int vectors = width / kDoubles, kChains = vectors < 4 ? vectors : 4;
  const Features<T>& x = *w.x;
  const int64_t first = task * kSumRows;
  const int64_t end = first + kSumRows < x.rows ? first + kSumRows : x.rows;
  const bool short_rows = x.columns <= kBlock;  // all of them are read at once
  T room[kSumRows * kBlock];
  int64_t stride = round_up(x.columns < kBlock ? x.columns : kBlock, width);
  const T* all = nullptr;
  if (short_rows) all = x.panels(w.centre, first, end - first, 0, x.columns, room, stride);
  for (int64_t row = first; row < end; ++row) {
    Doubles sums[kCount][kChains] = {};
    for (int64_t column = 0; column < x.columns; column += kBlock) {
      const int64_t count = x.columns - column < kBlock ? x.columns - column : kBlock;
      int64_t some = kBlock;
      const T* values = short_rows ? all + (row - first) * stride
                                   : x.panels(w.centre, row, 1, column, count, room, some);
      for (int64_t i = 0; i < count; i += width) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
          const Doubles value = load_doubles(values + i + v * kDoubles);
#pragma GCC unroll 2
          for (int q = 0; q < kCount; ++q) {
            sums[q][v % kChains] +=
                w.weight[q] ? value * load(w.weight[q] + column + i + v * kDoubles) : value;
          }
        }
      }
    }
    for (int q = 0; q < kCount; ++q) {
      Doubles total = sums[q][0];
      for (int chain = 1; chain < kChains; ++chain) total += sums[q][chain];
      w.out[q][row] = sum<double>(total);
    }
  }
}

template <class T, int kCount>
CCDN_TARGET void column_sums(const SumsWork<T, kCount>& w, int64_t task, int) {
  constexpr int64_t width = kPanel<T>;
  constexpr int vectors = width / kDoubles;
  const Features<T>& x = *w.x;
  const int64_t column = task * width;
  const int64_t count = x.columns - column < width ? x.columns - column : width;
  Doubles sums[kCount][vectors] = {};
  T room[kSumRows * width];
  for (int64_t from = 0; from < x.rows; from += kSumRows) {
    const int64_t some = x.rows - from < kSumRows ? x.rows - from : kSumRows;
    int64_t stride = width;
    const T* values = x.panels(w.centre, from, some, column, count, room, stride);
    for (int64_t r = 0; r < some; ++r) {
      double weight[kCount];
      for (int q = 0; q < kCount; ++q) weight[q] = w.weight[q] ? w.weight[q][from + r] : 1.0;
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        const Doubles value = load_doubles(values + r * stride + v * kDoubles);
#pragma GCC unroll 2
        for (int q = 0; q < kCount; ++q) sums[q][v] += weight[q] * value;
      }
    }
  }
  for (int q = 0; q < kCount; ++q) {
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(w.out[q] + column + v * kDoubles, sums[q][v]);
  }
}

template <class T, int kCount>
CCDN_TARGET void feature_sums(Team& team, const SumsWork<T, kCount>& work) {
  if (work.by_row) {
    team.each((work.x->rows + kSumRows - 1) / kSumRows, work, row_sums<T, kCount>);
  } else {
    team.each(panels_of(work.x->columns, kPanel<T>), work, column_sums<T, kCount>);
  }
}

// Fills mean and rest, which are those of x, in double; where that is no wider than T, what the
// rounding of a long sum has left comes from a second pass. Without it a constant would show a
// deviation. Returns the sum of the squares of the means. sums has room up to whole panels.
template <class T>
CCDN_TARGET double find_means(Team& team, const Features<T>& x, T* mean, T* rest, double* sums) {
  SumsWork<T, 1> work{&x, false, x.channel_rows, {nullptr}, {sums}};
  feature_sums(team, work);
  double squares = 0;
  for (int64_t d = 0; d < x.channels; ++d) {
    const double exact = sums[d] / double(x.positions);
    mean[d] = T(exact);
    rest[d] = T(exact - double(mean[d]));
    squares += exact * exact;
  }
  if constexpr (sizeof(T) == sizeof(double)) {
    work.centre = true;
    feature_sums(team, work);
    for (int64_t d = 0; d < x.channels; ++d) {
      const T before = mean[d], missing = sums[d] / double(x.positions);
      mean[d] = before + missing;
      rest[d] = (before - mean[d]) + missing;
    }
  }
  return squares;
}

// Whether the deviation from the mean is nothing but rounding, in float or in double. A trace that
// overflows is not.
inline bool is_constant(bool floats, double trace, double mean_squares) {
  const double rounding = 16 * (floats ? 0x1p-23 : 0x1p-52);
  return std::isfinite(trace) && trace <= rounding * rounding * (trace + mean_squares);
}

}  // namespace CCDN_ISA
}  // namespace ccdn
