// The backward pass of multi_excite, in both memory orders.
//
//   grad_x = sum over p of gates[p] * grad_out[p],   grad_gates[p] = sum over the positions of
//   grad_out[p] * x                  P + 1 reads, 1 write
#pragma once

#include "cpu/ops/multi_excite_gates.h"

namespace ccdn {
namespace CCDN_ISA {

// Excitations that are summed in registers at once.
constexpr int kGroup = 4;
// Additions in a row in the narrower type; their sums are added in double.
constexpr int64_t kRun = 16;

#ifdef CCDN_SHUFFLE
// The sums of the lanes of four vectors, by halves as sum() does, but together: a line of a small
// map is shorter than four sums of its own.
template <class T, int kLanes, std::size_t... I>
CCDN_INLINE Narrow<T, 4> sum_quarters(Narrow<T, kLanes> v, std::index_sequence<I...>) {
  constexpr int quarter = kLanes / 4, half = quarter / 2;
  if constexpr (quarter == 1) {
    return v;
  } else {
    constexpr auto at = [](std::size_t i) { return int(i) / half * quarter + int(i) % half; };
    const Narrow<T, kLanes / 2> folded =
        __builtin_shufflevector(v, v, at(I)...) + __builtin_shufflevector(v, v, at(I) + half...);
    return sum_quarters<T, kLanes / 2>(folded, std::make_index_sequence<kLanes / 4>());
  }
}

template <class T, std::size_t... I>
CCDN_INLINE Narrow<T, 4> sum_four(const typename Simd<T>::Vector* v, std::index_sequence<I...>) {
  constexpr int lanes = Simd<T>::lanes, half = lanes / 2, quarter = lanes / 4;
  constexpr auto halves = [](std::size_t i) { return int(i) + (int(i) < half ? 0 : half); };
  constexpr auto quarters = [](std::size_t i) { return int(i) + int(i) / quarter * quarter; };
  const auto first = __builtin_shufflevector(v[0], v[1], halves(I)...) +
                     __builtin_shufflevector(v[0], v[1], halves(I) + half...);
  const auto second = __builtin_shufflevector(v[2], v[3], halves(I)...) +
                      __builtin_shufflevector(v[2], v[3], halves(I) + half...);
  const auto all = __builtin_shufflevector(first, second, quarters(I)...) +
                   __builtin_shufflevector(first, second, quarters(I) + quarter...);
  return sum_quarters<T, lanes>(all, std::make_index_sequence<lanes / 2>());
}
#endif

// Adds the sums of the lanes of each vector.
template <class T, int kCount>
CCDN_INLINE void add_lanes(const typename Simd<T>::Vector* vectors, double* sums) {
#ifdef CCDN_SHUFFLE
  if constexpr (kCount == 4 && Simd<T>::lanes >= 4) {
    const auto four = sum_four<T>(vectors, std::make_index_sequence<Simd<T>::lanes>());
    for (int p = 0; p < 4; ++p) sums[p] += double(four[p]);
    return;
  }
#endif
#pragma GCC unroll 4
  for (int p = 0; p < kCount; ++p) sums[p] += double(sum<T>(vectors[p]));
}

// One channel's line of positions: grad_x, and the sums of grad[p] * x added to sums[p]. The
// excitations' gradients lie `map` apart.
template <class S, class T, int kP>
CCDN_INLINE void channel_line(const S* x, const S* grad, int64_t map, const T* gate, int64_t count,
                              S* grad_x, bool add, double* sums) {
  using Vector = typename Simd<T>::Vector;
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t i = 0; i < count;) {
    const int64_t stop = count - i < kRun * lanes ? count : i + kRun * lanes;
    Vector partial[kP] = {};
#if CCDN_VECTOR_BYTES >= 32
    if constexpr (std::is_same_v<S, BFloat16>) {
      for (; i + 2 * lanes <= stop; i += 2 * lanes) {
        const EvenOdd value = load_even_odd(x + i);
        EvenOdd total = add ? load_even_odd(grad_x + i) : EvenOdd{};
#pragma GCC unroll 4
        for (int p = 0; p < kP; ++p) {
          const EvenOdd g = load_even_odd(grad + p * map + i);
          total.even += g.even * gate[p];
          total.odd += g.odd * gate[p];
          partial[p] += g.even * value.even;
          partial[p] += g.odd * value.odd;
        }
        store_even_odd(grad_x + i, total);
      }
    }
#endif
    for (; i + lanes <= stop; i += lanes) {
      const Vector value = load_wide<T>(x + i);
      Vector total = add ? load_wide<T>(grad_x + i) : Vector{};
#pragma GCC unroll 4
      for (int p = 0; p < kP; ++p) {
        const Vector g = load_wide<T>(grad + p * map + i);
        total += g * gate[p];
        partial[p] += g * value;
      }
      store_narrow<T>(grad_x + i, total);
    }
    if constexpr (CCDN_VECTOR_BYTES == 64) {
      if (i < stop) {
        const int64_t some = stop - i;
        const Vector value = load_wide_first<T>(x + i, some);
        Vector total = add ? load_wide_first<T>(grad_x + i, some) : Vector{};
#pragma GCC unroll 4
        for (int p = 0; p < kP; ++p) {
          const Vector g = load_wide_first<T>(grad + p * map + i, some);
          total += g * gate[p];
          partial[p] += g * value;
        }
        store_narrow_first<T>(grad_x + i, total, some);
        i = stop;
      }
    }
    for (; i < stop; ++i) {
      T total = add ? widen(grad_x[i]) : T(0);
      for (int p = 0; p < kP; ++p) {
        const T g = widen(grad[p * map + i]);
        total += g * gate[p];
        sums[p] += double(g) * double(widen(x[i]));
      }
      narrow(total, grad_x[i]);
    }
    add_lanes<T, kP>(partial, sums);
  }
}

// Both memory orders take up to kGroup excitations at once; `more` says that grad_x already holds
// those before. For 16-bit elements grad_x is then rounded once more for every further group.
template <class S, class T, int kP>
CCDN_TARGET void backward_channels(const MultiExciteJob& job, int64_t sample, int64_t begin,
                                   int64_t end, int64_t first, bool more) {
  constexpr int most = 16;  // gates at once
  const MultiExciteShape& s = *job.shape;
  const int64_t map = s.channels * s.positions;
  const int64_t pairs = sample * s.excitations + first;
  T room[kP][most], found[kP][most];
  for (int64_t from = begin; from < end; from += most) {
    const int64_t count = end - from < most ? end - from : most;
    const T* gates[kP];
    for (int p = 0; p < kP; ++p) {
      gates[p] = read_gates<S>(job, (pairs + p) * s.channels + from, count, room[p]);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t d = from + i;
      T gate[kP];
      double sums[kP] = {};
      for (int p = 0; p < kP; ++p) gate[p] = gates[p][i];
      channel_line<S, T, kP>(
          static_cast<const S*>(job.x) + sample * s.stride_b + d * s.stride_row,
          static_cast<const S*>(job.grad_out) + pairs * map + d * s.positions, map, gate,
          s.positions, static_cast<S*>(job.grad_x) + sample * map + d * s.positions, more, sums);
      for (int p = 0; p < kP; ++p) found[p][i] = T(sums[p]);
    }
    for (int p = 0; p < kP; ++p) {
      write_grad_gates<S>(job, (pairs + p) * s.channels + from, count, found[p]);
    }
  }
}

// A strip of channels, kVectors wide, at all positions of a sample. The sums stay in registers;
// `some` is what the last vector holds, fewer than its lanes, or 0 where all are whole.
template <class S, class T, int kP, int kVectors>
CCDN_INLINE void position_strip(const S* x, int64_t x_stride, const S* grad, int64_t map,
                                int64_t stride, const T* const* gates, int64_t positions, S* grad_x,
                                bool add, int64_t some, T (*found)[kVectors * Simd<T>::lanes]) {
  using Vector = typename Simd<T>::Vector;
  constexpr int lanes = Simd<T>::lanes;
  const auto read = [&](const S* p, int v) CCDN_TARGET __attribute__((always_inline)) {
    return some ? load_wide_first<T>(p, some) : load_wide<T>(p + v * lanes);
  };
  Vector gate[kP][kVectors];
  double sums[kP][kVectors * lanes] = {};
#pragma GCC unroll 4
  for (int p = 0; p < kP; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      gate[p][v] = some ? load_first(gates[p], some) : load(gates[p] + v * lanes);
    }
  }
  for (int64_t n = 0; n < positions;) {
    const int64_t stop = positions - n < kRun ? positions : n + kRun;
    Vector partial[kP][kVectors] = {};
    for (; n < stop; ++n) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Vector value = read(x + n * x_stride, v);
        S* place = grad_x + n * stride;
        Vector total = add ? read(place, v) : Vector{};
#pragma GCC unroll 4
        for (int p = 0; p < kP; ++p) {
          const Vector g = read(grad + p * map + n * stride, v);
          total += g * gate[p][v];
          partial[p][v] += g * value;
        }
        if (some) {
          store_narrow_first<T>(place, total, some);
        } else {
          store_narrow<T>(place + v * lanes, total);
        }
      }
    }
    for (int p = 0; p < kP; ++p) {
      T part[kVectors * lanes];
      for (int v = 0; v < kVectors; ++v) store(part + v * lanes, partial[p][v]);
      for (int i = 0; i < kVectors * lanes; ++i) sums[p][i] += double(part[i]);
    }
  }
  for (int p = 0; p < kP; ++p) {
    for (int i = 0; i < kVectors * lanes; ++i) found[p][i] = T(sums[p][i]);
  }
}

