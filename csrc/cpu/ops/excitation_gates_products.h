// Small products of excitation_gates, of sizes that are known at run time only.
//
// Weights of 16 bits (S) are widened by the block, or in registers where few rows use them: whole
// copies of them would cost more than the products.
#pragma once

#include <type_traits>

#include "cpu/engine/elements.h"
#include "cpu/ops/excitation_gates_job.h"

namespace ccdn {
namespace CCDN_ISA {

// Products are summed in runs of this length, and the runs' sums then: rounding grows with the
// length of a run and the number of runs, not with their product.
constexpr int64_t kDepth = 64;

template <class T, Left kLeft, int kVectors, class B, class Out>
CCDN_TARGET void row_tiles(int64_t rows, int64_t depth, const T* a, int64_t a_stride, const B* b,
                           int64_t b_stride, Out* out, int64_t out_stride, bool add) {
  int64_t row = 0;
  const auto left = [&] { return a + (kLeft == Left::by_row ? row * a_stride : row); };
  for (; row + kRegisterRows <= rows; row += kRegisterRows) {
    register_tile<T, kLeft, kRegisterRows, kVectors>(depth, left(), a_stride, b, b_stride,
                                                     out + row * out_stride, out_stride, add);
  }
  if (kRegisterRows > 4 && row + 4 <= rows) {
    register_tile<T, kLeft, 4, kVectors>(depth, left(), a_stride, b, b_stride,
                                         out + row * out_stride, out_stride, add);
    row += 4;
  }
  for (; row < rows; ++row) {
    register_tile<T, kLeft, 1, kVectors>(depth, left(), a_stride, b, b_stride,
                                         out + row * out_stride, out_stride, add);
  }
}

// Whether a run of a factor is copied before it is used again and again: to widen 16 bits once, or
// because its rows lie far apart. At powers of two they share the few places that the first cache
// has for them.
template <class T, class B>
CCDN_INLINE bool is_copied(int64_t uses, int64_t depth, int64_t stride) {
  constexpr int64_t kFewest = 16, kSpan = 16 << 10;  // bytes
  if constexpr (!std::is_same_v<B, T>) return uses > kRegisterRows;
  return uses >= kFewest && depth * stride * int64_t(sizeof(T)) > kSpan;
}

// One run of a product: out (rows x columns) = or += left (rows x depth) * b (depth x columns), of
// any sizes up to kDepth in depth, and of kGateRows rows at most if the left factor is by column.
// What is written may have 16 bits if it is not added to.
template <class T, Left kLeft, class B, class Out>
CCDN_TARGET void product_run(int64_t rows, int64_t columns, int64_t depth, const T* left,
                             int64_t a_stride, const B* b, int64_t b_stride, Out* out,
                             int64_t out_stride, bool add) {
  constexpr int lanes = Simd<T>::lanes;
  constexpr bool by_row = kLeft == Left::by_row;
  T left_room[by_row ? 1 : kDepth * kGateRows], panel[kDepth * 2 * lanes];
  if (!by_row && is_copied<T, T>(columns, depth, a_stride)) {
    read_elements<T, T>(left, a_stride, 1, depth, rows, {}, left_room, kGateRows);
    left = left_room;
    a_stride = kGateRows;
  }
  const bool copied = is_copied<T, B>(rows, depth, b_stride);
  int64_t column = 0;
  for (; column + 2 * lanes <= columns; column += 2 * lanes) {
    if (!copied) {
      row_tiles<T, kLeft, 2>(rows, depth, left, a_stride, b + column, b_stride, out + column,
                             out_stride, add);
      continue;
    }
    for (int64_t i = 0; i < depth; ++i) {
      const B* from = b + i * b_stride + column;
      store(panel + i * 2 * lanes, load_wide<T>(from));
      store(panel + (i * 2 + 1) * lanes, load_wide<T>(from + lanes));
      // What the next panel, or the next run of a long product, begins with.
      __builtin_prefetch(by_row ? from + depth * b_stride : from + 2 * lanes);
    }
    row_tiles<T, kLeft, 2>(rows, depth, left, a_stride, panel, 2 * lanes, out + column, out_stride,
                           add);
  }
  if (column + lanes <= columns) {
    row_tiles<T, kLeft, 1>(rows, depth, left, a_stride, b + column, b_stride, out + column,
                           out_stride, add);
    column += lanes;
  }
  if (column == columns) return;
  // Less than a vector: padded.
  const int64_t count = columns - column;
  T tile[kRegisterRows * lanes];
  for (int64_t i = 0; i < depth; ++i) {
    for (int64_t c = 0; c < lanes; ++c) {
      panel[i * lanes + c] = c < count ? T(widen(b[i * b_stride + column + c])) : T(0);
    }
  }
  for (int64_t row = 0; row < rows; row += kRegisterRows) {
    const int64_t some = rows - row < kRegisterRows ? rows - row : kRegisterRows;
    row_tiles<T, kLeft, 1>(some, depth, left + (by_row ? row * a_stride : row), a_stride, panel,
                           lanes, tile, lanes, false);
    for (int64_t r = 0; r < some; ++r) {
      for (int64_t c = 0; c < count; ++c) {
        Out& place = out[(row + r) * out_stride + column + c];
        if constexpr (std::is_same_v<Out, T>) {
          place = add ? place + tile[r * lanes + c] : tile[r * lanes + c];
        } else {
          narrow(tile[r * lanes + c], place);
        }
      }
    }
  }
}

// The same of any depth; a left factor whose elements are not T is by row and has kGateRows rows at
// most.
template <class T, Left kLeft, class A, class B>
CCDN_TARGET void product(int64_t rows, int64_t columns, int64_t depth, const A* a, int64_t a_stride,
                         const B* b, int64_t b_stride, T* out, int64_t out_stride, bool add) {
  constexpr bool narrow_left = !std::is_same_v<A, T>;
  static_assert(!narrow_left || kLeft == Left::by_row);
  T room[narrow_left ? kGateRows * kDepth : 1];
  for (int64_t k = 0; k < depth; k += kDepth, add = true) {
    const int64_t run = depth - k < kDepth ? depth - k : kDepth;
    const A* left = a + (kLeft == Left::by_row ? k : k * a_stride);
    const B* right = b + k * b_stride;
    if constexpr (narrow_left) {
      read_elements<A, T>(left, a_stride, 1, rows, run, {}, room, kDepth);
      product_run<T, kLeft>(rows, columns, run, room, kDepth, right, b_stride, out, out_stride,
                            add);
    } else {
      product_run<T, kLeft>(rows, columns, run, left, a_stride, right, b_stride, out, out_stride,
                            add);
    }
  }
}

// out[c][r] = in[r][c] of any sizes. A row of `out` is written at once: rows may share a place in
// the caches.
template <class T>
CCDN_TARGET void turn(int64_t rows, int64_t columns, const T* in, int64_t in_stride, T* out,
                      int64_t out_stride) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t c = 0; c < columns; c += lanes) {
    for (int64_t r = 0; r < rows; r += lanes) {
      if (r + lanes <= rows && c + lanes <= columns) {
        transpose<T>(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
        continue;
      }
      for (int64_t i = r; i < rows && i < r + lanes; ++i) {
        for (int64_t j = c; j < columns && j < c + lanes; ++j) {
          out[j * out_stride + i] = in[i * in_stride + j];
        }
      }
    }
  }
}

// out[q][r] = sum over k of in[q][k] * weight[r][k], k in the lanes.
template <class T, int kSamples, int kRows, class S>
CCDN_INLINE void dots(int64_t depth, const S* weight, int64_t weight_stride, const T* in,
                      int64_t in_stride, T* out, int64_t out_stride) {
  using Vector = typename Simd<T>::Vector;
  constexpr int lanes = Simd<T>::lanes;
  Vector sums[kRows][kSamples] = {};
  int64_t k = 0;
  for (; k + lanes <= depth; k += lanes) {
    Vector values[kSamples];
#pragma GCC unroll 4
    for (int q = 0; q < kSamples; ++q) values[q] = load(in + q * in_stride + k);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vector w = load_wide<T>(weight + r * weight_stride + k);
#pragma GCC unroll 4
      for (int q = 0; q < kSamples; ++q) sums[r][q] += w * values[q];
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int q = 0; q < kSamples; ++q) {
      T total = sum<T>(sums[r][q]);
      for (int64_t i = k; i < depth; ++i) {
        total += T(widen(weight[r * weight_stride + i])) * in[q * in_stride + i];
      }
      out[q * out_stride + r] = total;
    }
  }
}

