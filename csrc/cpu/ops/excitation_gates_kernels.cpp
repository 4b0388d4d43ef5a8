// The kernels of excitation_gates for one instruction set.
//
//   hidden[g] = relu(reduce[g] k[o] + bias)    scales[g] = sigmoid(expand[g] hidden[g] + bias)
//   gates[p] = sum over o of scales[p, o]
//
// A weight is read once forward and once backward, and its gradient is written once.
#include <cmath>

#include "cpu/ops/excitation_gates_products.h"

namespace ccdn {
namespace CCDN_ISA {

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

// The squeezes, the gates and their gradients, which are read and written by the block.
template <class T>
const Codec<T>& codec_of(Dtype dtype) {
  if constexpr (std::is_same_v<T, double>) {
    return codec<double, double>;
  } else {
    return dtype == Dtype::bf16  ? codec<BFloat16, T>
           : dtype == Dtype::f16 ? codec<Half, T>
                                 : codec<T, T>;
  }
}

// Where a unit's network and rows lie; the weights and their gradients are S.
template <class S, class T>
struct View {
  const ExcitationGatesJob& job;
  const Codec<T>& elements;
  int64_t batch, orders, channels, hidden, networks;

  explicit View(const ExcitationGatesJob& j)
      : job(j),
        elements(codec_of<T>(j.shape->dtype)),
        batch(j.shape->batch),
        orders(j.shape->orders),
        channels(j.shape->channels),
        hidden(j.shape->hidden),
        networks(j.shape->excitations * j.shape->orders) {}

