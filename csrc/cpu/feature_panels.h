// One sample's features, centred, in column panels (cpu/symmetric.h), and products with them.
//
// Their panels come in two kinds: `by_channel`, the columns of a panel are channels and its rows
// positions, and `by_position`. In memory the features are `rows` of contiguous `columns`: channels
// by positions, or positions by channels when the channels are contiguous (channels_last).
#pragma once

#include <type_traits>

#include "common/covariance_pool.h"
#include "cpu/symmetric.h"

namespace ccdn {
namespace CCDN_ISA {

template <class S, class T>
struct FeatureRows {
  const S* data;
  int64_t rows, columns, row_stride, column_stride;
  bool channel_rows;
  int64_t channels, positions;
  // By channel. The mean is rounded to T and the rest of it kept apart, so that a mean far above
  // the deviations costs no digits.
  T *mean, *rest;

  // out[c] = element (row, column + c), less the mean if `centre`.
  CCDN_INLINE void line(bool centre, int64_t row, int64_t column, int64_t count, T* out) const {
    const S* in = data + row * row_stride + column * column_stride;
    if (column_stride == 1) {
      for (int64_t c = 0; c < count; ++c) out[c] = widen(in[c]);
    } else {
      for (int64_t c = 0; c < count; ++c) out[c] = widen(in[c * column_stride]);
    }
    if (!centre) return;
    if (channel_rows) {
      const T m = mean[row], r = rest[row];
      for (int64_t c = 0; c < count; ++c) out[c] = out[c] - m - r;
    } else {
      const T *m = mean + column, *r = rest + column;
      for (int64_t c = 0; c < count; ++c) out[c] = out[c] - m[c] - r[c];
    }
  }
};

template <class S, class T>
CCDN_INLINE FeatureRows<S, T> feature_rows(const CovarianceShape& s, const void* x, int64_t sample,
                                           T* mean, T* rest) {
  const S* data = static_cast<const S*>(x) + sample * s.stride_b;
  if (s.channel_rows()) {
    return {data, s.channels, s.positions, s.stride_d, s.stride_n,
            true, s.channels, s.positions, mean,       rest};
  }
  return {data,  s.positions, s.channels,  s.stride_n, s.stride_d,
          false, s.channels,  s.positions, mean,       rest};
}

constexpr int64_t kLine = 512;

// The sums over the positions, in double, for a task's channels (rows) or columns.
template <class S, class T>
struct SumsOverPositions {
  const FeatureRows<S, T>* x;
  bool centre;
  double* sums;
};

template <class S, class T>
CCDN_TARGET void sum_channel_row(const SumsOverPositions<S, T>& w, int64_t row) {
  T line[kLine];
  Doubles sums[4] = {};
  double total = 0;
  for (int64_t c = 0; c < w.x->columns; c += kLine) {
    const int64_t count = w.x->columns - c < kLine ? w.x->columns - c : kLine;
    w.x->line(w.centre, row, c, count, line);
    int64_t i = 0;
    for (; i + 4 * kDoubles <= count; i += 4 * kDoubles) {
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sums[v] += load_doubles(line + i + v * kDoubles);
    }
    for (; i < count; ++i) total += double(line[i]);
  }
  w.sums[row] = total + sum<double>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class S, class T>
CCDN_TARGET void sum_channel_columns(const SumsOverPositions<S, T>& w, int64_t task) {
  const int64_t column = task * kLine;
  const int64_t count = w.x->columns - column < kLine ? w.x->columns - column : kLine;
  T line[kLine];
  double* sums = w.sums + column;
  for (int64_t c = 0; c < count; ++c) sums[c] = 0;
  for (int64_t row = 0; row < w.x->rows; ++row) {
    w.x->line(w.centre, row, column, count, line);
    for (int64_t c = 0; c < count; ++c) sums[c] += double(line[c]);
  }
}

// Fills mean and rest, in double; where that is no wider than T, what the rounding of a long sum
// has left comes from a second pass. Returns the sum of the squares of the means.
template <class S, class T>
CCDN_TARGET double find_means(Team& team, const FeatureRows<S, T>& x, double* sums) {
  const auto body = x.channel_rows ? sum_channel_row<S, T> : sum_channel_columns<S, T>;
  const int64_t tasks = x.channel_rows ? x.rows : (x.columns + kLine - 1) / kLine;
  SumsOverPositions<S, T> work{&x, false, sums};
  team.each(tasks, work, body);
  double squares = 0;
  for (int64_t d = 0; d < x.channels; ++d) {
    const double exact = sums[d] / double(x.positions);
    x.mean[d] = T(exact);
    x.rest[d] = T(exact - double(x.mean[d]));
    squares += exact * exact;
  }
  if constexpr (sizeof(T) == sizeof(double)) {
    work.centre = true;
    team.each(tasks, work, body);
    for (int64_t d = 0; d < x.channels; ++d) {
      const T before = x.mean[d], missing = sums[d] / double(x.positions);
      x.mean[d] = before + missing;
      x.rest[d] = (before - x.mean[d]) + missing;
    }
  }
  return squares;
}

// Rows of a packed panel: whole vectors, so that a transpose may write past the last one.
template <class T>
inline int64_t padded_depth(int64_t depth) {
  constexpr int64_t lanes = Simd<T>::lanes;
  return (depth + lanes - 1) / lanes * lanes;
}

// Room for panels of `columns` columns and `depth` rows, in elements.
template <class T>
inline int64_t packed_size(int64_t columns, int64_t depth) {
  return panels_of(columns, kPanel<T>) * padded_depth<T>(depth) * kPanel<T>;
}

// Centred features in panels: `columns` from `column` on, rows `depth` from `from` on.
template <class S, class T>
struct PackWork {
  const FeatureRows<S, T>* x;
  int64_t column, columns, from, depth;
  T* out;
};

// The panels' columns are contiguous in memory.
template <class S, class T>
CCDN_TARGET void pack_columns(const PackWork<S, T>& w, int64_t task) {
  constexpr int64_t width = kPanel<T>;
  constexpr int lanes = Simd<T>::lanes;
  T* out = w.out + task * padded_depth<T>(w.depth) * width;
  const int64_t left = w.columns - task * width, count = left < width ? left : width;
  for (int64_t k = 0; k < w.depth; ++k) {
    if (count < width) {
      for (int64_t c = 0; c < width; c += lanes) {
        store(out + k * width + c, typename Simd<T>::Vector{});
      }
      w.x->line(true, w.from + k, w.column + task * width, count, out + k * width);
    } else {
      w.x->line(true, w.from + k, w.column + task * width, width, out + k * width);
    }
  }
}

// The panels' columns are rows in memory.
template <class S, class T>
CCDN_TARGET void pack_rows(const PackWork<S, T>& w, int64_t task) {
  constexpr int64_t width = kPanel<T>, kBlock = 128;
  constexpr int lanes = Simd<T>::lanes;
  T* out = w.out + task * padded_depth<T>(w.depth) * width;
  const int64_t left = w.columns - task * width, lines = left < width ? left : width;
  T block[width * kBlock];
  if (lines < width) {
    for (int64_t e = 0; e < width * kBlock; e += lanes) {
      store(block + e, typename Simd<T>::Vector{});
    }
  }
  for (int64_t k = 0; k < w.depth; k += kBlock) {
    const int64_t count = w.depth - k < kBlock ? w.depth - k : kBlock;
    for (int64_t i = 0; i < lines; ++i) {
      w.x->line(true, w.column + task * width + i, w.from + k, count, block + i * kBlock);
    }
    for (int64_t c = 0; c < padded_depth<T>(count); c += lanes) {
      for (int64_t i = 0; i < width; i += lanes) {
        transpose<T>(block + i * kBlock + c, kBlock, out + (k + c) * width + i, width);
      }
    }
  }
}

template <class S, class T>
CCDN_TARGET Panels<const T> pack(Team& team, const PackWork<S, T>& work, bool by_channel) {
  const bool contiguous = by_channel != work.x->channel_rows;
  team.each(panels_of(work.columns, kPanel<T>), work,
            contiguous ? pack_columns<S, T> : pack_rows<S, T>);
  return {work.out, padded_depth<T>(work.depth) * kPanel<T>};
}

// All features, the columns of the panels being channels or positions.
template <class S, class T>
CCDN_TARGET Panels<const T> pack_all(Team& team, const FeatureRows<S, T>& x, bool by_channel,
                                     T* out) {
  const int64_t columns = by_channel ? x.channels : x.positions;
  const int64_t depth = by_channel ? x.positions : x.channels;
  return pack(team, PackWork<S, T>{&x, 0, columns, 0, depth, out}, by_channel);
}

// Positions packed together: what comes of them stays in the L2 cache.
constexpr int64_t kStrip = 512;

inline int64_t strip_of(int64_t positions) { return positions < kStrip ? positions : kStrip; }

// out = Xc Xc^T / N in panels; `room` is that of the packed features of a strip of positions.
template <class S, class T>
CCDN_TARGET void covariance_panels(Team& team, const FeatureRows<S, T>& x, T* room, T* out) {
  for (int64_t from = 0; from < x.positions; from += kStrip) {
    const int64_t depth = strip_of(x.positions - from);
    const auto f = pack(team, PackWork<S, T>{&x, 0, x.channels, from, depth, room}, true);
    const SymmetricWork<T> work{{x.channels, x.channels, depth, 1, {f, {}}, {f, {}}},
                                T(1.0 / double(x.positions)),
                                1,
                                0,
                                from > 0 ? out : nullptr,
                                nullptr,
                                out};
    symmetric_product(team, work);
  }
}

// Whether the deviation from the mean is nothing but rounding. A trace that overflows is not.
template <class T>
CCDN_INLINE bool is_constant(double trace, double mean_squares) {
  const double rounding = 16 * (sizeof(T) == 4 ? 0x1p-23 : 0x1p-52);
  return std::isfinite(trace) && trace <= rounding * rounding * (trace + mean_squares);
}

// A product whose rows and columns are those of the features in memory, from (row, column) on; it
// is written with their strides.
template <class S, class T>
struct FeatureWork {
  const FeatureRows<S, T>* x;
  Product<T> product;
  int64_t row, column;
  S* out;
};

template <class S, class T>
CCDN_TARGET void feature_block(const FeatureWork<S, T>& w, int64_t task) {
  constexpr int64_t width = kPanel<T>;
  const int64_t across = panels_of(w.product.columns, width);
  const int64_t i = task / across, j = task % across;
  T block[width * width];
  block_product(w.product, i, j, false, block);
  const int64_t rows = w.product.rows - i * width, columns = w.product.columns - j * width;
  const int64_t column_stride = w.x->column_stride;
  for (int64_t r = 0; r < (rows < width ? rows : width); ++r) {
    S* out =
        w.out + (w.row + i * width + r) * w.x->row_stride + (w.column + j * width) * column_stride;
    const T* in = block + r * width;
    if (column_stride == 1 && columns >= width) {
      for (int64_t c = 0; c < width; ++c) narrow(in[c], out[c]);
    } else {
      for (int64_t c = 0; c < (columns < width ? columns : width); ++c) {
        narrow(in[c], out[c * column_stride]);
      }
    }
  }
}

template <class S, class T>
CCDN_TARGET void feature_product(Team& team, const FeatureWork<S, T>& work) {
  constexpr int64_t width = kPanel<T>;
  team.each(panels_of(work.product.rows, width) * panels_of(work.product.columns, width), work,
            feature_block<S, T>);
}

// out = matrix Xc, the matrix symmetric (channels, channels) in panels.
template <class S, class T>
CCDN_TARGET void multiply_features(Team& team, const FeatureRows<S, T>& x, const T* matrix, T* room,
                                   S* out) {
  const Panels<const T> m{matrix, x.channels * kPanel<T>};
  for (int64_t from = 0; from < x.positions; from += kStrip) {
    const int64_t count = strip_of(x.positions - from);
    const auto f = pack(team, PackWork<S, T>{&x, from, count, 0, x.channels, room}, false);
    FeatureWork<S, T> work{&x, {}, 0, 0, out};
    if (x.channel_rows) {
      work.product = {x.channels, count, x.channels, 1, {m, {}}, {f, {}}};
      work.column = from;
    } else {
      work.product = {count, x.channels, x.channels, 1, {f, {}}, {m, {}}};
      work.row = from;
    }
    feature_product(team, work);
  }
}

// Room for a strip of features in either kind of panels.
template <class T>
inline int64_t strip_size(const CovarianceShape& s) {
  const int64_t strip = strip_of(s.positions);
  const int64_t a = packed_size<T>(s.channels, strip), b = packed_size<T>(strip, s.channels);
  return a > b ? a : b;
}

// A gradient of zero.
template <class S, class T>
CCDN_TARGET void zero_row(const FeatureWork<S, T>& w, int64_t row) {
  S* out = w.out + row * w.x->row_stride;
  for (int64_t c = 0; c < w.x->columns; ++c) narrow(T(0), out[c * w.x->column_stride]);
}

template <class S, class T>
CCDN_TARGET void zero_features(Team& team, const FeatureRows<S, T>& x, S* out) {
  const FeatureWork<S, T> work{&x, {}, 0, 0, out};
  team.each(x.rows, work, zero_row<S, T>);
}

}  // namespace CCDN_ISA
}  // namespace ccdn
