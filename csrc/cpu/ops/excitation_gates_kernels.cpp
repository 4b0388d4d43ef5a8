// The kernels of excitation_gates for one instruction set.
//
//   hidden[g] = relu(reduce[g] k[o] + bias)    scales[g] = sigmoid(expand[g] hidden[g] + bias)
//   gates[p] = sum over o of scales[p, o]
//
// A weight is read once forward and once backward, and its gradient is written once.
#include <cmath>

#include "cpu/engine/tile.h"
#include "cpu/ops/excitation_gates_job.h"

namespace ccdn {
namespace CCDN_ISA {

// Products are summed in runs of this length, and the runs' sums then: rounding grows with the
// length of a run and the number of runs, not with their product.
constexpr int64_t kDepth = 64;

template <class T, Left kLeft, int kVectors>
CCDN_TARGET void row_tiles(int64_t rows, int64_t depth, const T* a, int64_t a_stride, const T* b,
                           int64_t b_stride, T* out, int64_t out_stride, bool add) {
  int64_t row = 0;
  const auto left = [&] { return a + (kLeft == Left::by_row ? row * a_stride : row); };
  for (; row + kRegisterRows <= rows; row += kRegisterRows) {
    register_tile<T, kLeft, kRegisterRows, kVectors>(depth, left(), a_stride, b, b_stride,
                                                     out + row * out_stride, out_stride, add);
  }
  if (kRegisterRows > 4 && row + 4 <= rows) {
    register_tile<T, kLeft, 4, kVectors>(depth, left(), a_stride, b, b_stride,
                                         out + row * out_stride, out_stride, add);
    row += 4;
  }
  for (; row < rows; ++row) {
    register_tile<T, kLeft, 1, kVectors>(depth, left(), a_stride, b, b_stride,
                                         out + row * out_stride, out_stride, add);
  }
}

// out (rows x columns) = or += left (rows x depth) * b (depth x columns), of any sizes.
template <class T, Left kLeft>
CCDN_TARGET void product(int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_stride,
                         const T* b, int64_t b_stride, T* out, int64_t out_stride, bool add) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t k = 0; k < depth; k += kDepth) {
    const int64_t run = depth - k < kDepth ? depth - k : kDepth;
    const T* left = a + (kLeft == Left::by_row ? k : k * a_stride);
    const T* right = b + k * b_stride;
    int64_t column = 0;
    for (; column + 2 * lanes <= columns; column += 2 * lanes) {
      row_tiles<T, kLeft, 2>(rows, run, left, a_stride, right + column, b_stride, out + column,
                             out_stride, add);
    }
    if (column + lanes <= columns) {
      row_tiles<T, kLeft, 1>(rows, run, left, a_stride, right + column, b_stride, out + column,
                             out_stride, add);
      column += lanes;
    }
    if (column < columns) {  // less than a vector: through padded copies
      const int64_t count = columns - column;
      T padded[kDepth * lanes], tile[kRegisterRows * lanes];
      for (int64_t i = 0; i < run; ++i) {
        for (int64_t c = 0; c < lanes; ++c) {
          padded[i * lanes + c] = c < count ? right[i * b_stride + column + c] : T(0);
        }
      }
      for (int64_t row = 0; row < rows; row += kRegisterRows) {
        const int64_t some = rows - row < kRegisterRows ? rows - row : kRegisterRows;
        row_tiles<T, kLeft, 1>(some, run, left + (kLeft == Left::by_row ? row * a_stride : row),
                               a_stride, padded, lanes, tile, lanes, false);
        for (int64_t r = 0; r < some; ++r) {
          for (int64_t c = 0; c < count; ++c) {
            T& place = out[(row + r) * out_stride + column + c];
            place = add ? place + tile[r * lanes + c] : tile[r * lanes + c];
          }
        }
      }
    }
    add = true;
  }
}

