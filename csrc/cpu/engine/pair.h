// Two bfloat16 elements multiplied at once, as AVX512-BF16 does.
//
// Their products have 16 bits, so that they are exact in float; a sum of many is rounded once for
// each. The instruction adds the product of the second elements first. It makes zeros of subnormal
// numbers; where it is emulated they stay, and every other result has the same bits.
#pragma once

#include "cpu/engine/convert.h"

namespace ccdn {
namespace CCDN_ISA {

// The second element is in the upper half.
template <bool kInstruction>
struct Pair {
  uint32_t bits;
};

#if CCDN_ISA_LEVEL == 4
constexpr bool kHasPairInstruction = true;
#else
constexpr bool kHasPairInstruction = false;
#endif

typedef uint32_t Words __attribute__((vector_size(CCDN_VECTOR_BYTES)));

// As many pairs as floats, in a vector of that type.
template <class T, bool kInstruction>
CCDN_INLINE typename Simd<T>::Vector load_wide(const Pair<kInstruction>* p) {
  return load(reinterpret_cast<const T*>(p));
}

template <class V, bool kInstruction>
CCDN_INLINE void add_product(V& sum, Pair<kInstruction> left, V right) {
  const Words both = Words{} + left.bits, other = (Words)right;
#if CCDN_ISA_LEVEL == 4
  if constexpr (kInstruction) {
    // The intrinsic wants another target than the rest of this level has.
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"((V)both), "v"(right));
    return;
  }
#endif
  sum += (V)(both & 0xffff0000u) * (V)(other & 0xffff0000u);
  sum += (V)(both << 16) * (V)(other << 16);
}

}  // namespace CCDN_ISA
}  // namespace ccdn