template <class S, class T, int kP>
CCDN_TARGET void backward_positions(const MultiExciteJob& job, int64_t sample, int64_t begin,
                                    int64_t end, int64_t first, bool more) {
  constexpr int kVectors = 4, lanes = Simd<T>::lanes;
  const MultiExciteShape& s = *job.shape;
  const int64_t map = s.channels * s.positions;
  const int64_t pairs = sample * s.excitations + first;
  const auto strip = [&](auto vectors, int64_t d, int64_t some) CCDN_TARGET
      __attribute__((always_inline)) {
        constexpr int width = decltype(vectors)::value * lanes;
        const int64_t count = some ? some : width;
        T room[kP][width], found[kP][width];
        const T* gates[kP];
        for (int p = 0; p < kP; ++p) {
          gates[p] = read_gates<S>(job, (pairs + p) * s.channels + d, count, room[p]);
        }
        position_strip<S, T, kP, decltype(vectors)::value>(
            static_cast<const S*>(job.x) + sample * s.stride_b + d, s.stride_row,
            static_cast<const S*>(job.grad_out) + pairs * map + d, map, s.channels, gates,
            s.positions, static_cast<S*>(job.grad_x) + sample * map + d, more, some, found);
        for (int p = 0; p < kP; ++p) {
          write_grad_gates<S>(job, (pairs + p) * s.channels + d, count, found[p]);
        }
      };
  int64_t d = begin;
  for (; d + kVectors * lanes <= end; d += kVectors * lanes) {
    strip(std::integral_constant<int, kVectors>(), d, 0);
  }
  for (; d + lanes <= end; d += lanes) strip(std::integral_constant<int, 1>(), d, 0);
  if (d < end) strip(std::integral_constant<int, 1>(), d, end - d);
}

template <class S, class T, int kP>
CCDN_TARGET void backward_group(const MultiExciteJob& job, int64_t sample, int64_t begin,
                                int64_t end, int64_t first, bool more) {
  if (job.shape->channels_last) {
    backward_positions<S, T, kP>(job, sample, begin, end, first, more);
  } else {
    backward_channels<S, T, kP>(job, sample, begin, end, first, more);
  }
}

template <class S, class T>
CCDN_TARGET void backward(const MultiExciteJob& job, int64_t sample, int64_t begin, int64_t end) {
  for (int64_t p = 0; p < job.shape->excitations; p += kGroup) {
    const bool more = p > 0;
    switch (job.shape->excitations - p) {
      case 1:
        backward_group<S, T, 1>(job, sample, begin, end, p, more);
        break;
      case 2:
        backward_group<S, T, 2>(job, sample, begin, end, p, more);
        break;
      case 3:
        backward_group<S, T, 3>(job, sample, begin, end, p, more);
        break;
      default:
        backward_group<S, T, kGroup>(job, sample, begin, end, p, more);
    }
  }
}

}  // namespace CCDN_ISA
}  // namespace ccdn
