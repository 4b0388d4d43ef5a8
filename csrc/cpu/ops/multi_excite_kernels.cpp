// The kernels of multi_excite for one instruction set; the backward pass is in its own file.
//
//   out[p] = gates[p] * x            1 read, P writes
#include "cpu/ops/multi_excite_backward.h"

namespace ccdn {
namespace CCDN_ISA {

// x of a block stays in the first cache while the excitations are written in turn, each as
// one stream.
constexpr int64_t kBlockBytes = 8 << 10;
template <class T>
CCDN_INLINE void store_past_caches(T* p, typename Simd<T>::Vector v) {
#if CCDN_VECTOR_BYTES == 64
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#elif CCDN_VECTOR_BYTES == 32
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)v);
#else
  store(p, v);
#endif
}

CCDN_INLINE void store_bits_past_caches(void* p, HalfBits bits) {
#if CCDN_VECTOR_BYTES == 64
  _mm256_stream_si256(static_cast<__m256i*>(p), bits);
#elif CCDN_VECTOR_BYTES == 32
  _mm_stream_si128(static_cast<__m128i*>(p), bits);
#else
  store_bits(p, bits);
#endif
}

CCDN_INLINE void fence_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// out = x * gate, the gate one number or a line.
template <class S, class T, bool kLine>
CCDN_INLINE void gate_line(const S* x, const T* gate, int64_t count, S* out, bool stream) {
  using Vector = typename Simd<T>::Vector;
  constexpr int lanes = Simd<T>::lanes;
  const auto product = [&](int64_t i) CCDN_TARGET __attribute__((always_inline)) {
    return kLine ? load_wide<T>(x + i) * load(gate + i) : load_wide<T>(x + i) * gate[0];
  };
  int64_t i = 0;
#if CCDN_VECTOR_BYTES >= 32
  if constexpr (std::is_same_v<S, BFloat16>) {
    const float number = gate[0];
    const auto gated = [&](int64_t i) CCDN_TARGET __attribute__((always_inline)) {
      const EvenOdd value = load_even_odd(x + i);
      const EvenOdd factor =
          kLine ? load_even_odd(gate + i) : EvenOdd{Vector{} + number, Vector{} + number};
      return EvenOdd{value.even * factor.even, value.odd * factor.odd};
    };
    for (; i + 2 * lanes <= count; i += 2 * lanes) {
      if (stream) {
        store_past_caches(reinterpret_cast<float*>(out + i), narrow_even_odd(gated(i)));
      } else {
        store_even_odd(out + i, gated(i));
      }
    }
    if (0 < i && i < count && !stream) {  // once more, up to the end
      store_even_odd(out + count - 2 * lanes, gated(count - 2 * lanes));
      return;
    }
  }
#endif
  if (stream) {  // starts on a whole cache line and ends on one
    for (; i < count; i += lanes) {
      if constexpr (std::is_same_v<S, T>) {
        store_past_caches(out + i, product(i));
      } else {
        store_bits_past_caches(out + i, narrow_bits(product(i), S{}));
      }
    }
    return;
  }
  for (; i + lanes <= count; i += lanes) store_narrow<T>(out + i, product(i));
  if (i < count && count >= lanes) {  // once more, up to the end
    store_narrow<T>(out + count - lanes, product(count - lanes));
    return;
  }
  if (i < count) {
    const auto factor = kLine ? load_first(gate, count) : Vector{} + gate[0];
    store_narrow_first<T>(out, load_wide_first<T>(x, count) * factor, count);
  }
}

template <class S, class T>
CCDN_TARGET void forward(const MultiExciteJob& job, int64_t sample, int64_t begin, int64_t end) {
  constexpr int64_t most = kBlockBytes / sizeof(T);  // gates of a block
  const MultiExciteShape& s = *job.shape;
  const int64_t columns = s.channels_last ? s.channels : s.positions;
  const int64_t map = s.channels * s.positions;
  const S* x = static_cast<const S*>(job.x) + sample * s.stride_b;
  S* out = static_cast<S*>(job.out) + sample * s.excitations * map;
  int64_t rows = kBlockBytes / (columns * int64_t(sizeof(S)));
  if (rows < 1) rows = 1;
  if (rows > most) rows = most;
  const int64_t width = s.channels_last && columns > most ? most : columns;
  T room[most];
  for (int64_t row = begin; row < end; row += rows) {
    const int64_t last = row + rows < end ? row + rows : end;
    for (int64_t p = 0; p < s.excitations; ++p) {
      for (int64_t column = 0; column < columns; column += width) {
        const int64_t count = columns - column < width ? columns - column : width;
        const int64_t first = (sample * s.excitations + p) * s.channels;
        const S* from = x + row * s.stride_row + column;
        S* to = out + p * map + row * columns + column;
        if (s.channels_last) {
          const T* gates = read_gates<S>(job, first + column, count, room);
          for (int64_t r = row; r < last; ++r, from += s.stride_row, to += columns) {
            gate_line<S, T, true>(from, gates, count, to, job.stream);
          }
        } else {
          const T* gates = read_gates<S>(job, first + row, last - row, room);
          for (int64_t r = row; r < last; ++r, from += s.stride_row, to += columns) {
            gate_line<S, T, false>(from, gates++, count, to, job.stream);
          }
        }
      }
    }
  }
  if (job.stream) fence_stream();
}

const MultiExciteKernels& multi_excite_kernels() {
  static const MultiExciteKernels kernels{
      {forward<float, float>, forward<double, double>, forward<BFloat16, float>,
       forward<Half, float>},
      {backward<float, float>, backward<double, double>, backward<BFloat16, float>,
       backward<Half, float>},
  };
  return kernels;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
