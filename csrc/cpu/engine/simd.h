// Vectors and element types for kernels that are compiled once for each instruction set.
//
// Every function needs CCDN_TARGET, because GCC lowers vector arithmetic before it inlines: without
// it a helper would be split into SSE2 pieces even inside an AVX-512 caller. Code outside the
// namespace is compiled for the baseline only, so no shared inline function contains AVX code.
#pragma once

#include <cstdint>
#include <cstring>
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

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

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

// The sum of the lanes, by halves.
template <class T>
CCDN_INLINE T sum(typename Simd<T>::Vector v) {
  T lanes[Simd<T>::lanes];
  store(lanes, v);
#pragma GCC unroll 4
  for (int half = Simd<T>::lanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
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

// Copies fewer elements than a few vectors hold. Loops that only copy become calls of memcpy or
// string instructions, which cost more than the copy.
template <class T>
CCDN_INLINE void copy(const T* in, int64_t count, T* out) {
  constexpr int lanes = Simd<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(out + i, load(in + i));
  if (i < count) store_first(out + i, load_first(in + i, count - i), count - i);
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define CCDN_SHUFFLE 1
#endif
#endif

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

// Element conversions. Written without branches, so that loops over them become vector code.
CCDN_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

CCDN_INLINE float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

CCDN_INLINE float widen(float value) { return value; }
CCDN_INLINE double widen(double value) { return value; }
CCDN_INLINE float widen(BFloat16 value) { return float_of(uint32_t(value.bits) << 16); }

CCDN_INLINE float widen(Half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16;
  const uint32_t shifted = uint32_t(value.bits & 0x7fffu) << 13;
  // Subnormals: as if normal with the smallest exponent, less that exponent's leading one.
  const uint32_t small = bits_of(float_of(shifted + (113u << 23)) - float_of(113u << 23));
  const uint32_t normal = shifted + (112u << 23);
  const uint32_t infinite = shifted + (224u << 23);
  uint32_t bits = shifted < (1u << 23) ? small : normal;
  bits = shifted >= (31u << 23) ? infinite : bits;
  return float_of(bits | sign);
}

CCDN_INLINE void narrow(float value, float& out) { out = value; }
CCDN_INLINE void narrow(double value, double& out) { out = value; }

CCDN_INLINE void narrow(float value, BFloat16& out) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  out.bits = uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

CCDN_INLINE void narrow(float value, Half& out) {
  const uint32_t bits = bits_of(value), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
  // Adding 0.5 shifts a subnormal to the right place and rounds it.
  const uint32_t small = bits_of(float_of(size) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (size + 0xc8000fffu + ((size >> 13) & 1)) >> 13;
  uint32_t half = size < 0x38800000u ? small : normal;
  half = size >= 0x477ff000u ? 0x7c00u : half;
  half = size > 0x7f800000u ? 0x7e00u : half;
  out.bits = uint16_t(half | sign);
}

}  // namespace CCDN_ISA
}  // namespace ccdn
