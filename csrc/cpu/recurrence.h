// t_j = T_j(M) v for M = 2 S / tr S - 1, with S in T and the vectors in double.
//
// In float32 vectors the rounding of m products would reach the gradient undamped; the matrix alone
// in float32 costs nothing that its own rounding has not cost already.
#pragma once

#include "cpu/features.h"

namespace ccdn {
namespace CCDN_ISA {

// next_q = scale S current_q - shift current_q - previous_q, for kCount vectors at once. previous
// may be null, and a vector may replace its previous one.
template <class T, int kCount>
CCDN_TARGET void chebyshev_step(const Sizes& s, const T* matrix, double scale, double shift,
                                const double* const* current, const double* const* previous,
                                double* const* next) {
  constexpr int64_t width = kPanel<T>;
  double products[kCount][width];
  double* out[kCount];
  for (int q = 0; q < kCount; ++q) out[q] = products[q];
  for (int64_t j = 0; j < s.padded; j += width) {
    panel_sums<T, kCount>(s.small, matrix + j * s.padded, current, out, false);
    for (int q = 0; q < kCount; ++q) {
      const double *now = current[q] + j, *before = previous ? previous[q] + j : nullptr;
      double* to = next[q] + j;
      if (before) {
        for (int i = 0; i < width; ++i) {
          to[i] = scale * products[q][i] - shift * now[i] - before[i];
        }
      } else {
        for (int i = 0; i < width; ++i) to[i] = scale * products[q][i] - shift * now[i];
      }
    }
  }
}

// All of the recurrence for kCount start vectors, in rows of `padded` numbers.
template <class T, int kCount>
CCDN_TARGET void chebyshev_vectors(const Sizes& s, const T* matrix, double trace,
                                   double* const* vectors) {
  const double *current[kCount], *previous[kCount];
  double* next[kCount];
  for (int64_t j = 1; j < s.terms; ++j) {
    for (int q = 0; q < kCount; ++q) {
      current[q] = vectors[q] + (j - 1) * s.padded;
      previous[q] = current[q] - (j > 1 ? s.padded : 0);
      next[q] = vectors[q] + j * s.padded;
    }
    if (j == 1) {
      chebyshev_step<T, kCount>(s, matrix, 2 / trace, 1, current, nullptr, next);
    } else {
      chebyshev_step<T, kCount>(s, matrix, 4 / trace, 2, current, previous, next);
    }
  }
}

// out (rows x padded) = table (rows x terms) * vectors (terms x padded).
CCDN_TARGET inline void combine(const Sizes& s, const double* table, int64_t rows,
                                const double* vectors, double* out) {
  constexpr int kBlock = 2;
  for (int64_t i = 0; i < s.padded; i += kBlock * kDoubles) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      Doubles sums[4][kBlock] = {};
      for (int64_t j = 0; j < s.terms; ++j) {
#pragma GCC unroll 2
        for (int b = 0; b < kBlock; ++b) {
          const Doubles v = load(vectors + j * s.padded + i + b * kDoubles);
#pragma GCC unroll 4
          for (int q = 0; q < 4; ++q) sums[q][b] += table[(r + q) * s.terms + j] * v;
        }
      }
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
#pragma GCC unroll 2
        for (int b = 0; b < kBlock; ++b) {
          store(out + (r + q) * s.padded + i + b * kDoubles, sums[q][b]);
        }
      }
    }
    for (; r < rows; ++r) {
      Doubles sums[kBlock] = {};
      for (int64_t j = 0; j < s.terms; ++j) {
#pragma GCC unroll 2
        for (int b = 0; b < kBlock; ++b) {
          sums[b] += table[r * s.terms + j] * load(vectors + j * s.padded + i + b * kDoubles);
        }
      }
#pragma GCC unroll 2
      for (int b = 0; b < kBlock; ++b) store(out + r * s.padded + i + b * kDoubles, sums[b]);
    }
  }
}

CCDN_TARGET inline double dot(const double* a, const double* b, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += a[i] * b[i];
  return total;
}

// Takes the mean out of the first `count` numbers. What lies over positions has none, because every
// row of Xc has none; rounding leaves one that the gradient must not have.
CCDN_TARGET inline void remove_mean(double* v, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += v[i];
  for (int64_t i = 0; i < count; ++i) v[i] -= total / double(count);
}

}  // namespace CCDN_ISA
}  // namespace ccdn
