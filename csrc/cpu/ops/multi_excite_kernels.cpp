// The kernels of multi_excite for one instruction set.
//
//   out[p] = gates[p] * x            1 read, P writes
//   grad_x = sum over p of gates[p] * grad_out[p],   grad_gates[p] = sum over the positions of
//   grad_out[p] * x                  P + 1 reads, 1 write
#include "cpu/engine/simd.h"
#include "cpu/ops/multi_excite_job.h"

namespace ccdn {
namespace CCDN_ISA {

// Forward: x of a block stays in the first cache while the excitations are written in turn, each as
// one stream.
constexpr int64_t kBlockBytes = 8 << 10;
// Backward: excitations that are summed in registers at once.
constexpr int kGroup = 4;
// Backward: additions in a row in the narrower type; their sums are added in double.
constexpr int64_t kRun = 16;
// Backward, channels_last: channels of a strip.
constexpr int64_t kStrip = 512;

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

CCDN_INLINE void fence_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <class S, class T>
CCDN_INLINE void widen_line(const S* in, int64_t count, T* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = widen(in[i]);
}

template <class S, class T>
CCDN_INLINE void narrow_line(const T* in, int64_t count, S* out) {
  for (int64_t i = 0; i < count; ++i) narrow(in[i], out[i]);
}

// out = x * gate, the gate one number or a line.
template <class S, class T, bool kLine>
CCDN_INLINE void gate_line(const S* x, const T* gate, int64_t count, S* out, bool stream) {
  if constexpr (sizeof(S) == sizeof(T)) {
    constexpr int lanes = Simd<T>::lanes;
    const auto product = [&](int64_t i) CCDN_TARGET __attribute__((always_inline)) {
      return kLine ? load(x + i) * load(gate + i) : load(x + i) * gate[0];
    };
    int64_t i = 0;
    if (stream) {  // starts on a whole cache line and ends on one
      for (; i < count; i += lanes) store_past_caches(out + i, product(i));
      return;
    }
    for (; i + lanes <= count; i += lanes) store(out + i, product(i));
    if (i < count && count >= lanes) {  // once more, up to the end
      store(out + count - lanes, product(count - lanes));
      return;
    }
    for (; i < count; ++i) out[i] = x[i] * gate[kLine ? i : 0];
  } else {
    for (int64_t i = 0; i < count; ++i) narrow(widen(x[i]) * gate[kLine ? i : 0], out[i]);
  }
}

template <class S, class T>
CCDN_TARGET void forward(const MultiExciteJob& job, int64_t sample, int64_t begin, int64_t end) {
  const MultiExciteShape& s = *job.shape;
  const int64_t columns = s.channels_last ? s.channels : s.positions;
  const int64_t map = s.channels * s.positions;
  const S* x = static_cast<const S*>(job.x) + sample * s.stride_b;
  const T* gates = static_cast<const T*>(job.gates) + sample * s.excitations * s.channels;
  S* out = static_cast<S*>(job.out) + sample * s.excitations * map;
  int64_t rows = kBlockBytes / (columns * int64_t(sizeof(S)));
  if (rows < 1) rows = 1;
  for (int64_t row = begin; row < end; row += rows) {
    const int64_t last = row + rows < end ? row + rows : end;
    for (int64_t p = 0; p < s.excitations; ++p) {
      const T* gate = gates + p * s.channels;
      for (int64_t r = row; r < last; ++r) {
        const S* from = x + r * s.stride_row;
        S* to = out + p * map + r * columns;
        if (s.channels_last) {
          gate_line<S, T, true>(from, gate, columns, to, job.stream);
        } else {
          gate_line<S, T, false>(from, gate + r, columns, to, job.stream);
        }
      }
    }
  }
  if (job.stream) fence_stream();
}

// A line of x, of up to kGroup gradients and of grad_x, as T: in place, or in buffers.
template <class S, class T, int64_t kLength>
struct Lines {
  const T* x;
  const T* grad[kGroup];
  T* grad_x;
  T x_room[sizeof(S) == sizeof(T) ? 1 : kLength];
  T grad_room[kGroup][sizeof(S) == sizeof(T) ? 1 : kLength];
  T grad_x_room[sizeof(S) == sizeof(T) ? 1 : kLength];

