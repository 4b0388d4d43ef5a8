// The gradient of a sample's features, which are read and multiplied in strips:
//
//   channels    dX = Q Xc
//   positions   dX = Xc Q + s a g y^T + 1 (q(G) dL/dy)^T
//
// in the symbols of dual_squeeze_backward.h, plus a bias by channel. Q is dense, or alpha and thin
// factors.
#pragma once

#include "cpu/ops/dual_squeeze_memory.h"
#include "cpu/ops/recurrence.h"

namespace ccdn {
namespace CCDN_ISA {

template <class T>
struct GradientWork {
  const Sizes* sizes;
  Features<T> x;
  const BackwardMemory<T>* memory;
  Workers<T> workers;
  void* out;            // with the strides of x
  const double* outer;  // s a g by channel (side positions)
  const double* bias;   // added, by channel
  T alpha;

  // Where a tile may be written without conversion, or null.
  T* in_place(int64_t row, int64_t column) const {
    if (!x.codec->same || x.column_stride != 1) return nullptr;
    return static_cast<T*>(out) + row * x.row_stride + column;
  }
};

// What is added to a tile of the gradient's product: alpha times the features, and a bias by row
// and by column.
template <class T>
struct Addend {
  T alpha;
  const T* features;
  int64_t stride;
  const T *by_row, *by_column;  // 8, and the tile's columns
};

// out = left * b + addend for the first 8, 4 ... rows that hold `rows`; see tile_product.
template <class T, Left kLeft>
CCDN_TARGET inline void gradient_tile(int64_t depth, const T* a, int64_t a_stride, const T* b,
                                      int64_t b_stride, const Addend<T>& addend, int64_t rows,
                                      int64_t columns, T* out, int64_t out_stride) {
  using Vector = typename Simd<T>::Vector;
  constexpr int lanes = Simd<T>::lanes;
  const T alpha = addend.alpha;
  for (int64_t row = 0; row < rows; row += kRegisterRows) {
    for (int64_t column = 0; column < columns; column += 2 * lanes) {
      const T* features = addend.features + row * addend.stride + column;
      Vector sums[kRegisterRows][2];
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const Vector bias = load(addend.by_column + column + v * lanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRegisterRows; ++r) {
          const Vector x = load(features + r * addend.stride + v * lanes);
          sums[r][v] = alpha * x + (bias + addend.by_row[row + r]);
        }
      }
      const T* left = a + (kLeft == Left::by_row ? row * a_stride : row);
      const T* right = b + column;
      for (int64_t k = 0; k < depth; ++k) {
        const Vector right0 = load(right + k * b_stride);
        const Vector right1 = load(right + k * b_stride + lanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRegisterRows; ++r) {
          const T factor = kLeft == Left::by_row ? left[r * a_stride + k] : left[k * a_stride + r];
          sums[r][0] += factor * right0;
          sums[r][1] += factor * right1;
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRegisterRows; ++r) {
        T* place = out + (row + r) * out_stride + column;
        store(place, sums[r][0]);
        store(place + lanes, sums[r][1]);
      }
    }
  }
}

// Asks for the cache lines of `rows` x kPanel elements, which the next strip will read and write:
// its pieces of rows are too short for the processor to see a pattern.
template <class T>
CCDN_INLINE void prefetch_tile(const GradientWork<T>& w, int64_t row, int64_t rows,
                               int64_t column) {
  const Codec<T>& codec = *w.x.codec;
  const int64_t bytes = kPanel<T> * codec.bytes;
  for (int64_t r = row; r < row + rows; ++r) {
    const int64_t from = r * w.x.row_stride + column;
    const char* out = static_cast<const char*>(codec.at(w.out, from));
    const char* in = static_cast<const char*>(codec.at(w.x.data, from));
    for (int64_t c = 0; c < bytes; c += 64) {
      __builtin_prefetch(out + c, 1, 2);
      __builtin_prefetch(in + c, 0, 2);
    }
  }
}

// dX for a strip of columns, where the rows are the small side. A strip is a few panels, each
// small x kPanel; `thin` holds as many panels of products with the left factors.
template <class T>
CCDN_TARGET void gradient_small_rows(const GradientWork<T>& w, int64_t task, int worker) {
  constexpr int64_t width = kPanel<T>, kColumns = width * kStripPanels;
  const Sizes& s = *w.sizes;
  const BackwardMemory<T>& m = *w.memory;
  const WorkerMemory<T> scratch = w.workers[worker];
  const int64_t strip_panel = s.padded * width, extra = s.by_channels ? 0 : 2;
  const int64_t thin_panel = (round_up(s.thin, kTileRows) + 2) * width;
  const int64_t j = task * kColumns;
  const int64_t columns = s.length - j < kColumns ? s.length - j : kColumns;
  const int64_t panels = (columns + width - 1) / width;
  for (int64_t i = 0; i < s.small; i += kTileRows) {
    const int64_t rows = s.small - i < kTileRows ? s.small - i : kTileRows;
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t left = columns - p * width;
      int64_t stride = width;
      w.x.panels(true, i, rows, j + p * width, left < width ? left : width,
                 scratch.strip + p * strip_panel + i * width, stride);
    }
  }
  T add[kColumns] = {};
  for (int64_t p = 0; p < panels; ++p) {
    T *strip = scratch.strip + p * strip_panel, *thin = scratch.thin + p * thin_panel;
    if (!s.dense) {
      for (int64_t c = 0; c < s.thin; c += kTileRows) {
        const T* left = m.left + c * s.padded;
        if (s.thin - c <= 4) {
          tile_product<T, Left::by_row, 4>(s.small, left, s.padded, strip, width, thin + c * width,
                                           width, false);
        } else {
          tile_product<T, Left::by_row>(s.small, left, s.padded, strip, width, thin + c * width,
                                        width, false);
        }
      }
    }
    if (s.by_channels) continue;
    // The columns are channels, and the strip holds all of each: what the rounded mean left.
    T rest[width] = {};
    for (int64_t i = 0; i < s.small; ++i) {
      for (int64_t c = 0; c < width; ++c) rest[c] += strip[i * width + c];
    }
    T* products = thin + s.thin * width;
    for (int64_t c = 0; c < width; ++c) {
      const int64_t d = j + p * width + c;
      const bool inside = d < s.length;
      add[p * width + c] = inside ? T(w.bias[d]) - w.alpha * (rest[c] / T(s.small)) : T(0);
      products[c] = inside ? T(w.outer[d]) : T(0);
      products[width + c] = 1;
    }
  }
  const int64_t next = j + kColumns;
  for (int64_t i = 0; i < s.small; i += kTileRows) {
    const int64_t rows = s.small - i < kTileRows ? s.small - i : kTileRows;
    T by_row[kTileRows] = {};
    for (int64_t r = 0; r < rows && s.by_channels; ++r) by_row[r] = T(w.bias[i + r]);
    for (int64_t p = 0; p < panels; ++p) {
      const T *strip = scratch.strip + p * strip_panel, *thin = scratch.thin + p * thin_panel;
      const Addend<T> addend{w.alpha, strip + i * width, width, by_row, add + p * width};
      const int64_t count = columns - p * width;
      if (w.x.column_stride == 1 && next + (p + 1) * width <= s.length) {
        prefetch_tile(w, i, rows, next + p * width);
      }
      T* place = w.in_place(i, j + p * width);
      if (place && !s.dense && rows == kTileRows && count >= width) {
        gradient_tile<T, Left::by_column>(s.thin + extra, m.right + i, s.padded, thin, width,
                                          addend, rows, width, place, w.x.row_stride);
        continue;
      }
      T tile[kTileRows * width];
      if (s.dense) {
        const T* q = m.matrix + i / width * width * s.small + i % width;
        gradient_tile<T, Left::by_column>(s.small, q, width, strip, width, addend, rows, width,
                                          tile, width);
        if (extra) {
          tile_product<T, Left::by_column>(extra, m.right + s.thin * s.padded + i, s.padded,
                                           thin + s.thin * width, width, tile, width, true);
        }
      } else {
        gradient_tile<T, Left::by_column>(s.thin + extra, m.right + i, s.padded, thin, width,
                                          addend, rows, width, tile, width);
      }
      w.x.put(tile, width, i, rows, j + p * width, count < width ? count : width, w.out);
    }
  }
}

// dX for 8 rows, where the columns are the small side.
template <class T>
CCDN_TARGET void gradient_small_columns(const GradientWork<T>& w, int64_t task, int worker) {
  constexpr int64_t width = kPanel<T>;
  using Vector = typename Simd<T>::Vector;
  const Sizes& s = *w.sizes;
  const BackwardMemory<T>& m = *w.memory;
  const WorkerMemory<T> scratch = w.workers[worker];
  T *strip = scratch.strip, *thin = scratch.thin;
  const int64_t extra = s.by_channels ? 0 : 2;
  const int64_t thin_stride = round_up(s.thin, width) + 2;
  const int64_t j = task * kTileRows;
  const int64_t rows = s.length - j < kTileRows ? s.length - j : kTileRows;
  int64_t stride = s.padded;
  w.x.panels(true, j, rows, 0, s.small, strip, stride);
  for (int64_t i = rows * s.padded; i < kTileRows * s.padded; ++i) strip[i] = 0;
  if (!s.dense) {
    for (int64_t c = 0; c < s.thin; c += width) {
      tile_product<T, Left::by_row>(s.small, strip, s.padded, m.left_panel + c * s.padded, width,
                                    thin + c, thin_stride, false, s.thin - c <= width / 2);
    }
  }
  T add[kTileRows] = {};
  for (int64_t r = 0; r < rows && !s.by_channels; ++r) {
    // The rows are channels: what the rounded mean left in this one.
    Vector sums = {};
    for (int64_t i = 0; i < s.padded; i += Simd<T>::lanes) sums += load(strip + r * s.padded + i);
    const T rest = sum<T>(sums) / T(s.small);
    add[r] = T(w.bias[j + r]) - w.alpha * rest;
    T* products = thin + r * thin_stride + s.thin;
    products[0] = T(w.outer[j + r]);
    products[1] = 1;
  }
  T tile[kTileRows * width], by_column[width] = {};
  for (int64_t i = 0; i < s.small; i += width) {
    const int64_t count = s.small - i < width ? s.small - i : width;
    for (int64_t c = 0; c < count && s.by_channels; ++c) by_column[c] = T(w.bias[i + c]);
    const Addend<T> addend{w.alpha, strip + i, s.padded, add, by_column};
    T* out = tile;
    int64_t out_stride = width;
    T* place = w.in_place(j, i);
    if (place && !s.dense && rows == kTileRows && count == width) {
      out = place;
      out_stride = w.x.row_stride;
    }
    if (s.dense) {
      gradient_tile<T, Left::by_row>(s.small, strip, s.padded, m.matrix + i * s.small, width,
                                     addend, rows, count, tile, width);
      if (extra) {
        tile_product<T, Left::by_row>(extra, thin + s.thin, thin_stride,
                                      m.right + s.thin * s.padded + i, s.padded, tile, width, true);
      }
    } else {
      gradient_tile<T, Left::by_row>(s.thin + extra, thin, thin_stride, m.right + i, s.padded,
                                     addend, rows, count, out, out_stride);
    }
    if (out == tile) w.x.put(tile, width, j, rows, i, count, w.out);
  }
}

// The thin factors with dX = right (left^T Xc) or (Xc left) right^T, in T; and either left once
// more in panels, or Q. Left has the order of 1 whatever the scale of the features, because what is
// as large as they are is divided by a power of two near sqrt(tr).
template <class T>
CCDN_TARGET void gradient_factors(const Sizes& s, const BackwardMemory<T>& m, double a,
                                  double alpha, double trace) {
  const double *v = m.from_t + 2 * s.padded, *u = m.from_s + s.padded, *y = m.from_t;
  const int64_t half = s.rank * s.padded;
  const double unit = power_of_two_near(std::sqrt(trace));
  const double unit_v = s.by_channels ? 1 : unit, unit_u = s.by_channels ? unit : 1;
  for (int64_t i = 0; i < half; ++i) {
    m.left[i] = T(v[i] / unit_v);
    m.left[half + i] = T(u[i] / unit_u);
    m.right[i] = T(2 * a * unit_v * u[i]);
    m.right[half + i] = T(2 * a * unit_u * v[i]);
  }
  if (!s.by_channels) {
    T* right = m.right + 2 * half;
    for (int64_t i = 0; i < s.padded; ++i) {
      right[i] = T(y[i]);
      right[s.padded + i] = T(m.from_s[i]);
    }
  }
  for (int64_t i = s.thin * s.padded; i < round_up(s.thin, kTileRows) * s.padded; ++i) {
    m.left[i] = 0;
  }
  constexpr int64_t width = kPanel<T>;
  if (s.dense) {
    for (int64_t j = 0; j < s.padded;
         j += width) {  // in order: a panel overwrites the last tile's end
      for (int64_t i = 0; i < s.small; i += kTileRows) {
        tile_product<T, Left::by_column>(s.thin, m.left + i, s.padded, m.right + j, s.padded,
                                         m.matrix + j * s.small + i * width, width, false);
      }
    }
    for (int64_t i = 0; i < s.small; ++i) {
      m.matrix[diagonal_index<T>(s.small, i)] += T(alpha);
    }
  } else if (!s.small_rows) {
    for (int64_t c = 0; c < round_up(s.thin, width); ++c) {
      T* out = m.left_panel + c / width * width * s.padded + c % width;
      for (int64_t i = 0; i < s.small; ++i) {
        out[i * width] = c < s.thin ? m.left[c * s.padded + i] : T(0);
      }
    }
  }
}

}  // namespace CCDN_ISA
}  // namespace ccdn