// out[c][r] = in[r][c] of any sizes.
template <class T>
CCDN_TARGET void turn(int64_t rows, int64_t columns, const T* in, int64_t in_stride, T* out,
                      int64_t out_stride) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t r = 0; r < rows; r += lanes) {
    for (int64_t c = 0; c < columns; c += lanes) {
      if (r + lanes <= rows && c + lanes <= columns) {
        transpose<T>(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
        continue;
      }
      for (int64_t i = r; i < rows && i < r + lanes; ++i) {
        for (int64_t j = c; j < columns && j < c + lanes; ++j) {
          out[j * out_stride + i] = in[i * in_stride + j];
        }
      }
    }
  }
}

// out[q][r] = sum over k of in[q][k] * weight[r][k], k in the lanes.
template <class T, int kSamples, int kRows>
CCDN_INLINE void dots(int64_t depth, const T* weight, int64_t weight_stride, const T* in,
                      int64_t in_stride, T* out, int64_t out_stride) {
  using Vector = typename Simd<T>::Vector;
  constexpr int lanes = Simd<T>::lanes;
  Vector sums[kRows][kSamples] = {};
  int64_t k = 0;
  for (; k + lanes <= depth; k += lanes) {
    Vector values[kSamples];
#pragma GCC unroll 4
    for (int q = 0; q < kSamples; ++q) values[q] = load(in + q * in_stride + k);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vector w = load(weight + r * weight_stride + k);
#pragma GCC unroll 4
      for (int q = 0; q < kSamples; ++q) sums[r][q] += w * values[q];
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int q = 0; q < kSamples; ++q) {
      T total = sum<T>(sums[r][q]);
      for (int64_t i = k; i < depth; ++i) {
        total += weight[r * weight_stride + i] * in[q * in_stride + i];
      }
      out[q * out_stride + r] = total;
    }
  }
}

template <class T, int kSamples>
CCDN_TARGET void dot_rows(int64_t rows, int64_t depth, const T* weight, const T* in,
                          int64_t in_stride, T* out, int64_t out_stride) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    dots<T, kSamples, 4>(depth, weight + r * depth, depth, in, in_stride, out + r, out_stride);
  }
  for (; r < rows; ++r) {
    dots<T, kSamples, 1>(depth, weight + r * depth, depth, in, in_stride, out + r, out_stride);
  }
}

template <class T>
CCDN_TARGET void dot_product(int64_t samples, int64_t rows, int64_t depth, const T* weight,
                             const T* in, int64_t in_stride, T* out, int64_t out_stride) {
  for (int64_t b = 0; b < samples; b += 4) {
    const T* from = in + b * in_stride;
    T* to = out + b * out_stride;
    switch (samples - b) {
      case 1:
        dot_rows<T, 1>(rows, depth, weight, from, in_stride, to, out_stride);
        break;
      case 2:
        dot_rows<T, 2>(rows, depth, weight, from, in_stride, to, out_stride);
        break;
      case 3:
        dot_rows<T, 3>(rows, depth, weight, from, in_stride, to, out_stride);
        break;
      default:
        dot_rows<T, 4>(rows, depth, weight, from, in_stride, to, out_stride);
    }
  }
}

// NaN stays NaN.
template <class T>
CCDN_INLINE T relu(T value) {
  return value < 0 ? T(0) : value;
}

CCDN_INLINE Simd<double>::Vector sigmoid(Simd<double>::Vector x) {
  for (int i = 0; i < Simd<double>::lanes; ++i) x[i] = 1 / (1 + std::exp(-x[i]));
  return x;
}