  CCDN_INLINE void open(const S* from_x, const S* from_grad, int64_t grad_stride, int group,
                        S* to_grad_x, bool add, int64_t count) {
    if constexpr (sizeof(S) == sizeof(T)) {
      x = from_x;
      for (int p = 0; p < group; ++p) grad[p] = from_grad + p * grad_stride;
      grad_x = to_grad_x;
    } else {
      widen_line(from_x, count, x_room);
      x = x_room;
      for (int p = 0; p < group; ++p) {
        widen_line(from_grad + p * grad_stride, count, grad_room[p]);
        grad[p] = grad_room[p];
      }
      if (add) widen_line(to_grad_x, count, grad_x_room);
      grad_x = grad_x_room;
    }
  }

  CCDN_INLINE void close(S* to_grad_x, int64_t count) {
    if constexpr (sizeof(S) != sizeof(T)) narrow_line(grad_x_room, count, to_grad_x);
  }
};

// One channel's line of positions: grad_x, and the sums of grad[p] * x added to sums[p].
template <class T, int kP>
CCDN_INLINE void channel_line(const T* x, const T* const* grad, const T* gate, int64_t count,
                              T* grad_x, bool add, double* sums) {
  using Vector = typename Simd<T>::Vector;
  constexpr int lanes = Simd<T>::lanes;
  int64_t i = 0;
  while (i + lanes <= count) {
    const int64_t rest = (count - i) / lanes;
    const int64_t stop = i + (rest < kRun ? rest : kRun) * lanes;
    Vector partial[kP] = {};
    for (; i < stop; i += lanes) {
      const Vector value = load(x + i);
      Vector total = add ? load(grad_x + i) : Vector{};
#pragma GCC unroll 4
      for (int p = 0; p < kP; ++p) {
        const Vector g = load(grad[p] + i);
        total += g * gate[p];
        partial[p] += g * value;
      }
      store(grad_x + i, total);
    }
#pragma GCC unroll 4
    for (int p = 0; p < kP; ++p) sums[p] += double(sum<T>(partial[p]));
  }
  for (; i < count; ++i) {
    T total = add ? grad_x[i] : T(0);
    for (int p = 0; p < kP; ++p) {
      total += grad[p][i] * gate[p];
      sums[p] += double(grad[p][i]) * double(x[i]);
    }
    grad_x[i] = total;
  }
}

// Both memory orders take up to kGroup excitations at once; `more` says that grad_x already holds
// those before. For 16-bit elements grad_x is then rounded once more for every further group.
template <class S, class T, int kP>
CCDN_TARGET void backward_channels(const MultiExciteJob& job, int64_t sample, int64_t begin,
                                   int64_t end, int64_t first, bool more) {
  const MultiExciteShape& s = *job.shape;
  const int64_t map = s.channels * s.positions;
  const int64_t pairs = sample * s.excitations + first;
  constexpr int64_t kLine = 512;
  const int64_t length = sizeof(S) == sizeof(T) ? s.positions : kLine;
  Lines<S, T, kLine> lines;
  for (int64_t d = begin; d < end; ++d) {
    const S* x = static_cast<const S*>(job.x) + sample * s.stride_b + d * s.stride_row;
    const S* grad = static_cast<const S*>(job.grad_out) + pairs * map + d * s.positions;
    S* grad_x = static_cast<S*>(job.grad_x) + sample * map + d * s.positions;
    T gate[kP];
    double sums[kP] = {};
    for (int p = 0; p < kP; ++p) {
      gate[p] = static_cast<const T*>(job.gates)[(pairs + p) * s.channels + d];
    }
    for (int64_t n = 0; n < s.positions; n += length) {
      const int64_t count = s.positions - n < length ? s.positions - n : length;
      lines.open(x + n, grad + n, map, kP, grad_x + n, more, count);
      channel_line<T, kP>(lines.x, lines.grad, gate, count, lines.grad_x, more, sums);
      lines.close(grad_x + n, count);
    }
    for (int p = 0; p < kP; ++p) {
      static_cast<T*>(job.grad_gates)[(pairs + p) * s.channels + d] = T(sums[p]);
    }
  }
}

// kRows positions' lines of channels: grad_x, and grad[p] * x added to partial[p].
template <class T, int kP, int kRows>
CCDN_INLINE void position_lines(const T* const* x, const T* const (*grad)[kGroup],
                                const T* const* gate, int64_t count, T* const* grad_x, bool add,
                                T (*partial)[kStrip]) {
  using Vector = typename Simd<T>::Vector;
  constexpr int lanes = Simd<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    Vector total[kRows], value[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      value[r] = load(x[r] + i);
      total[r] = add ? load(grad_x[r] + i) : Vector{};
    }
#pragma GCC unroll 4
    for (int p = 0; p < kP; ++p) {
      const Vector scale = load(gate[p] + i);
      Vector part = load(partial[p] + i);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const Vector g = load(grad[r][p] + i);
        total[r] += g * scale;
        part += g * value[r];
      }
      store(partial[p] + i, part);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) store(grad_x[r] + i, total[r]);
  }
  for (; i < count; ++i) {
    for (int r = 0; r < kRows; ++r) {
      T total = add ? grad_x[r][i] : T(0);
      for (int p = 0; p < kP; ++p) {
        total += grad[r][p][i] * gate[p][i];
        partial[p][i] += grad[r][p][i] * x[r][i];
      }
      grad_x[r][i] = total;
    }
  }
}

