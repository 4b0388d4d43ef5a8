// The four element types, and the type in which each is accumulated.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "../common/status.h"

namespace ccdn::cuda {

template <typename T>
struct Element;

template <>
struct Element<float> {
  using Accumulator = float;
  static __device__ float load(float value) { return value; }
  static __device__ float store(float value) { return value; }
};

template <>
struct Element<double> {
  using Accumulator = double;
  static __device__ double load(double value) { return value; }
  static __device__ double store(double value) { return value; }
};

template <>
struct Element<__nv_bfloat16> {
  using Accumulator = float;
  static __device__ float load(__nv_bfloat16 value) { return __bfloat162float(value); }
  static __device__ __nv_bfloat16 store(float value) { return __float2bfloat16(value); }
};

template <>
struct Element<__half> {
  using Accumulator = float;
  static __device__ float load(__half value) { return __half2float(value); }
  static __device__ __half store(float value) { return __float2half(value); }
};

template <typename T>
using Accumulator = typename Element<T>::Accumulator;

// eps of the accumulation type: the distance from 1 to the next larger number.
template <typename Acc>
inline constexpr double kEpsilon =
    sizeof(Acc) == 8 ? 2.220446049250313e-16 : 1.1920928955078125e-07;

// The trace of a covariance, 0 for a constant sample: `spread` is the sum of the channels'
// variances, spread + level the mean over the positions of |x_n|^2. NaN and infinity are not
// constant.
template <typename Acc>
__device__ Acc spread_or_zero(double spread, double level) {
  const double threshold = 256 * kEpsilon<Acc> * kEpsilon<Acc> * (spread + level);
  const bool constant = spread <= threshold && spread - spread == 0;
  return constant ? Acc(0) : Acc(spread);
}

// Squeezes (B, D), or their gradients, in the features' type or, `wide`, the accumulation type.
template <typename T>
struct Squeezes {
  void* data;
  bool wide;

  __device__ explicit operator bool() const { return data != nullptr; }
  __device__ void store(int64_t index, Accumulator<T> value) const {
    if (wide) {
      static_cast<Accumulator<T>*>(data)[index] = value;
    } else {
      static_cast<T*>(data)[index] = Element<T>::store(value);
    }
  }
  __device__ Accumulator<T> load(int64_t index) const {
    if (wide) return static_cast<const Accumulator<T>*>(data)[index];
    return Element<T>::load(static_cast<const T*>(data)[index]);
  }
};

// Squeezes to be stored, in a type that is known only at run time: a kernel that touches no other
// tensor of that type need not be compiled for each.
struct StoredSqueezes {
  void* data;  // or null
  Dtype dtype;

  template <typename Acc>
  __device__ void store(int64_t index, Acc value) const {
    if constexpr (sizeof(Acc) == 8) {
      static_cast<double*>(data)[index] = value;
    } else if (dtype == Dtype::bf16) {
      static_cast<__nv_bfloat16*>(data)[index] = Element<__nv_bfloat16>::store(value);
    } else if (dtype == Dtype::f16) {
      static_cast<__half*>(data)[index] = Element<__half>::store(value);
    } else {
      static_cast<float*>(data)[index] = value;
    }
  }
};

// The features of one sample, seen along two axes: `side`, whose n entries index the matrix of the
// recurrence, and `free`, which that matrix sums over. Reading an entry subtracts its channel's
// mean, which is held in two parts so that the centred rows sum to zero even when the mean is much
// larger than the deviations from it.
template <typename T>
struct Features {
  const T* data;
  const Accumulator<T>* mean;
  const Accumulator<T>* mean_rest;
  int64_t free, side;
  int64_t batch_stride, free_stride, side_stride;
  int64_t channels;
  bool channel_is_side;  // which of the two axes the mean belongs to

  __device__ Features sample(int64_t b) const {
    Features result = *this;
    result.data += b * batch_stride;
    result.mean += b * channels;
    result.mean_rest += b * channels;
    return result;
  }
  __device__ int64_t channel(int64_t f, int64_t s) const { return channel_is_side ? s : f; }
  __device__ int64_t offset(int64_t f, int64_t s) const {
    return f * free_stride + s * side_stride;
  }
  __device__ Accumulator<T> operator()(int64_t f, int64_t s) const {
    const int64_t c = channel(f, s);
    return (Element<T>::load(data[offset(f, s)]) - mean[c]) - mean_rest[c];
  }
  // Whether neighbouring threads should walk along `side` (else along `free`).
  __device__ bool side_is_inner() const { return side_stride <= free_stride; }
};

}  // namespace ccdn::cuda