// exp(t) = 2^n exp(f), |f| <= ln 2 / 2, where the series' next term is 5e-9. In vectors by hand:
// the compiler makes branches of the bounds, and one element at a time takes longer than the layer.
CCDN_INLINE Simd<float>::Vector sigmoid(Simd<float>::Vector x) {
  using Vector = Simd<float>::Vector;
  typedef uint32_t Bits __attribute__((vector_size(CCDN_VECTOR_BYTES)));
  constexpr float kRound = 12582912;  // 1.5 * 2^23: what is added to it is rounded to an integer
  const Vector most = Vector{} + 88.0f;
  Vector t = -x;
  t = t > most ? most : t;  // NaN stays NaN
  t = t < -most ? -most : t;
  const Vector shifted = t * 1.44269504f + kRound;
  const Vector n = shifted - kRound;
  const Vector f = (t - n * 0.693145752f) - n * 1.42860677e-6f;
  Vector power = f * (1.0f / 5040) + 1.0f / 720;
  power = power * f + 1.0f / 120;
  power = power * f + 1.0f / 24;
  power = power * f + 1.0f / 6;
  power = power * f + 0.5f;
  power = power * f * f + f + 1.0f;
  const Vector scale = (Vector)(((Bits)shifted << 23) + (127u << 23));
  return 1.0f / (1.0f + power * scale);
}

// line = sigmoid(line + bias), the bias one number or a line.
template <class T, bool kLine>
CCDN_INLINE void sigmoid_line(T* line, const T* bias, int64_t count) {
  constexpr int lanes = Simd<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto value = load(line + i);
    store(line + i, sigmoid(kLine ? value + load(bias + i) : value + bias[0]));
  }
  if (i == count) return;
  const auto value = load_first(line + i, count - i);
  const auto shifted = kLine ? value + load_first(bias + i, count - i) : value + bias[0];
  store_first(line + i, sigmoid(shifted), count - i);
}

// Where a unit's network and rows lie.
template <class T>
struct View {
  const ExcitationGatesJob& job;
  int64_t batch, orders, channels, hidden, networks;

  explicit View(const ExcitationGatesJob& j)
      : job(j),
        batch(j.shape->batch),
        orders(j.shape->orders),
        channels(j.shape->channels),
        hidden(j.shape->hidden),
        networks(j.shape->excitations * j.shape->orders) {}

  const T* squeeze(int64_t o) const { return static_cast<const T*>(job.squeezes[o]); }
  const T* reduce(int64_t g) const {
    return static_cast<const T*>(job.weights.reduce) + g * hidden * channels;
  }
  const T* expand(int64_t g) const {
    return static_cast<const T*>(job.weights.expand) + g * channels * hidden;
  }
  T* of_channels(void* base, int64_t g) const { return static_cast<T*>(base) + g * channels; }
  T* of_hidden(void* base, int64_t g) const { return static_cast<T*>(base) + g * hidden; }
};

CCDN_INLINE int64_t rows_of_block(int64_t block, int64_t all) {
  const int64_t rest = all - block * kGateRows;
  return rest < kGateRows ? rest : kGateRows;
}

template <class T>
CCDN_TARGET void turn_squeezes(const ExcitationGatesJob& job, int64_t o, int64_t block) {
  const View<T> v(job);
  const int64_t d = block * kGateRows, rows = rows_of_block(block, v.channels);
  T* out = static_cast<T*>(job.squeezes_turned) + (o * v.channels + d) * job.padded;
  turn<T>(v.batch, rows, v.squeeze(o) + d, v.channels, out, job.padded);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t b = v.batch; b < job.padded; ++b) out[r * job.padded + b] = 0;
  }
}

