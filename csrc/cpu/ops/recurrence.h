// t_j = T_j(M) v for M = 2 S / tr S - 1, with S in T, in panels, and the vectors in double.
//
// With float32 vectors the rounding of m products would reach the gradient undamped. A float32
// matrix adds no error beyond its own rounding. The tail of the series may be rounded: its
// coefficients are small, and so is the effect.
#pragma once

#include <cmath>

#include "cpu/ops/dual_squeeze_memory.h"

namespace ccdn {
namespace CCDN_ISA {

// Sums over the rows j of a panel (`rows` x kPanel, contiguous) of panel[j] * weights_q[j], in
// double, for kCount vectors at once.
template <class T, int kCount>
CCDN_INLINE void panel_sums(int64_t rows, const T* panel, const double* const* weights,
                            double* const* out) {
  constexpr int vectors = kPanel<T> / kDoubles, block = vectors < 4 ? vectors : 4;
  constexpr int kChains = kCount == 1 ? 2 : 1;  // two vectors are chains enough
  for (int v = 0; v < vectors; v += block) {
    Doubles sums[kChains][kCount][block] = {};
    int64_t j = 0;
    for (; j + kChains <= rows; j += kChains) {
#pragma GCC unroll 2
      for (int chain = 0; chain < kChains; ++chain) {
#pragma GCC unroll 4
        for (int b = 0; b < block; ++b) {
          const Doubles row = load_doubles(panel + (j + chain) * kPanel<T> + (v + b) * kDoubles);
#pragma GCC unroll 2
          for (int q = 0; q < kCount; ++q) sums[chain][q][b] += weights[q][j + chain] * row;
        }
      }
    }
    if (kChains == 2 && j < rows) {
#pragma GCC unroll 4
      for (int b = 0; b < block; ++b) {
        sums[0][0][b] += weights[0][j] * load_doubles(panel + j * kPanel<T> + (v + b) * kDoubles);
      }
    }
#pragma GCC unroll 2
    for (int q = 0; q < kCount; ++q) {
#pragma GCC unroll 4
      for (int b = 0; b < block; ++b) {
        double* place = out[q] + (v + b) * kDoubles;
        Doubles total = sums[0][q][b];
        if (kChains == 2) total += sums[kChains - 1][q][b];
        store(place, total);
      }
    }
  }
}

// The same in float, and the sums widened.
template <int kCount>
CCDN_INLINE void panel_sums_single(int64_t rows, const float* panel, const float* const* weights,
                                   double* const* out) {
  using Vector = Simd<float>::Vector;
  constexpr int lanes = Simd<float>::lanes, vectors = kPanel<float> / lanes;
  constexpr int kChains = kCount == 1 ? 4 : 2;
  for (int v = 0; v < vectors; v += 2) {
    Vector sums[kChains][kCount][2] = {};
    int64_t j = 0;
    for (; j + kChains <= rows; j += kChains) {
#pragma GCC unroll 4
      for (int chain = 0; chain < kChains; ++chain) {
#pragma GCC unroll 2
        for (int b = 0; b < 2; ++b) {
          const Vector row = load(panel + (j + chain) * kPanel<float> + (v + b) * lanes);
#pragma GCC unroll 2
          for (int q = 0; q < kCount; ++q) sums[chain][q][b] += weights[q][j + chain] * row;
        }
      }
    }
    for (; j < rows; ++j) {
#pragma GCC unroll 2
      for (int b = 0; b < 2; ++b) {
        const Vector row = load(panel + j * kPanel<float> + (v + b) * lanes);
#pragma GCC unroll 2
        for (int q = 0; q < kCount; ++q) sums[0][q][b] += weights[q][j] * row;
      }
    }
#pragma GCC unroll 2
    for (int q = 0; q < kCount; ++q) {
#pragma GCC unroll 2
      for (int b = 0; b < 2; ++b) {
        Vector total = sums[0][q][b] + sums[1][q][b];
        if (kChains == 4) total += sums[kChains - 2][q][b] + sums[kChains - 1][q][b];
        float narrow[lanes];
        store(narrow, total);
        for (int half = 0; half < 2; ++half) {
          store(out[q] + (v + b) * lanes + half * kDoubles, load_doubles(narrow + half * kDoubles));
        }
      }
    }
  }
}

// A power of two near x; 1 for 0 and for what is not finite.
inline double power_of_two_near(double x) {
  return x > 0 && std::isfinite(x) ? std::ldexp(1.0, std::ilogb(x)) : 1;
}

// What a vector of the recurrence is multiplied by before it is rounded to single precision, so
// that neither it nor its product with S comes near the ends of the type's range, whatever the
// scale of the features. The recurrence lets no vector grow.
CCDN_TARGET inline double single_unit(const double* start, int64_t count, double trace) {
  double largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::fmax(largest, std::fabs(start[i]));
  return 1 / power_of_two_near(largest * std::sqrt(trace));
}

// next_q = scale S current_q - shift current_q - previous_q, for kCount vectors at once. previous
// may be null. With `single` the product is taken of the vectors in single precision, in `units`.
template <class T, int kCount>
CCDN_TARGET void chebyshev_step(const Sizes& s, const T* matrix, double scale, double shift,
                                const double* const* current, const double* const* previous,
                                double* const* next, const double* units,
                                T* const* single = nullptr) {
  constexpr int64_t width = kPanel<T>;
  double products[kCount][width];
  double* out[kCount];
  for (int q = 0; q < kCount; ++q) out[q] = products[q];
  const bool in_single = sizeof(T) == sizeof(float) && single;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (single) {
      for (int q = 0; q < kCount; ++q) {
        for (int64_t i = 0; i < s.padded; ++i) single[q][i] = float(units[q] * current[q][i]);
      }
    }
  }
  for (int64_t j = 0; j < s.padded; j += width) {
    if constexpr (sizeof(T) == sizeof(float)) {
      if (single) {
        panel_sums_single<kCount>(s.small, matrix + j * s.small, single, out);
      } else {
        panel_sums<T, kCount>(s.small, matrix + j * s.small, current, out);
      }
    } else {
      panel_sums<T, kCount>(s.small, matrix + j * s.small, current, out);
    }
    for (int q = 0; q < kCount; ++q) {
      const double factor = in_single ? scale / units[q] : scale;
      for (int i = 0; i < width; i += kDoubles) {
        Doubles value = factor * load(products[q] + i) - shift * load(current[q] + j + i);
        if (previous) value -= load(previous[q] + j + i);
        store(next[q] + j + i, value);
      }
    }
  }
}

// The first term whose product may be taken in single precision. Rounding there is weighted by
// coefficients that fall geometrically: from 1/64 on it is far below that of the matrix.
inline int64_t first_single_term(const DualSqueezeShape& shape) {
  int64_t j = 1;
  while (j < shape.terms && std::fabs(shape.coefficients[j]) > 1.0 / 64) ++j;
  return j;
}

// All of the recurrence for kCount start vectors, in rows of `padded` numbers.
template <class T, int kCount>
CCDN_TARGET void chebyshev_vectors(const Sizes& s, const T* matrix, double trace,
                                   int64_t first_single, double* const* vectors, T* const* single) {
  const double *current[kCount], *previous[kCount];
  double *next[kCount], units[kCount];
  for (int q = 0; q < kCount; ++q) units[q] = single_unit(vectors[q], s.padded, trace);
  for (int64_t j = 1; j < s.terms; ++j) {
    for (int q = 0; q < kCount; ++q) {
      current[q] = vectors[q] + (j - 1) * s.padded;
      previous[q] = current[q] - (j > 1 ? s.padded : 0);
      next[q] = vectors[q] + j * s.padded;
    }
    chebyshev_step<T, kCount>(s, matrix, (j > 1 ? 4 : 2) / trace, j > 1 ? 2 : 1, current,
                              j > 1 ? previous : nullptr, next, units,
                              j >= first_single ? single : nullptr);
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

// Subtracts the mean of the first `count` numbers. A vector over positions has mean zero, because
// every row of Xc has; rounding leaves a mean that must not reach the gradient.
CCDN_TARGET inline void remove_mean(double* v, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += v[i];
  for (int64_t i = 0; i < count; ++i) v[i] -= total / double(count);
}

}  // namespace CCDN_ISA
}  // namespace ccdn