template <class T, int kSamples, class S>
CCDN_TARGET void dot_rows(int64_t rows, int64_t depth, const S* weight, const T* in,
                          int64_t in_stride, T* out, int64_t out_stride) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    dots<T, kSamples, 4>(depth, weight + r * depth, depth, in, in_stride, out + r, out_stride);
  }
  for (; r < rows; ++r) {
    dots<T, kSamples, 1>(depth, weight + r * depth, depth, in, in_stride, out + r, out_stride);
  }
}

template <class T, class S>
CCDN_TARGET void dot_product(int64_t samples, int64_t rows, int64_t depth, const S* weight,
                             const T* in, int64_t in_stride, T* out, int64_t out_stride) {
  for (int64_t b = 0; b < samples; b += 4) {
    const T* from = in + b * in_stride;
    T* to = out + b * out_stride;
    switch (samples - b) {
      case 1:
        dot_rows<T, 1>(rows, depth, weight, from, in_stride, to, out_stride);
        break;
      case 2:
        dot_rows<T, 2>(rows, depth, weight, from, in_stride, to, out_stride);
        break;
      case 3:
        dot_rows<T, 3>(rows, depth, weight, from, in_stride, to, out_stride);
        break;
      default:
        dot_rows<T, 4>(rows, depth, weight, from, in_stride, to, out_stride);
    }
  }
}

}  // namespace CCDN_ISA
}  // namespace ccdn
