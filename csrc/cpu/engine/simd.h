// Vectors for kernels that are compiled once for each instruction set.
//
// Every function needs CCDN_TARGET, because GCC lowers vector arithmetic before it inlines: without
// it a helper would be split into SSE2 pieces even inside an AVX-512 caller. Code outside the
// namespace is compiled for the baseline only, so no shared inline function contains AVX code.
#pragma once

#include <cstdint>
#include <utility>

#include "cpu/engine/isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define CCDN_INLINE CCDN_TARGET inline __attribute__((always_inline))

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between inlined functions only
#endif

namespace ccdn {
namespace CCDN_ISA {

template <class T>
struct Simd {
  static constexpr int lanes = CCDN_VECTOR_BYTES / sizeof(T);
  typedef T Vector __attribute__((vector_size(CCDN_VECTOR_BYTES)));
  typedef T Unaligned
      __attribute__((vector_size(CCDN_VECTOR_BYTES), aligned(alignof(T)), may_alias));
};

using Doubles = Simd<double>::Vector;
constexpr int kDoubles = Simd<double>::lanes;

template <class T>
CCDN_INLINE typename Simd<T>::Vector load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::Unaligned*>(p);
}

template <class T>
CCDN_INLINE void store(T* p, typename Simd<T>::Vector v) {
  *reinterpret_cast<typename Simd<T>::Unaligned*>(p) = v;
}

CCDN_INLINE Doubles load_doubles(const double* p) { return load(p); }

CCDN_INLINE Doubles load_doubles(const float* p) {
#if CCDN_VECTOR_BYTES == 64
  // GCC 12 makes two halves and three shuffles of the generic conversion.
  return (Doubles)_mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(p));
#else
  typedef float Narrow __attribute__((vector_size(CCDN_VECTOR_BYTES / 2), aligned(4), may_alias));
  return __builtin_convertvector(*reinterpret_cast<const Narrow*>(p), Doubles);
#endif
}

// Two vectors of doubles as one of floats.
CCDN_INLINE Simd<float>::Vector floats_of(Doubles low, Doubles high) {
#if CCDN_VECTOR_BYTES == 64
  const __m512 first = _mm512_castps256_ps512(_mm512_maskz_cvtpd_ps(0xff, (__m512d)low));
  const __m256 second = _mm512_maskz_cvtpd_ps(0xff, (__m512d)high);
  return (Simd<float>::Vector)_mm512_maskz_insertf32x8(0xffff, first, second, 1);
#elif CCDN_VECTOR_BYTES == 32
  return (Simd<float>::Vector)_mm256_set_m128(_mm256_cvtpd_ps((__m256d)high),
                                              _mm256_cvtpd_ps((__m256d)low));
#else
  Simd<float>::Vector v;
  for (int i = 0; i < kDoubles; ++i) {
    v[i] = float(low[i]);
    v[i + kDoubles] = float(high[i]);
  }
  return v;
#endif
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define CCDN_SHUFFLE 1
#endif
#endif

#ifdef CCDN_SHUFFLE
template <class T, int kLanes>
using Narrow __attribute__((vector_size(kLanes * sizeof(T)))) = T;

template <class T, int kLanes, std::size_t... I>
CCDN_INLINE T sum_lanes(Narrow<T, kLanes> v, std::index_sequence<I...>) {
  constexpr int half = kLanes / 2;
  if constexpr (half == 1) {
    return v[0] + v[1];
  } else {
    const Narrow<T, half> folded =
        __builtin_shufflevector(v, v, int(I)...) + __builtin_shufflevector(v, v, int(I) + half...);
    return sum_lanes<T, half>(folded, std::make_index_sequence<half / 2>());
  }
}
#endif

// The sum of the lanes, by halves.
template <class T>
CCDN_INLINE T sum(typename Simd<T>::Vector v) {
  constexpr int all = Simd<T>::lanes;
#ifdef CCDN_SHUFFLE
  return sum_lanes<T, all>(v, std::make_index_sequence<all / 2>());
#else
  T lanes[all];
  store(lanes, v);
#pragma GCC unroll 4
  for (int half = all / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
#endif
}

// The first `count` elements, fewer than a vector holds, and zeros behind them.
template <class T>
CCDN_INLINE typename Simd<T>::Vector load_first(const T* p, int64_t count) {
#if CCDN_VECTOR_BYTES == 64
  const unsigned mask = (1u << count) - 1;
  if constexpr (sizeof(T) == 4) {
    return (Simd<float>::Vector)_mm512_maskz_loadu_ps(__mmask16(mask), p);
  } else {
    return (Simd<double>::Vector)_mm512_maskz_loadu_pd(__mmask8(mask), p);
  }
#elif CCDN_VECTOR_BYTES == 32
  // A mask with as many ones at its front.
  alignas(32) static constexpr int32_t masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  constexpr int64_t each = sizeof(T) / sizeof(int32_t);
  const __m256i mask =
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(masks + 8 - each * count));
  if constexpr (sizeof(T) == 4) {
    return (Simd<float>::Vector)_mm256_maskload_ps(p, mask);
  } else {
    return (Simd<double>::Vector)_mm256_maskload_pd(p, mask);
  }
#else
  T lanes[Simd<T>::lanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
#endif
}

template <class T>
CCDN_INLINE void store_first(T* p, typename Simd<T>::Vector v, int64_t count) {
#if CCDN_VECTOR_BYTES == 64
  const unsigned mask = (1u << count) - 1;
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, __mmask16(mask), (__m512)v);
  } else {
    _mm512_mask_storeu_pd(p, __mmask8(mask), (__m512d)v);
  }
#else
  T lanes[Simd<T>::lanes];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) {
    p[i] = lanes[i];
    __asm__ volatile("" : : : "memory");  // a loop that only copies would become a call
  }