  const T* squeeze(int64_t o) const {
    return job.squeezes_wide ? wide_squeeze(o) : static_cast<const T*>(job.squeezes[o]);
  }
  T* wide_squeeze(int64_t o) const {
    return static_cast<T*>(job.squeezes_wide) + o * batch * channels;
  }
  const S* reduce(int64_t g) const {
    return static_cast<const S*>(job.weights.reduce) + g * hidden * channels;
  }
  const S* expand(int64_t g) const {
    return static_cast<const S*>(job.weights.expand) + g * channels * hidden;
  }
  T* of_channels(void* base, int64_t g) const { return static_cast<T*>(base) + g * channels; }
  T* of_hidden(void* base, int64_t g) const { return static_cast<T*>(base) + g * hidden; }
};

CCDN_INLINE int64_t rows_of_block(int64_t block, int64_t all) {
  const int64_t rest = all - block * kGateRows;
  return rest < kGateRows ? rest : kGateRows;
}

// `line` (kGateRows) = the biases of a block.
template <class T, class S>
CCDN_INLINE void read_biases(const void* biases, int64_t first, int64_t rows, T* line) {
  read_elements<S, T>(static_cast<const S*>(biases) + first, 0, 1, 1, rows, {}, line, 0);
}

template <class T, class S>
CCDN_INLINE void write_biases(const double* sums, int64_t rows, S* out) {
  for (int64_t r = 0; r < rows; ++r) narrow(T(sums[r]), out[r]);
}

// The gradient (rows, columns) of a block of weights: the sum over the samples of left * b.
template <class S, class T>
CCDN_TARGET void weight_gradient(int64_t rows, int64_t columns, int64_t batch, const T* left,
                                 int64_t left_stride, const T* b, int64_t b_stride, S* out) {
  if constexpr (std::is_same_v<S, T>) {
    product<T, Left::by_column>(rows, columns, batch, left, left_stride, b, b_stride, out, columns,
                                false);
  } else if (batch <= kDepth) {
    product_run<T, Left::by_column>(rows, columns, batch, left, left_stride, b, b_stride, out,
                                    columns, false);
  } else {
    constexpr int64_t kColumns = 128;
    T tile[kGateRows * kColumns];
    for (int64_t c = 0; c < columns; c += kColumns) {
      const int64_t some = columns - c < kColumns ? columns - c : kColumns;
      product<T, Left::by_column>(rows, some, batch, left, left_stride, b + c, b_stride, tile,
                                  kColumns, false);
      write_elements<S, T>(tile, kColumns, rows, some, out + c, columns, 1);
    }
  }
}

// A block of a squeeze's channels, widened to where its products read it.
template <class S, class T>
CCDN_TARGET void widen_squeezes(const View<S, T>& v, int64_t o, int64_t d, int64_t rows) {
  v.elements.read(v.elements.at(v.job.squeezes[o], d), v.channels, 1, v.batch, rows, {},
                  v.wide_squeeze(o) + d, v.channels);
}

template <class S, class T>
CCDN_TARGET void forward_squeezes(const ExcitationGatesJob& job, int64_t o, int64_t block) {
  const View<S, T> v(job);
  const int64_t d = block * kGateRows, rows = rows_of_block(block, v.channels);
  if (job.dot) return widen_squeezes(v, o, d, rows);
  T* out = static_cast<T*>(job.squeezes_turned) + (o * v.channels + d) * job.padded;
  if (v.elements.same) {
    turn<T>(v.batch, rows, v.squeeze(o) + d, v.channels, out, job.padded);
  } else {
    T room[kGateRows * kGateRows];
    for (int64_t b = 0; b < v.batch; b += kGateRows) {
      const int64_t samples = v.batch - b < kGateRows ? v.batch - b : kGateRows;
      v.elements.read(v.elements.at(job.squeezes[o], b * v.channels + d), v.channels, 1, samples,
                      rows, {}, room, kGateRows);
      turn<T>(samples, rows, room, kGateRows, out + b, job.padded);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t b = v.batch; b < job.padded; ++b) out[r * job.padded + b] = 0;
  }
}

template <class S, class T>
CCDN_TARGET void forward_hidden(const ExcitationGatesJob& job, int64_t g, int64_t block) {
  constexpr int64_t width = 8 * Simd<T>::lanes;
  const View<S, T> v(job);
  const int64_t row = block * kGateRows, rows = rows_of_block(block, v.hidden);
  const int64_t o = g % v.orders, stride = v.networks * v.hidden;
  const S* weight = v.reduce(g) + row * v.channels;
  T bias[kGateRows];
  read_biases<T, S>(job.weights.reduce_bias, g * v.hidden + row, rows, bias);
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

// A block of an excitation's gates: the sums of its scales over the orders.
template <class S, class T>
CCDN_TARGET void write_gates(const View<S, T>& v, int64_t p, int64_t row, int64_t rows) {
  const int64_t stride = v.networks * v.channels;
  const int64_t gates_stride = v.job.shape->excitations * v.channels;
  const T* first = v.of_channels(v.job.scales, p * v.orders) + row;
  const int64_t other = (v.orders - 1) * v.channels;
  T room[kGateRows * kGateRows];
  for (int64_t begin = 0; begin < v.batch; begin += kGateRows) {
    const int64_t samples = v.batch - begin < kGateRows ? v.batch - begin : kGateRows;
    void* gates = v.elements.at(v.job.gates, begin * gates_stride + p * v.channels + row);
    T* sums = v.elements.same ? static_cast<T*>(gates) : room;
    const int64_t step = v.elements.same ? gates_stride : kGateRows;
    for (int64_t b = 0; b < samples; ++b, sums += step) {
      const T* line = first + (begin + b) * stride;
      for (int64_t r = 0; r < rows; ++r) sums[r] = other ? line[r] + line[other + r] : line[r];
    }
    if (!v.elements.same) v.elements.write(room, kGateRows, samples, rows, gates, gates_stride, 1);
  }
}

template <class S, class T>
CCDN_TARGET void forward_gates(const ExcitationGatesJob& job, int64_t p, int64_t block) {
  constexpr int64_t width = 8 * Simd<T>::lanes;
  const View<S, T> v(job);
  const int64_t row = block * kGateRows, rows = rows_of_block(block, v.channels);
  const int64_t stride = v.networks * v.channels;
  if (job.dot) {
    for (int64_t o = 0; o < v.orders; ++o) {
      const int64_t g = p * v.orders + o;
      T bias[kGateRows];
      read_biases<T, S>(job.weights.expand_bias, g * v.channels + row, rows, bias);
      T* scales = v.of_channels(job.scales, g) + row;
      dot_product<T>(v.batch, rows, v.hidden, v.expand(g) + row * v.hidden,
                     v.of_hidden(job.hidden, g), v.networks * v.hidden, scales, stride);
      for (int64_t b = 0; b < v.batch; ++b) {
        sigmoid_line<T, true>(scales + b * stride, bias, rows);
      }
    }
    return write_gates(v, p, row, rows);
  }
  T tile[kGateRows * width];
  for (int64_t b = 0; b < job.padded; b += width) {
    const int64_t count = job.padded - b < width ? job.padded - b : width;
    const int64_t samples = v.batch - b < count ? v.batch - b : count;
    for (int64_t o = 0; o < v.orders; ++o) {
      const int64_t g = p * v.orders + o;
      T bias[kGateRows];
      read_biases<T, S>(job.weights.expand_bias, g * v.channels + row, rows, bias);
      const T* turned = static_cast<const T*>(job.hidden_turned) + g * v.hidden * job.padded + b;
      product<T, Left::by_row>(rows, count, v.hidden, v.expand(g) + row * v.hidden, v.hidden,
                               turned, job.padded, tile, width, false);
      for (int64_t r = 0; r < rows; ++r) {
        sigmoid_line<T, false>(tile + r * width, bias + r, count);
      }
      turn<T>(rows, samples, tile, width, v.of_channels(job.scales, g) + row + b * stride, stride);
    }
  }
  write_gates(v, p, row, rows);
}

// The gradient before the sigmoid, and with it those of expand and its bias. The networks of the
// first excitation also widen the squeezes, for the next phase.
template <class S, class T>
CCDN_TARGET void backward_logits(const ExcitationGatesJob& job, int64_t g, int64_t block) {
  const View<S, T> v(job);
  const int64_t row = block * kGateRows, rows = rows_of_block(block, v.channels);
  const int64_t p = g / v.orders, stride = v.networks * v.channels;
  const T* scales = v.of_channels(job.scales, g) + row;
  const int64_t grad_stride = job.shape->excitations * v.channels;
  T* logits = v.of_channels(job.grad_logits, g) + row;
  if (p == 0 && job.squeezes_wide) widen_squeezes(v, g, row, rows);
  double sums[kGateRows] = {};
  T room[kGateRows * kGateRows];
  for (int64_t begin = 0; begin < v.batch; begin += kGateRows) {
    const int64_t samples = v.batch - begin < kGateRows ? v.batch - begin : kGateRows;
    const void* upstream =
        v.elements.at(job.grad_gates, begin * grad_stride + p * v.channels + row);
    const T* grad = v.elements.same ? static_cast<const T*>(upstream) : room;
    const int64_t step = v.elements.same ? grad_stride : kGateRows;
    if (!v.elements.same) {
      v.elements.read(upstream, grad_stride, 1, samples, rows, {}, room, kGateRows);
    }
    for (int64_t b = begin; b < begin + samples; ++b, grad += step) {
      const T* s = scales + b * stride;
      T* out = logits + b * stride;
      for (int64_t r = 0; r < rows; ++r) out[r] = grad[r] * s[r] * (1 - s[r]);
      for (int64_t r = 0; r < rows; ++r) sums[r] += double(out[r]);
    }
  }
  write_biases<T>(sums, rows, static_cast<S*>(job.grads.expand_bias) + g * v.channels + row);
  weight_gradient<S, T>(rows, v.hidden, v.batch, logits, stride, v.of_hidden(job.hidden, g),
                        v.networks * v.hidden,
                        static_cast<S*>(job.grads.expand) + (g * v.channels + row) * v.hidden);
}

// The gradient before the ReLU, and with it those of reduce and its bias.
template <class S, class T>
CCDN_TARGET void backward_hidden(const ExcitationGatesJob& job, int64_t g, int64_t block) {
  const View<S, T> v(job);
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
  write_biases<T>(sums, rows, static_cast<S*>(job.grads.reduce_bias) + g * v.hidden + row);
  weight_gradient<S, T>(rows, v.channels, v.batch, grad, stride, v.squeeze(o), v.channels,
                        static_cast<S*>(job.grads.reduce) + (g * v.hidden + row) * v.channels);
}

template <class S, class T>
CCDN_TARGET void backward_squeezes(const ExcitationGatesJob& job, int64_t o, int64_t block) {
  const View<S, T> v(job);
  const int64_t column = block * kGateRows, columns = rows_of_block(block, v.channels);
  void* grads = v.elements.at(o == 0 ? job.grads.first : job.grads.second, column);
  // Of 16 bits they are summed where the logits' gradients were, which nobody reads any more.
  T* out = v.elements.same ? static_cast<T*>(grads) : v.of_channels(job.grad_logits, o) + column;
  const int64_t stride = v.elements.same ? v.channels : v.networks * v.channels;
  for (int64_t p = 0; p < job.shape->excitations; ++p) {
    const int64_t g = p * v.orders + o;
    product<T, Left::by_row>(v.batch, columns, v.hidden, v.of_hidden(job.grad_hidden, g),
                             v.networks * v.hidden, v.reduce(g) + column, v.channels, out, stride,
                             p > 0);
  }
  if (!v.elements.same) v.elements.write(out, stride, v.batch, columns, grads, v.channels, 1);
}

template <class S, class T>
constexpr ExcitationGatesKernels::Phases phases_forward() {
  return {forward_squeezes<S, T>, forward_hidden<S, T>, forward_gates<S, T>};
}

template <class S, class T>
constexpr ExcitationGatesKernels::Phases phases_backward() {
  return {backward_logits<S, T>, backward_hidden<S, T>, backward_squeezes<S, T>};
}

const ExcitationGatesKernels& excitation_gates_kernels() {
  static const ExcitationGatesKernels kernels{
      {Simd<float>::lanes, Simd<double>::lanes},
      {phases_forward<float, float>(), phases_forward<double, double>(),
       phases_forward<BFloat16, float>(), phases_forward<Half, float>()},
      {phases_backward<float, float>(), phases_backward<double, double>(),
       phases_backward<BFloat16, float>(), phases_backward<Half, float>()},
  };
  return kernels;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
