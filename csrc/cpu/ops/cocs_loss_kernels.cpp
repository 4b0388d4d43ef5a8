// The kernels of cocs_loss for one instruction set.
//
// All arithmetic is in double. With a few operations per number read it costs little; squares do
// not overflow, and sums over the batch do not lose digits.
#include "cpu/engine/convert.h"
#include "cpu/ops/cocs_loss_job.h"

namespace ccdn {
namespace CCDN_ISA {
namespace {

// As in torch.nn.functional.normalize.
constexpr double kSmallestNorm = 1e-12;

// Sums below this have no direction, and the inverse of their size would be infinite.
constexpr double kSmallestSum = 1e-300;

// The value rounded on its own: fused into a multiplication and addition, u + (-u) would not be 0.
template <class V>
CCDN_INLINE V rounded(V value) {
#if defined(__x86_64__)
  __asm__("" : "+x"(value));
#elif defined(__aarch64__)
  __asm__("" : "+w"(value));
#else
  __asm__("" : "+m"(value));
#endif
  return value;
}

template <class T>
CCDN_INLINE double dot(const T* a, const T* b, int64_t count) {
  Doubles sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kDoubles <= count; i += 4 * kDoubles) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      sums[j] += load_doubles(a + i + j * kDoubles) * load_doubles(b + i + j * kDoubles);
    }
  }
  for (; i + kDoubles <= count; i += kDoubles) sums[0] += load_doubles(a + i) * load_doubles(b + i);
  double total = sum<double>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < count; ++i) total += double(widen(a[i])) * double(widen(b[i]));
  return total;
}

// x . x and x . g
template <class T>
CCDN_INLINE void two_dots(const T* x, const double* g, int64_t count, double& own, double& cross) {
  Doubles owns[2] = {}, crosses[2] = {};
  int64_t i = 0;
  for (; i + 2 * kDoubles <= count; i += 2 * kDoubles) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const Doubles v = load_doubles(x + i + j * kDoubles);
      owns[j] += v * v;
      crosses[j] += v * load(g + i + j * kDoubles);
    }
  }
  own = sum<double>(owns[0] + owns[1]);
  cross = sum<double>(crosses[0] + crosses[1]);
  for (; i < count; ++i) {
    const double v = double(widen(x[i]));
    own += v * v;
    cross += v * g[i];
  }
}

template <class T>
CCDN_TARGET void sum_units(const CocsLevel& level, int64_t excitation, int64_t begin, int64_t end,
                           double* total) {
  const T* x = reinterpret_cast<const T*>(level.x) + excitation * level.stride_p;
  const int64_t channels = level.channels;
  for (int64_t d = 0; d < channels; ++d) total[d] = 0;
  for (int64_t b = begin; b < end; ++b) {
    const T* row = x + b * level.stride_b;
    const double norm = __builtin_sqrt(dot(row, row, channels));
    const double scale = 1 / (norm < kSmallestNorm ? kSmallestNorm : norm);
    int64_t d = 0;
    for (; d + kDoubles <= channels; d += kDoubles) {
      store(total + d, load(total + d) + rounded(load_doubles(row + d) * scale));
    }
    for (; d < channels; ++d) total[d] += rounded(double(widen(row[d])) * scale);
  }
}

template <class W>
CCDN_TARGET void collect(const double* blocks, int64_t count, int64_t size, void* sums) {
  W* out = static_cast<W*>(sums);
  for (int64_t i = 0; i < size; ++i) {
    double total = 0;
    for (int64_t block = 0; block < count; ++block) total += blocks[block * size + i];
    out[i] = W(total);
  }
}

// L = sum of Q_pq^2 (p != q) / sum of Q_pp^2 does not change with the size of Q, nor with that of
// the sums S in Q = S S^T: they are divided by the largest of them, which can neither over- nor
// underflow. Then dL/dS_p = 4 (sum of Q_pq S_q (q != p) - L Q_pp S_p) / sum of Q_pp^2.
template <class W>
CCDN_TARGET double loss(const CocsLevel& level, const void* sums, double upstream, double* products,
                        double* gradient) {
  const W* s = static_cast<const W*>(sums);
  const int64_t count = level.excitations, channels = level.channels;
  double largest = 0;
  for (int64_t i = 0; i < count * channels; ++i) {
    const double size = s[i] < 0 ? -double(s[i]) : double(s[i]);
    if (!(size <= largest)) largest = size;  // NaN stays
  }
  const bool vanishes = largest < kSmallestSum;
  double own = 0, cross = 0;
  const double scale = vanishes ? 0 : 1 / largest;
  for (int64_t p = 0; p < count; ++p) {
    for (int64_t q = 0; q <= p; ++q) {
      const double product = dot(s + p * channels, s + q * channels, channels) * scale * scale;
      products[p * count + q] = products[q * count + p] = product;
      (p == q ? own : cross) += (p == q ? 1 : 2) * product * product;
    }
  }
  const double result = vanishes ? 0 : cross / own;
  if (gradient == nullptr) return result;
  const double factor = vanishes ? 0 : 4 / own * scale * scale * upstream;
  for (int64_t p = 0; p < count; ++p) {
    double* out = gradient + p * channels;
    for (int64_t d = 0; d < channels; ++d) out[d] = 0;
    for (int64_t q = 0; q < count; ++q) {
      const double product = products[p * count + q];
      const double weight = factor * (p == q ? -result * product : product);
      const W* row = s + q * channels;
      int64_t d = 0;
      for (; d + kDoubles <= channels; d += kDoubles) {
        store(out + d, load(out + d) + weight * load_doubles(row + d));
      }
      for (; d < channels; ++d) out[d] += weight * double(row[d]);
    }
  }
  return result;
}