template <class S, class T, int kP>
CCDN_TARGET void backward_positions(const MultiExciteJob& job, int64_t sample, int64_t begin,
                                    int64_t end, int64_t first, bool more) {
  constexpr int kRows = 4;
  const MultiExciteShape& s = *job.shape;
  const int64_t map = s.channels * s.positions;
  const int64_t pairs = sample * s.excitations + first;
  const T* gates = static_cast<const T*>(job.gates) + pairs * s.channels;
  T* grad_gates = static_cast<T*>(job.grad_gates) + pairs * s.channels;
  Lines<S, T, kStrip> lines[kRows];
  T partial[kP][kStrip];
  double sums[kP][kStrip];
  for (int64_t d = begin; d < end; d += kStrip) {
    const int64_t count = end - d < kStrip ? end - d : kStrip;
    const S* x = static_cast<const S*>(job.x) + sample * s.stride_b + d;
    const S* grad = static_cast<const S*>(job.grad_out) + pairs * map + d;
    S* grad_x = static_cast<S*>(job.grad_x) + sample * map + d;
    const T* gate[kP];
    for (int p = 0; p < kP; ++p) {
      gate[p] = gates + p * s.channels + d;
      for (int64_t i = 0; i < count; ++i) sums[p][i] = 0;
    }
    for (int64_t n = 0; n < s.positions;) {
      const int64_t stop = s.positions - n < kRun ? s.positions : n + kRun;
      for (int p = 0; p < kP; ++p) {
        for (int64_t i = 0; i < count; ++i) partial[p][i] = 0;
      }
      while (n < stop) {
        const int rows = stop - n < kRows ? 1 : kRows;
        const T* row_x[kRows];
        const T* row_grad[kRows][kGroup];
        T* row_grad_x[kRows];
        for (int r = 0; r < rows; ++r) {
          const int64_t at = (n + r) * s.channels;
          lines[r].open(x + (n + r) * s.stride_row, grad + at, map, kP, grad_x + at, more, count);
          row_x[r] = lines[r].x;
          for (int p = 0; p < kP; ++p) row_grad[r][p] = lines[r].grad[p];
          row_grad_x[r] = lines[r].grad_x;
        }
        if (rows == kRows) {
          position_lines<T, kP, kRows>(row_x, row_grad, gate, count, row_grad_x, more, partial);
        } else {
          position_lines<T, kP, 1>(row_x, row_grad, gate, count, row_grad_x, more, partial);
        }
        for (int r = 0; r < rows; ++r) lines[r].close(grad_x + (n + r) * s.channels, count);
        n += rows;
      }
      for (int p = 0; p < kP; ++p) {
        for (int64_t i = 0; i < count; ++i) sums[p][i] += double(partial[p][i]);
      }
    }
    for (int p = 0; p < kP; ++p) {
      for (int64_t i = 0; i < count; ++i) grad_gates[p * s.channels + d + i] = T(sums[p][i]);
    }
  }
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
