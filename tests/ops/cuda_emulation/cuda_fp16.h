// float16 for the emulation: round to nearest even, as the device does.
#pragma once

#include <cmath>
#include <cstdint>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half value) {
  const int exponent = (value.bits >> 10) & 31, fraction = value.bits & 1023;
  float result;
  if (exponent == 31) {
    result = fraction ? NAN : INFINITY;
  } else if (exponent == 0) {
    result = std::ldexp(float(fraction), -24);
  } else {
    result = std::ldexp(float(fraction + 1024), exponent - 25);
  }
  return value.bits & 0x8000 ? -result : result;
}

inline __half __float2half(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (std::isnan(value)) return {0x7fff};
  if (size == 0) return {sign};
  if (size >= 65520.f) return {uint16_t(sign | 0x7c00)};
  int exponent;
  std::frexp(size, &exponent);         // size < 2^exponent
  if (exponent < -13) exponent = -13;  // subnormal
  const int fraction = int(std::nearbyint(std::ldexp(size, 11 - exponent)));
  // A fraction that rounds up to 2048 carries into the exponent by itself.
  return {uint16_t(sign | (((exponent + 13) << 10) + fraction))};
}
