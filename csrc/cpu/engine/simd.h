// Vectors and element types for kernels that are compiled once for each instruction set.
//
// Every function needs CCDN_TARGET, because GCC lowers vector arithmetic before it inlines: without
// it a helper would be split into SSE2 pieces even inside an AVX-512 caller. Code outside the
// namespace is compiled for the baseline only, so no shared inline function contains AVX code.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
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

// As many elements as a vector has doubles.
#if CCDN_VECTOR_BYTES == 64
CCDN_INLINE Doubles load_doubles(const BFloat16* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m256 values = (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
  return (Doubles)_mm512_maskz_cvtps_pd(0xff, values);
}
CCDN_INLINE Doubles load_doubles(const Half* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return (Doubles)_mm512_maskz_cvtps_pd(0xff, _mm256_cvtph_ps(bits));
}
#elif CCDN_VECTOR_BYTES == 32
CCDN_INLINE Doubles load_doubles(const BFloat16* p) {
  const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return (Doubles)_mm256_cvtps_pd((__m128)_mm_slli_epi32(_mm_cvtepu16_epi32(bits), 16));
}
CCDN_INLINE Doubles load_doubles(const Half* p) {
  const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return (Doubles)_mm256_cvtps_pd(_mm_cvtph_ps(bits));
}
#else
template <class S>
CCDN_INLINE Doubles load_doubles(const S* p) {
  Doubles v;
  for (int i = 0; i < kDoubles; ++i) v[i] = double(widen(p[i]));
  return v;
}
#endif

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

// The bits of as many 16-bit elements as a vector has floats.
#if CCDN_VECTOR_BYTES == 64
using HalfBits = __m256i;

CCDN_INLINE HalfBits load_bits(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
CCDN_INLINE HalfBits load_first_bits(const void* p, int64_t count) {
  return _mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), p);
}
CCDN_INLINE void store_bits(void* p, HalfBits bits) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), bits);
}
CCDN_INLINE void store_first_bits(void* p, HalfBits bits, int64_t count) {
  _mm256_mask_storeu_epi16(p, __mmask16((1u << count) - 1), bits);
}
#elif CCDN_VECTOR_BYTES == 32
using HalfBits = __m128i;

CCDN_INLINE HalfBits load_bits(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
CCDN_INLINE void store_bits(void* p, HalfBits bits) {
  _mm_storeu_si128(static_cast<__m128i*>(p), bits);
}
#else
struct HalfBits {
  uint16_t lanes[CCDN_VECTOR_BYTES / 4];
};

CCDN_INLINE HalfBits load_bits(const void* p) {
  HalfBits bits;
  std::memcpy(&bits, p, sizeof(bits));
  return bits;
}
CCDN_INLINE void store_bits(void* p, HalfBits bits) { std::memcpy(p, &bits, sizeof(bits)); }
#endif

#if CCDN_VECTOR_BYTES != 64
CCDN_INLINE HalfBits load_first_bits(const void* p, int64_t count) {
  uint16_t lanes[CCDN_VECTOR_BYTES / 4] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = static_cast<const uint16_t*>(p)[i];
  return load_bits(lanes);
}
CCDN_INLINE void store_first_bits(void* p, HalfBits bits, int64_t count) {
  uint16_t lanes[CCDN_VECTOR_BYTES / 4];
  store_bits(lanes, bits);
  for (int64_t i = 0; i < count; ++i) {
    static_cast<uint16_t*>(p)[i] = lanes[i];
    __asm__ volatile("" : : : "memory");  // as in store_first
  }
}
#endif

// The same as the conversions of one element, but for the bits of a NaN. AVX512-BF16 converts in
// one instruction, but makes zeros of subnormal numbers.
CCDN_INLINE Simd<float>::Vector widen_bits(HalfBits bits, BFloat16) {
#if CCDN_VECTOR_BYTES == 64
  return (Simd<float>::Vector)_mm512_maskz_slli_epi32(
      0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, bits), 16);
#elif CCDN_VECTOR_BYTES == 32
  return (Simd<float>::Vector)_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
#else
  Simd<float>::Vector v;
  for (int i = 0; i < Simd<float>::lanes; ++i) v[i] = widen(BFloat16{bits.lanes[i]});
  return v;
#endif
}

