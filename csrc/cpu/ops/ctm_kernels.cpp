// What lies between the parts of ctm, for one instruction set.
#include "cpu/engine/isa.h"
//
#include "cpu/engine/convert.h"
#include "cpu/ops/ctm_job.h"

namespace ccdn {
namespace CCDN_ISA {

// S are x's elements, T what they are accumulated in.
template <class S, class T>
CCDN_TARGET void widen_numbers(const void* in, int64_t count, void* wide) {
  widen_line(static_cast<const S*>(in), count, static_cast<T*>(wide));
}

template <class S, class T>
CCDN_TARGET void narrow_numbers(const void* wide, int64_t count, void* out) {
  narrow_line(static_cast<const T*>(wide), count, static_cast<S*>(out));
}

template <class S, class T>
CCDN_TARGET void add_numbers(const void* in, int64_t count, void* sum) {
  constexpr int lanes = Simd<T>::lanes;
  const S* from = static_cast<const S*>(in);
  S* to = static_cast<S*>(sum);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    store_narrow<T>(to + i, load_wide<T>(to + i) + load_wide<T>(from + i));
  }
  if (i < count) {
    const int64_t rest = count - i;
    store_narrow_first<T>(
        to + i, load_wide_first<T>(to + i, rest) + load_wide_first<T>(from + i, rest), rest);
  }
}

template <class S, class T>
constexpr CtmKernels::Typed typed{sizeof(S), widen_numbers<S, T>, narrow_numbers<S, T>,
                                  add_numbers<S, T>};

const CtmKernels& ctm_kernels() {
  static const CtmKernels kernels{
      {typed<float, float>, typed<double, double>, typed<BFloat16, float>, typed<Half, float>}};
  return kernels;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