template <class T>
CCDN_TARGET void forward_hidden(const ExcitationGatesJob& job, int64_t g, int64_t block) {
  constexpr int64_t width = 2 * Simd<T>::lanes;
  const View<T> v(job);
  const int64_t row = block * kGateRows, rows = rows_of_block(block, v.hidden);
  const int64_t o = g % v.orders, stride = v.networks * v.hidden;
  const T* weight = v.reduce(g) + row * v.channels;
  const T* bias = static_cast<const T*>(job.weights.reduce_bias) + g * v.hidden + row;
  T* hidden = v.of_hidden(job.hidden, g) + row;
  if (job.dot) {
    dot_product<T>(v.batch, rows, v.channels, weight, v.squeeze(o), v.channels, hidden, stride);
    for (int64_t b = 0; b < v.batch; ++b) {
      T* line = hidden + b * stride;
      for (int64_t r = 0; r < rows; ++r) line[r] = relu(line[r] + bias[r]);
    }
    return;
  }
  const T* turned = static_cast<const T*>(job.squeezes_turned) + o * v.channels * job.padded;
  T* out = static_cast<T*>(job.hidden_turned) + (g * v.hidden + row) * job.padded;
  for (int64_t b = 0; b < job.padded; b += width) {
    const int64_t count = job.padded - b < width ? job.padded - b : width;
    product<T, Left::by_row>(rows, count, v.channels, weight, v.channels, turned + b, job.padded,
                             out + b, job.padded, false);
    for (int64_t r = 0; r < rows; ++r) {
      T* line = out + r * job.padded + b;
      for (int64_t i = 0; i < count; ++i) line[i] = relu(line[i] + bias[r]);
    }
    const int64_t samples = v.batch - b < count ? v.batch - b : count;
    turn<T>(rows, samples, out + b, job.padded, hidden + b * stride, stride);
  }
}

template <class T>
CCDN_TARGET void forward_gates(const ExcitationGatesJob& job, int64_t p, int64_t block) {
  constexpr int64_t width = 2 * Simd<T>::lanes;
  const View<T> v(job);
  const int64_t row = block * kGateRows, rows = rows_of_block(block, v.channels);
  const int64_t stride = v.networks * v.channels;
  const int64_t gates_stride = job.shape->excitations * v.channels;
  T* gates = v.of_channels(job.gates, p) + row;
  if (job.dot) {
    for (int64_t o = 0; o < v.orders; ++o) {
      const int64_t g = p * v.orders + o;
      const T* bias = static_cast<const T*>(job.weights.expand_bias) + g * v.channels + row;
      T* scales = v.of_channels(job.scales, g) + row;
      dot_product<T>(v.batch, rows, v.hidden, v.expand(g) + row * v.hidden,
                     v.of_hidden(job.hidden, g), v.networks * v.hidden, scales, stride);
      for (int64_t b = 0; b < v.batch; ++b) {
        T *line = scales + b * stride, *sums = gates + b * gates_stride;
        sigmoid_line<T, true>(line, bias, rows);
        for (int64_t r = 0; r < rows; ++r) sums[r] = o == 0 ? line[r] : sums[r] + line[r];
      }
    }
    return;
  }
  T tile[kGateRows * width], sums[kGateRows * width];
  for (int64_t b = 0; b < job.padded; b += width) {
    const int64_t count = job.padded - b < width ? job.padded - b : width;
    const int64_t samples = v.batch - b < count ? v.batch - b : count;
    for (int64_t o = 0; o < v.orders; ++o) {
      const int64_t g = p * v.orders + o;
      const T* bias = static_cast<const T*>(job.weights.expand_bias) + g * v.channels + row;
      const T* turned = static_cast<const T*>(job.hidden_turned) + g * v.hidden * job.padded + b;
      product<T, Left::by_row>(rows, count, v.hidden, v.expand(g) + row * v.hidden, v.hidden,
                               turned, job.padded, tile, width, false);
      for (int64_t r = 0; r < rows; ++r) {
        T *line = tile + r * width, *sum = sums + r * width;
        sigmoid_line<T, false>(line, bias + r, count);
        for (int64_t i = 0; i < count; ++i) sum[i] = o == 0 ? line[i] : sum[i] + line[i];
      }
      turn<T>(rows, samples, tile, width, v.of_channels(job.scales, g) + row + b * stride, stride);
    }
    turn<T>(rows, samples, sums, width, gates + b * gates_stride, gates_stride);
  }
}