#if CCDN_VECTOR_BYTES >= 32
// Four vectors of doubles as bf16, with one instruction for both halves. A NaN comes from bf16 or
// from the arithmetic here, as round_to_bf16() wants it.
CCDN_INLINE void store_four(BFloat16* out, Doubles a, Doubles b, Doubles c, Doubles d) {
#if CCDN_VECTOR_BYTES == 64
  const __m512i low = (__m512i)round_to_bf16(floats_of(a, b));
  const __m512i high = (__m512i)round_to_bf16(floats_of(c, d));
  const __m512i packed = _mm512_maskz_permutex2var_epi16(~__mmask32(0), low, odd_words(), high);
  _mm512_storeu_si512(out, packed);
#else
  const __m256i first = (__m256i)(round_to_bf16(floats_of(a, c)) >> 16);
  const __m256i second = (__m256i)(round_to_bf16(floats_of(b, d)) >> 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_packus_epi32(first, second));
#endif
}
#endif

// u = x / |x|:  dx = (g - u (u . g)) / |x|, and 0 for a vector without a direction.
template <class T, class W>
CCDN_TARGET void gradient(const CocsLevel& level, int64_t begin, int64_t end, const double* grads) {
  const int64_t channels = level.channels;
  for (int64_t b = begin; b < end; ++b) {
    for (int64_t p = 0; p < level.excitations; ++p) {
      const T* x = reinterpret_cast<const T*>(level.x) + b * level.stride_b + p * level.stride_p;
      T* out =
          reinterpret_cast<T*>(level.grad_x) + b * level.grad_stride_b + p * level.grad_stride_p;
      const double* g = grads + p * channels;
      double own, cross;
      two_dots(x, g, channels, own, cross);
      const double norm = __builtin_sqrt(own);
      const bool direction = !(norm < kSmallestNorm);
      const double scale = direction ? 1 / norm : 0, along = direction ? cross / own * scale : 0;
      if (!direction) {
        for (int64_t d = 0; d < channels; ++d) narrow(W(0), out[d]);
        continue;
      }
      const auto value = [&](int64_t d) CCDN_TARGET __attribute__((always_inline)) {
        return load(g + d) * scale - load_doubles(x + d) * along;
      };
      constexpr int lanes = Simd<W>::lanes;
      int64_t d = 0;
#if CCDN_VECTOR_BYTES >= 32
      if constexpr (std::is_same_v<T, BFloat16>) {
        for (; d + 4 * kDoubles <= channels; d += 4 * kDoubles) {
          store_four(out + d, value(d), value(d + kDoubles), value(d + 2 * kDoubles),
                     value(d + 3 * kDoubles));
        }
      }
#endif
      for (; d + lanes <= channels; d += lanes) {
        if constexpr (std::is_same_v<W, float>) {
          store_narrow<float>(out + d, floats_of(value(d), value(d + kDoubles)));
        } else {
          store(out + d, value(d));
        }
      }
      for (; d < channels; ++d) narrow(W(g[d] * scale - double(widen(x[d])) * along), out[d]);
    }
  }
}

template <class T, class W>
CCDN_TARGET void narrow_at(double value, void* out, int64_t index) {
  narrow(W(value), static_cast<T*>(out)[index]);
}

template <class T>
CCDN_TARGET double widen_at(const void* in, int64_t index) {
  return double(widen(static_cast<const T*>(in)[index]));
}

template <class T, class W>
constexpr CocsKernels::Typed typed() {
  return {sizeof(W),      sum_units<T>,    collect<W>, loss<W>,
          gradient<T, W>, narrow_at<T, W>, widen_at<T>};
}

}  // namespace

const CocsKernels& cocs_loss_kernels() {
  static const CocsKernels kernels{{typed<float, float>(), typed<double, double>(),
                                    typed<BFloat16, float>(), typed<Half, float>()}};
  return kernels;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
