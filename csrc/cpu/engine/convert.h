// Elements of 16 bits, and conversions between the features' types and those of the arithmetic.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/engine/simd.h"

namespace ccdn {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

namespace CCDN_ISA {

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

#if CCDN_VECTOR_BYTES >= 32
// One shuffle of bytes puts 16 bits into the upper half of a float: half of what a conversion of
// integers and a shift cost.
CCDN_INLINE __m128i upper_halves() {
  return _mm_setr_epi8(-1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7);
}
// In both lanes; the upper lane shuffles the upper 8 bytes.
CCDN_INLINE __m256i widen_eight(__m128i bits) {
  const __m256i places = _mm256_set_m128i(
      _mm_setr_epi8(-1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15), upper_halves());
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bits), places);
}
#endif

// As many elements as a vector has doubles.
#if CCDN_VECTOR_BYTES == 64
CCDN_INLINE Doubles load_doubles(const BFloat16* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return (Doubles)_mm512_maskz_cvtps_pd(0xff, (__m256)widen_eight(bits));
}
CCDN_INLINE Doubles load_doubles(const Half* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return (Doubles)_mm512_maskz_cvtps_pd(0xff, _mm256_cvtph_ps(bits));
}
#elif CCDN_VECTOR_BYTES == 32
CCDN_INLINE Doubles load_doubles(const BFloat16* p) {
  const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return (Doubles)_mm256_cvtps_pd((__m128)_mm_shuffle_epi8(bits, upper_halves()));
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
  const __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return (Simd<float>::Vector)_mm512_maskz_permutexvar_epi16(
      0xaaaaaaaa, _mm512_maskz_slli_epi32(0xffff, place, 16), _mm512_castsi256_si512(bits));
#elif CCDN_VECTOR_BYTES == 32
  return (Simd<float>::Vector)widen_eight(bits);
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

#if CCDN_VECTOR_BYTES >= 32
typedef uint32_t FloatBits __attribute__((vector_size(CCDN_VECTOR_BYTES)));

// Rounds floats to bf16, in their upper halves. A NaN must have zeros in its lower half, so that it
// stays one: those of bf16 have, and those that the arithmetic makes.
CCDN_INLINE FloatBits round_to_bf16(Simd<float>::Vector v) {
#if CCDN_VECTOR_BYTES == 64
  const __m512i bits = (__m512i)v;
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i half = _mm512_maskz_add_epi32(0xffff, bits, _mm512_set1_epi32(0x7fff));
  return (FloatBits)_mm512_mask_add_epi32(half, odd, half, _mm512_set1_epi32(1));
#else
  const FloatBits bits = (FloatBits)v;
  return bits + 0x7fffu + ((bits >> 16) & 1);
#endif
}
#endif

#if CCDN_VECTOR_BYTES == 64
// Where the upper halves are among the words of a vector, and then of a second one.
CCDN_INLINE __m512i odd_words() {
  typedef uint16_t Words __attribute__((vector_size(64)));
  Words words;
  for (int i = 0; i < 32; ++i) words[i] = uint16_t(2 * i + 1);
  return (__m512i)words;
}
#endif

CCDN_INLINE HalfBits narrow_bits(Simd<float>::Vector v, BFloat16) {
#if CCDN_VECTOR_BYTES == 64
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
  const __m512i found =
      _mm512_mask_mov_epi32((__m512i)round_to_bf16(v), nan, _mm512_set1_epi32(0x7fc00000));
  const __m512i words = _mm512_maskz_permutexvar_epi16(0xffff, odd_words(), found);
  return _mm512_maskz_extracti64x4_epi64(0xf, words, 0);
#elif CCDN_VECTOR_BYTES == 32
  const __m256i whole = (__m256i)(v == v ? round_to_bf16(v) >> 16 : FloatBits{} + 0x7fc0u);
  return _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
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

#if CCDN_VECTOR_BYTES >= 32
// Two vectors: the even and the odd ones of elements that lie side by side. Odd bf16 are floats
// where they lie, with the even ones below them, so that a shift and a mask widen them and the same
// two put them together: half of the instructions of two conversions each way.
struct EvenOdd {
  Simd<float>::Vector even, odd;
};

CCDN_INLINE EvenOdd load_even_odd(const BFloat16* p) {
  FloatBits bits;
  std::memcpy(&bits, p, sizeof(bits));
  return {(Simd<float>::Vector)(bits << 16), (Simd<float>::Vector)(bits & 0xffff0000u)};
}

CCDN_INLINE EvenOdd load_even_odd(const float* p) {
  const auto first = load(p), second = load(p + Simd<float>::lanes);
#if CCDN_VECTOR_BYTES == 64
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return {(Simd<float>::Vector)_mm512_permutex2var_ps((__m512)first, even, (__m512)second),
          (Simd<float>::Vector)_mm512_permutex2var_ps((__m512)first, odd, (__m512)second)};
#else
  const auto in_order = [](__m256 v) CCDN_TARGET __attribute__((always_inline)) {
    return (Simd<float>::Vector)_mm256_permute4x64_pd((__m256d)v, 0xd8);
  };
  return {in_order(_mm256_shuffle_ps((__m256)first, (__m256)second, 0x88)),
          in_order(_mm256_shuffle_ps((__m256)first, (__m256)second, 0xdd))};
#endif
}

// The bits of the bf16, NaNs as of round_to_bf16().
CCDN_INLINE Simd<float>::Vector narrow_even_odd(EvenOdd v) {
  const FloatBits even = round_to_bf16(v.even) >> 16, odd = round_to_bf16(v.odd);
#if CCDN_VECTOR_BYTES == 64
  return (Simd<float>::Vector)(even | (odd & 0xffff0000u));
#else
  return (Simd<float>::Vector)_mm256_blend_epi16((__m256i)even, (__m256i)odd, 0xaa);
#endif
}

CCDN_INLINE void store_even_odd(BFloat16* p, EvenOdd v) {
  const auto bits = narrow_even_odd(v);
  std::memcpy(p, &bits, sizeof(bits));
}
#endif

// Lines of elements.
template <class T, class S>
CCDN_INLINE void widen_line(const S* from, int64_t count, T* to) {
  constexpr int lanes = Simd<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(to + i, load_wide<T>(from + i));
  if (i < count) store_first(to + i, load_wide_first<T>(from + i, count - i), count - i);
}

template <class T, class S>
CCDN_INLINE void narrow_line(const T* from, int64_t count, S* to) {
  constexpr int lanes = Simd<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store_narrow<T>(to + i, load(from + i));
  if (i < count) store_narrow_first<T>(to + i, load_first(from + i, count - i), count - i);
}

}  // namespace CCDN_ISA
}  // namespace ccdn