CCDN_INLINE Simd<float>::Vector widen_bits(HalfBits bits, Half) {
#if CCDN_VECTOR_BYTES == 64
  return (Simd<float>::Vector)_mm512_maskz_cvtph_ps(0xffff, bits);
#elif CCDN_VECTOR_BYTES == 32
  return (Simd<float>::Vector)_mm256_cvtph_ps(bits);
#else
  Simd<float>::Vector v;
  for (int i = 0; i < Simd<float>::lanes; ++i) v[i] = widen(Half{bits.lanes[i]});
  return v;
#endif
}

CCDN_INLINE HalfBits narrow_bits(Simd<float>::Vector v, BFloat16) {
#if CCDN_VECTOR_BYTES >= 32
  typedef uint32_t Bits __attribute__((vector_size(CCDN_VECTOR_BYTES)));
  const Bits bits = (Bits)v;
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  const Bits found = v == v ? rounded : Bits{} + 0x7fc0u;
#if CCDN_VECTOR_BYTES == 64
  return _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)found);
#else
  const __m256i whole = (__m256i)found;
  return _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
#endif
#else
  HalfBits bits;
  for (int i = 0; i < Simd<float>::lanes; ++i) {
    BFloat16 element;
    narrow(v[i], element);
    bits.lanes[i] = element.bits;
  }
  return bits;
#endif
}

CCDN_INLINE HalfBits narrow_bits(Simd<float>::Vector v, Half) {
#if CCDN_VECTOR_BYTES == 64
  return _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT);
#elif CCDN_VECTOR_BYTES == 32
  return _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
#else
  HalfBits bits;
  for (int i = 0; i < Simd<float>::lanes; ++i) {
    Half element;
    narrow(v[i], element);
    bits.lanes[i] = element.bits;
  }
  return bits;
#endif
}

// A vector of T from elements of any type, and back. Of `first` see load_first.
template <class T, class S>
CCDN_INLINE typename Simd<T>::Vector load_wide(const S* p) {
  if constexpr (std::is_same_v<S, T>) {
    return load(p);
  } else if constexpr (sizeof(T) == sizeof(double)) {
    static_assert(std::is_same_v<S, float>);
    return load_doubles(p);
  } else {
    return widen_bits(load_bits(p), S{});
  }
}

template <class T, class S>
CCDN_INLINE typename Simd<T>::Vector load_wide_first(const S* p, int64_t count) {
  if constexpr (std::is_same_v<S, T>) {
    return load_first(p, count);
  } else if constexpr (sizeof(T) == sizeof(double)) {
    T lanes[Simd<T>::lanes] = {};
    for (int64_t i = 0; i < count; ++i) lanes[i] = T(p[i]);
    return load(lanes);
  } else {
    return widen_bits(load_first_bits(p, count), S{});
  }
}

template <class T, class S>
CCDN_INLINE void store_narrow(S* p, typename Simd<T>::Vector v) {
  if constexpr (std::is_same_v<S, T>) {
    store(p, v);
  } else if constexpr (sizeof(T) == sizeof(double)) {
    static_assert(std::is_same_v<S, float>);
    for (int i = 0; i < Simd<T>::lanes; ++i) p[i] = float(v[i]);
  } else {
    store_bits(p, narrow_bits(v, S{}));
  }
}

template <class T, class S>
CCDN_INLINE void store_narrow_first(S* p, typename Simd<T>::Vector v, int64_t count) {
  if constexpr (std::is_same_v<S, T>) {
    store_first(p, v, count);
  } else if constexpr (sizeof(T) == sizeof(double)) {
    T lanes[Simd<T>::lanes];
    store(lanes, v);
    for (int64_t i = 0; i < count; ++i) p[i] = S(lanes[i]);
  } else {
    store_first_bits(p, narrow_bits(v, S{}), count);
  }
}

}  // namespace CCDN_ISA
}  // namespace ccdn
