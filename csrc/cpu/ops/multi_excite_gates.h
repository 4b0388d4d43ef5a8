// The gates of multi_excite and their gradient, in the type of the arithmetic.
#pragma once

#include "cpu/engine/convert.h"
#include "cpu/ops/multi_excite_job.h"

namespace ccdn {
namespace CCDN_ISA {

// Gates have 16 bits only where x has the same, and are converted a line at once.
template <class S, class T>
CCDN_INLINE bool narrow_gates(const MultiExciteShape& s) {
  return !std::is_same_v<S, T> && s.gates_dtype == s.dtype;
}

// `count` gates from number `first` on: where they are or, if they have to be changed, in `room`.
template <class S, class T>
CCDN_INLINE const T* read_gates(const MultiExciteJob& job, int64_t first, int64_t count, T* room) {
  if (narrow_gates<S, T>(*job.shape)) {
    widen_line(static_cast<const S*>(job.gates) + first, count, room);
    return room;
  }
  const T* gates = static_cast<const T*>(job.gates) + first;
  if constexpr (std::is_same_v<S, BFloat16>) {  // NaNs as round_to_bf16() takes them
    for (int64_t i = 0; i < count; ++i) {
      room[i] = gates[i] == gates[i] ? gates[i] : float_of(0x7fc00000u);
    }
    return room;
  }
  return gates;
}

template <class S, class T>
CCDN_INLINE void write_grad_gates(const MultiExciteJob& job, int64_t first, int64_t count,
                                  const T* sums) {
  if (narrow_gates<S, T>(*job.shape)) {
    narrow_line(sums, count, static_cast<S*>(job.grad_gates) + first);
  } else {
    narrow_line(sums, count, static_cast<T*>(job.grad_gates) + first);
  }
}

}  // namespace CCDN_ISA
}  // namespace ccdn