// The gradient before the sigmoid, and with it those of expand and its bias.
template <class T>
CCDN_TARGET void backward_logits(const ExcitationGatesJob& job, int64_t g, int64_t block) {
  const View<T> v(job);
  const int64_t row = block * kGateRows, rows = rows_of_block(block, v.channels);
  const int64_t p = g / v.orders, stride = v.networks * v.channels;
  const T* scales = v.of_channels(job.scales, g) + row;
  const T* upstream = static_cast<const T*>(job.grad_gates) + p * v.channels + row;
  T* logits = v.of_channels(job.grad_logits, g) + row;
  double sums[kGateRows] = {};
  for (int64_t b = 0; b < v.batch; ++b) {
    const T* s = scales + b * stride;
    const T* grad = upstream + b * job.shape->excitations * v.channels;
    T* out = logits + b * stride;
    for (int64_t r = 0; r < rows; ++r) out[r] = grad[r] * s[r] * (1 - s[r]);
    for (int64_t r = 0; r < rows; ++r) sums[r] += double(out[r]);
  }
  T* bias = v.of_channels(job.grads.expand_bias, g) + row;
  for (int64_t r = 0; r < rows; ++r) bias[r] = T(sums[r]);
  T* weight = static_cast<T*>(job.grads.expand) + (g * v.channels + row) * v.hidden;
  product<T, Left::by_column>(rows, v.hidden, v.batch, logits, stride, v.of_hidden(job.hidden, g),
                              v.networks * v.hidden, weight, v.hidden, false);
}

// The gradient before the ReLU, and with it those of reduce and its bias.
template <class T>
CCDN_TARGET void backward_hidden(const ExcitationGatesJob& job, int64_t g, int64_t block) {
  const View<T> v(job);
  const int64_t row = block * kGateRows, rows = rows_of_block(block, v.hidden);
  const int64_t o = g % v.orders, stride = v.networks * v.hidden;
  const T* hidden = v.of_hidden(job.hidden, g) + row;
  T* grad = v.of_hidden(job.grad_hidden, g) + row;
  product<T, Left::by_row>(v.batch, rows, v.channels, v.of_channels(job.grad_logits, g),
                           v.networks * v.channels, v.expand(g) + row, v.hidden, grad, stride,
                           false);
  double sums[kGateRows] = {};
  for (int64_t b = 0; b < v.batch; ++b) {
    const T* value = hidden + b * stride;
    T* out = grad + b * stride;
    for (int64_t r = 0; r < rows; ++r) out[r] = value[r] <= 0 ? T(0) : out[r];
    for (int64_t r = 0; r < rows; ++r) sums[r] += double(out[r]);
  }
  T* bias = v.of_hidden(job.grads.reduce_bias, g) + row;
  for (int64_t r = 0; r < rows; ++r) bias[r] = T(sums[r]);
  T* weight = static_cast<T*>(job.grads.reduce) + (g * v.hidden + row) * v.channels;
  product<T, Left::by_column>(rows, v.channels, v.batch, grad, stride, v.squeeze(o), v.channels,
                              weight, v.channels, false);
}

template <class T>
CCDN_TARGET void backward_squeezes(const ExcitationGatesJob& job, int64_t o, int64_t block) {
  const View<T> v(job);
  const int64_t column = block * kGateRows, columns = rows_of_block(block, v.channels);
  T* out = static_cast<T*>(o == 0 ? job.grads.first : job.grads.second) + column;
  for (int64_t p = 0; p < job.shape->excitations; ++p) {
    const int64_t g = p * v.orders + o;
    product<T, Left::by_row>(v.batch, columns, v.hidden, v.of_hidden(job.grad_hidden, g),
                             v.networks * v.hidden, v.reduce(g) + column, v.channels, out,
                             v.channels, p > 0);
  }
}

const ExcitationGatesKernels& excitation_gates_kernels() {
  static const ExcitationGatesKernels kernels{
      {Simd<float>::lanes, Simd<double>::lanes},
      {{turn_squeezes<float>, forward_hidden<float>, forward_gates<float>},
       {turn_squeezes<double>, forward_hidden<double>, forward_gates<double>}},
      {{backward_logits<float>, backward_hidden<float>, backward_squeezes<float>},
       {backward_logits<double>, backward_hidden<double>, backward_squeezes<double>}},
  };
  return kernels;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
