// The register-blocked product that all dense work of the CPU kernels goes through.
//
// A panel is kPanel columns wide, 128 bytes, whatever the instruction set. A tile is 8 x kPanel.
#pragma once

#include "cpu/engine/pair.h"

namespace ccdn {

constexpr int kTileRows = 8;

template <class T>
constexpr int kPanel = 128 / sizeof(T);

namespace CCDN_ISA {

// Accumulators in registers: 8 x 2 vectors of 32 registers, 4 x 2 of 16.
#if CCDN_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int kRegisterRows = 8;
#else
constexpr int kRegisterRows = 4;
#endif

enum class Left {
  by_column,  // element (row, k) of the left factor is a[k * stride + row]
  by_row,     // a[row * stride + k]
};

// The right factor and what is written may have 16 bits; the latter is not added to then.
template <class T, Left kLeft, int kRows, int kVectors, class A, class B, class Out>
CCDN_INLINE void register_tile(int64_t depth, const A* a, int64_t a_stride, const B* b,
                               int64_t b_stride, Out* out, int64_t out_stride, bool add) {
  using Vector = typename Simd<T>::Vector;
  constexpr int lanes = Simd<T>::lanes;
  // A narrow tile has too few chains of additions to fill the pipeline: it alternates between two.
  constexpr int kChains = kRows * kVectors < 16 && kRows == 8 ? 2 : 1;
  Vector sums[kChains][kRows][kVectors] = {};
  int64_t k = 0;
  for (; k + kChains <= depth; k += kChains) {
#pragma GCC unroll 2
    for (int chain = 0; chain < kChains; ++chain) {
      Vector right[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        right[v] = load_wide<T>(b + (k + chain) * b_stride + v * lanes);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const A left =
            kLeft == Left::by_row ? a[r * a_stride + k + chain] : a[(k + chain) * a_stride + r];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          if constexpr (std::is_same_v<A, T>) {
            sums[chain][r][v] += left * right[v];
          } else {
            add_product(sums[chain][r][v], left, right[v]);
          }
        }
      }
    }
  }
  if (kChains == 2 && k < depth) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const A left = kLeft == Left::by_row ? a[r * a_stride + k] : a[k * a_stride + r];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        if constexpr (std::is_same_v<A, T>) {
          sums[0][r][v] += left * load_wide<T>(b + k * b_stride + v * lanes);
        } else {
          add_product(sums[0][r][v], left, load_wide<T>(b + k * b_stride + v * lanes));
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      Vector total = sums[0][r][v];
      if (kChains == 2) total += sums[kChains - 1][r][v];
      Out* place = out + r * out_stride + v * lanes;
      if constexpr (std::is_same_v<Out, T>) {
        store(place, add ? load(place) + total : total);
      } else {
        store_narrow<T>(place, total);
      }
    }
  }
}

// out (rows of kPanel) = or += left (rows x depth) * b (depth x columns), for 8 rows and kPanel
// columns; with kRows = 4 for the first four rows only, with `half` for the first half of the
// columns.
template <class T, Left kLeft, int kRows = kTileRows, class E = T>
CCDN_TARGET inline void tile_product(int64_t depth, const E* a, int64_t a_stride, const E* b,
                                     int64_t b_stride, T* out, int64_t out_stride, bool add,
                                     bool half = false) {
  constexpr int lanes = Simd<T>::lanes, vectors = kPanel<T> / lanes;
  constexpr int kStep = kRows < kRegisterRows ? kRows : kRegisterRows;
  for (int row = 0; row < kRows; row += kStep) {
    const E* left = a + (kLeft == Left::by_row ? row * a_stride : row);
    T* place = out + row * out_stride;
    if (half && vectors == 2) {
      register_tile<T, kLeft, kStep, 1>(depth, left, a_stride, b, b_stride, place, out_stride, add);
      continue;
    }
    for (int v = 0; v < (half ? vectors / 2 : vectors); v += 2) {
      register_tile<T, kLeft, kStep, 2>(depth, left, a_stride, b + v * lanes, b_stride,
                                        place + v * lanes, out_stride, add);
    }
  }
}

}  // namespace CCDN_ISA
}  // namespace ccdn