#endif
}

#ifdef CCDN_SHUFFLE
// Swaps the off-diagonal D x D blocks of two rows of a matrix; for all D it transposes.
template <class T, int D, std::size_t... I>
CCDN_INLINE void exchange(typename Simd<T>::Vector& a, typename Simd<T>::Vector& b,
                          std::index_sequence<I...>) {
  constexpr int lanes = Simd<T>::lanes;
  const auto low = __builtin_shufflevector(a, b, ((I & D) ? int(I) - D + lanes : int(I))...);
  const auto high = __builtin_shufflevector(a, b, ((I & D) ? int(I) + lanes : int(I) + D)...);
  a = low;
  b = high;
}

template <class T, int D>
CCDN_INLINE void exchange_rows(typename Simd<T>::Vector* rows) {
  if constexpr (D < Simd<T>::lanes) {
#pragma GCC unroll 16
    for (int r = 0; r < Simd<T>::lanes; ++r) {
      if (!(r & D)) {
        exchange<T, D>(rows[r], rows[r + D], std::make_index_sequence<Simd<T>::lanes>());
      }
    }
    exchange_rows<T, 2 * D>(rows);
  }
}
#endif

// out[c][r] = in[r][c] for a lanes x lanes block.
template <class T>
CCDN_INLINE void transpose(const T* in, int64_t in_stride, T* out, int64_t out_stride) {
  constexpr int lanes = Simd<T>::lanes;
#ifdef CCDN_SHUFFLE
  typename Simd<T>::Vector rows[lanes];
#pragma GCC unroll 16
  for (int r = 0; r < lanes; ++r) rows[r] = load(in + r * in_stride);
  exchange_rows<T, 1>(rows);
#pragma GCC unroll 16
  for (int r = 0; r < lanes; ++r) store(out + r * out_stride, rows[r]);
#else
  for (int r = 0; r < lanes; ++r) {
    for (int c = 0; c < lanes; ++c) out[c * out_stride + r] = in[r * in_stride + c];
  }
#endif
}

}  // namespace CCDN_ISA
}  // namespace ccdn
