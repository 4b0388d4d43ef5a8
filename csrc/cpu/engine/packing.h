// One sample's features in panels (cpu/engine/symmetric.h), and products with them.
//
// Their panels come in two kinds: `by_channel`, the columns of a panel are channels and its rows
// positions, and by position.
#pragma once

#include "cpu/engine/features.h"

namespace ccdn {
namespace CCDN_ISA {

// Rows of a packed panel: whole vectors, so that a transpose may write past the last one.
template <class T>
inline int64_t padded_depth(int64_t depth) {
  return round_up(depth, Simd<T>::lanes);
}

// Room for panels of `columns` columns and `depth` rows, in elements.
template <class T>
inline int64_t packed_size(int64_t columns, int64_t depth) {
  return panels_of(columns, kPanel<T>) * padded_depth<T>(depth) * kPanel<T>;
}

// Centred features in panels: `columns` from `column` on, rows `depth` from `from` on.
template <class T>
struct PackWork {
  const Features<T>* x;
  int64_t column, columns, from, depth;
  T* out;
  double* sums;  // of the columns, added to where `from` is not 0; or null
};

// Rows packed before they are used again, while they are in the L1 cache.
constexpr int64_t kPackRows = 128;

// Adds `count` rows of a packed panel to the sums of its columns.
template <class T>
CCDN_TARGET void sum_packed(const T* panel, int64_t count, bool add, double* sums) {
  constexpr int vectors = kPanel<T> / kDoubles, block = vectors < 4 ? vectors : 4;
  for (int v = 0; v < vectors; v += block) {
    Doubles total[2][block] = {};
    const T* from = panel + v * kDoubles;
    int64_t k = 0;
    for (; k + 2 <= count; k += 2) {
#pragma GCC unroll 4
      for (int b = 0; b < block; ++b) {
        total[0][b] += load_doubles(from + k * kPanel<T> + b * kDoubles);
        total[1][b] += load_doubles(from + (k + 1) * kPanel<T> + b * kDoubles);
      }
    }
#pragma GCC unroll 4
    for (int b = 0; b < block; ++b) {
      if (k < count) total[0][b] += load_doubles(from + k * kPanel<T> + b * kDoubles);
      double* place = sums + (v + b) * kDoubles;
      total[0][b] += total[1][b];
      store(place, add ? load(place) + total[0][b] : total[0][b]);
    }
  }
}

// The panels' columns are contiguous in memory.
template <class T>
CCDN_TARGET void pack_columns(const PackWork<T>& w, int64_t task, int) {
  constexpr int64_t width = kPanel<T>;
  T* out = w.out + task * padded_depth<T>(w.depth) * width;
  const int64_t left = w.columns - task * width, count = left < width ? left : width;
  for (int64_t k = 0; k < w.depth; k += kPackRows) {
    const int64_t some = w.depth - k < kPackRows ? w.depth - k : kPackRows;
    int64_t stride = width;
    w.x->panels(true, w.from + k, some, w.column + task * width, count, out + k * width, stride);
    if (w.sums) sum_packed(out + k * width, some, w.from + k > 0, w.sums + task * width);
  }
}

// The panels' columns are rows in memory.
template <class T>
CCDN_TARGET void pack_rows(const PackWork<T>& w, int64_t task, int) {
  constexpr int64_t width = kPanel<T>;
  constexpr int lanes = Simd<T>::lanes;
  T* out = w.out + task * padded_depth<T>(w.depth) * width;
  const int64_t left = w.columns - task * width, lines = left < width ? left : width;
  T block[width * kPackRows];
  if (lines < width) {
    for (int64_t e = lines * kPackRows; e < width * kPackRows; e += lanes) {
      store(block + e, typename Simd<T>::Vector{});
    }
  }
  for (int64_t k = 0; k < w.depth; k += kPackRows) {
    const int64_t some = w.depth - k < kPackRows ? w.depth - k : kPackRows;
    w.x->block(true, w.column + task * width, lines, w.from + k, some, block, kPackRows);
    for (int64_t c = 0; c < padded_depth<T>(some); c += lanes) {
      for (int64_t i = 0; i < width; i += lanes) {
        transpose<T>(block + i * kPackRows + c, kPackRows, out + (k + c) * width + i, width);
      }
    }
    if (w.sums) sum_packed(out + k * width, some, w.from + k > 0, w.sums + task * width);
  }
}

template <class T>
CCDN_TARGET Panels<const T> pack(Team& team, const PackWork<T>& work, bool by_channel) {
  const bool contiguous = by_channel != work.x->channel_rows;
  team.each(panels_of(work.columns, kPanel<T>), work, contiguous ? pack_columns<T> : pack_rows<T>);
  return {work.out, padded_depth<T>(work.depth) * kPanel<T>};
}

// All features, the columns of the panels being channels or positions.
template <class T>
CCDN_TARGET Panels<const T> pack_all(Team& team, const Features<T>& x, bool by_channel, T* out) {
  const int64_t columns = by_channel ? x.channels : x.positions;
  const int64_t depth = by_channel ? x.positions : x.channels;
  return pack(team, PackWork<T>{&x, 0, columns, 0, depth, out, nullptr}, by_channel);
}

// Positions packed together: what comes of them stays in the L2 cache.
constexpr int64_t kStrip = 512;

inline int64_t strip_of(int64_t positions) { return positions < kStrip ? positions : kStrip; }

// Room for a strip of panels of `columns` columns out of `depth` rows.
template <class T>
inline int64_t strip_size(int64_t columns, int64_t depth) {
  return packed_size<T>(columns, strip_of(depth));
}

// What gram_panels makes, of bfloat16 features in pairs (pair_gram.h); false where that is not
// wanted (Pairs), not possible or not exact enough.
bool pair_gram(Team& team, const Features<float>& x, bool by_channel, float* room, float* out);

// out = Xc Xc^T / N (by channel) or Xc^T Xc / N in panels, where `room` holds a strip. The sums of
// the centred features over what is summed here go to `sums`, with room up to whole panels, or
// nowhere when it is null.
template <class T>
CCDN_TARGET void gram_panels(Team& team, const Features<T>& x, bool by_channel, T* room, T* out,
                             double* sums = nullptr) {
  const int64_t n = by_channel ? x.channels : x.positions;
  const int64_t length = by_channel ? x.positions : x.channels;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (pair_gram(team, x, by_channel, room, out)) {
      if (!sums) return;
      const bool by_row = by_channel == x.channel_rows;
      feature_sums(team, SumsWork<T, 1>{&x, true, by_row, {nullptr}, {sums}});
      for (int64_t i = n; i < round_up(n, kPanel<T>); ++i) sums[i] = 0;
      return;
    }
  }
  // Packing without transposing is so quick that it pays to multiply few panels from the L1 cache.
  const bool quick = by_channel != x.channel_rows && panels_of(n, kPanel<T>) <= 4;
  const int64_t strip = quick ? kPackRows : kStrip;
  for (int64_t from = 0; from < length; from += strip) {
    const int64_t depth = length - from < strip ? length - from : strip;
    const auto f = pack(team, PackWork<T>{&x, 0, n, from, depth, room, sums}, by_channel);
    const SymmetricWork<T> work{{n, n, depth, 1, {f, {}}, {f, {}}},
                                T(1.0 / double(x.positions)),
                                1,
                                0,
                                from > 0 ? out : nullptr,
                                nullptr,
                                out};
    symmetric_product(team, work);
  }
}

// A product whose rows and columns are those of the features in memory, from (row, column) on; it
// is written with their strides.
template <class T>
struct FeatureWork {
  const Features<T>* x;
  Product<T> product;
  int64_t row, column;
  void* out;
};

template <class T>
CCDN_TARGET void feature_block(const FeatureWork<T>& w, int64_t task, int) {
  constexpr int64_t width = kPanel<T>;
  const int64_t across = panels_of(w.product.columns, width);
  const int64_t i = task / across, j = task % across;
  T block[width * width];
  block_product(w.product, i, j, false, block);
  const int64_t rows = w.product.rows - i * width, columns = w.product.columns - j * width;
  w.x->put(block, width, w.row + i * width, rows < width ? rows : width, w.column + j * width,
           columns < width ? columns : width, w.out);
}

template <class T>
CCDN_TARGET void feature_product(Team& team, const FeatureWork<T>& work) {
  constexpr int64_t width = kPanel<T>;
  team.each(panels_of(work.product.rows, width) * panels_of(work.product.columns, width), work,
            feature_block<T>);
}

// out = matrix Xc, the matrix symmetric (channels, channels) in panels; `room` holds the panels of
// a strip of positions.
template <class T>
CCDN_TARGET void multiply_features(Team& team, const Features<T>& x, const T* matrix, T* room,
                                   void* out) {
  const Panels<const T> m{matrix, x.channels * kPanel<T>};
  for (int64_t from = 0; from < x.positions; from += kStrip) {
    const int64_t count = strip_of(x.positions - from);
    const auto f = pack(team, PackWork<T>{&x, from, count, 0, x.channels, room, nullptr}, false);
    FeatureWork<T> work{&x, {}, 0, 0, out};
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

// out = by_channel at every position, or 0 where that is null: the gradient of a constant sample.
template <class T>
struct FillWork {
  const Features<T>* x;
  const double* by_channel;
  void* out;
};

template <class T>
CCDN_TARGET void fill_row(const FillWork<T>& w, int64_t row, int) {
  constexpr int64_t kLine = 128;
  T line[kLine];
  for (int64_t c = 0; c < w.x->columns; c += kLine) {
    const int64_t count = w.x->columns - c < kLine ? w.x->columns - c : kLine;
    for (int64_t i = 0; i < count; ++i) {
      line[i] = w.by_channel ? T(w.by_channel[w.x->channel_rows ? row : c + i]) : T(0);
    }
    w.x->put(line, 0, row, 1, c, count, w.out);
  }
}

template <class T>
CCDN_TARGET void fill_features(Team& team, const Features<T>& x, const double* by_channel,
                               void* out) {
  team.each(x.rows, FillWork<T>{&x, by_channel, out}, fill_row<T>);
}

}  // namespace CCDN_ISA
}  // namespace ccdn
