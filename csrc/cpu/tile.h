// The register-blocked product that all dense work of the CPU kernels goes through.
//
// A panel is kPanel columns wide, 128 bytes, whatever the instruction set. A tile is 8 x kPanel.
#pragma once

#include "cpu/simd.h"

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

template <class T, Left kLeft, int kRows, int kVectors>
CCDN_INLINE void register_tile(int64_t depth, const T* a, int64_t a_stride, const T* b,
                               int64_t b_stride, T* out, bool add) {
  using Vector = typename Simd<T>::Vector;
  constexpr int lanes = Simd<T>::lanes;
  Vector sums[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) right[v] = load(b + k * b_stride + v * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const T left = kLeft == Left::by_row ? a[r * a_stride + k] : a[k * a_stride + r];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      T* place = out + r * kPanel<T> + v * lanes;
      store(place, add ? load(place) + sums[r][v] : sums[r][v]);
    }
  }
}

// out (8 x kPanel, contiguous) = or += left (8 x depth) * b (depth x columns). `half` computes the
// first half of the columns only.
template <class T, Left kLeft>
CCDN_TARGET inline void tile_product(int64_t depth, const T* a, int64_t a_stride, const T* b,
                                     int64_t b_stride, T* out, bool add, bool half = false) {
  constexpr int lanes = Simd<T>::lanes, vectors = kPanel<T> / lanes;
  for (int row = 0; row < kTileRows; row += kRegisterRows) {
    const T* left = a + (kLeft == Left::by_row ? row * a_stride : row);
    T* place = out + row * kPanel<T>;
    if (half && vectors == 2) {
      register_tile<T, kLeft, kRegisterRows, 1>(depth, left, a_stride, b, b_stride, place, add);
      continue;
    }
    for (int v = 0; v < (half ? vectors / 2 : vectors); v += 2) {
      register_tile<T, kLeft, kRegisterRows, 2>(depth, left, a_stride, b + v * lanes, b_stride,
                                                place + v * lanes, add);
    }
  }
}

// A vector of doubles stays a double while the matrix is T: sums over the rows j of a panel
// (`rows` x kPanel, contiguous) of panel[j] * weights_q[j], for kWeights vectors at once.
template <class T, int kWeights>
CCDN_INLINE void panel_sums(int64_t rows, const T* panel, const double* const* weights,
                            double* const* out, bool add) {
  constexpr int vectors = kPanel<T> / kDoubles, block = vectors < 4 ? vectors : 4;
  for (int v = 0; v < vectors; v += block) {
    Doubles sums[2][kWeights][block] = {};
    int64_t j = 0;
    for (; j + 2 <= rows; j += 2) {
#pragma GCC unroll 2
      for (int p = 0; p < 2; ++p) {
#pragma GCC unroll 4
        for (int b = 0; b < block; ++b) {
          const Doubles row = load_doubles(panel + (j + p) * kPanel<T> + (v + b) * kDoubles);
#pragma GCC unroll 2
          for (int q = 0; q < kWeights; ++q) {
            // With two weights there are enough chains without doubling them.
            sums[kWeights == 1 ? p : 0][q][b] += weights[q][j + p] * row;
          }
        }
      }
    }
    if (j < rows) {
      for (int b = 0; b < block; ++b) {
        const Doubles row = load_doubles(panel + j * kPanel<T> + (v + b) * kDoubles);
        for (int q = 0; q < kWeights; ++q) sums[0][q][b] += weights[q][j] * row;
      }
    }
#pragma GCC unroll 2
    for (int q = 0; q < kWeights; ++q) {
#pragma GCC unroll 4
      for (int b = 0; b < block; ++b) {
        double* place = out[q] + (v + b) * kDoubles;
        const Doubles total = kWeights == 1 ? sums[0][q][b] + sums[1][q][b] : sums[0][q][b];
        store(place, add ? load(place) + total : total);
      }
    }
  }
}

}  // namespace CCDN_ISA
}  // namespace ccdn
