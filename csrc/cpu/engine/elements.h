// Reads and writes elements of the features' type; no other code of the engine knows that type.
//
// All other code is compiled only for the types of the arithmetic, float and double, and accesses
// the elements through a Codec. A call handles a block of elements, so its cost is negligible.
#pragma once

#include <type_traits>

#include "common/status.h"
#include "cpu/engine/convert.h"
#include "cpu/engine/tile.h"

namespace ccdn {
namespace CCDN_ISA {

// What is subtracted from elements that are read: the mean, rounded to T, and the rest of it, so
// that a mean far above the deviations costs no digits. One number a row, or one a column.
template <class T>
struct Centre {
  const T *mean = nullptr, *rest = nullptr;  // null: nothing is subtracted
  bool by_row = true;
};

template <class T>
struct Codec {
  bool same;      // the elements are T
  bool bfloat16;  // they are BFloat16
  int64_t bytes;  // of an element

  // out (rows of `columns`, `stride` apart) = elements, converted. Strides are in elements.
  void (*read)(const void* elements, int64_t row_stride, int64_t column_stride, int64_t rows,
               int64_t columns, const Centre<T>& centre, T* out, int64_t stride);

  // elements = in (rows of `columns`, `stride` apart), converted.
  void (*write)(const T* in, int64_t stride, int64_t rows, int64_t columns, void* elements,
                int64_t row_stride, int64_t column_stride);

  const void* at(const void* elements, int64_t index) const {
    return static_cast<const char*>(elements) + index * bytes;
  }
  void* at(void* elements, int64_t index) const {
    return static_cast<char*>(elements) + index * bytes;
  }
};

// Whether what a row has behind its whole vectors is done by a vector that ends with the row, parts
// of it a second time. Masks cost less, where there are some.
template <class T>
CCDN_INLINE bool overlaps(int64_t columns) {
  return CCDN_VECTOR_BYTES < 64 && columns >= Simd<T>::lanes;
}

template <class S, class T>
CCDN_INLINE void read_row(const S* in, int64_t column_stride, int64_t columns, const T* mean,
                          const T* rest, bool by_row, T* out) {
  if (column_stride != 1) {
    for (int64_t c = 0; c < columns; ++c) {
      const T value = T(widen(in[c * column_stride]));
      const int64_t d = by_row ? 0 : c;
      out[c] = mean ? value - mean[d] - rest[d] : value;
    }
    return;
  }
  constexpr int lanes = Simd<T>::lanes;
  const T m = mean && by_row ? mean[0] : T(0), r = mean && by_row ? rest[0] : T(0);
  const int64_t last = columns - lanes;
  int64_t c = 0;
  if (!mean) {
    for (; c <= last; c += lanes) store(out + c, load_wide<T>(in + c));
    if (c == columns) return;
    if (overlaps<T>(columns)) return store(out + last, load_wide<T>(in + last));
    store_first(out + c, load_wide_first<T>(in + c, columns - c), columns - c);
  } else if (by_row) {
    for (; c <= last; c += lanes) store(out + c, load_wide<T>(in + c) - m - r);
    if (c == columns) return;
    if (overlaps<T>(columns)) return store(out + last, load_wide<T>(in + last) - m - r);
    store_first(out + c, load_wide_first<T>(in + c, columns - c) - m - r, columns - c);
  } else {
    const auto centred = [&](int64_t i) CCDN_TARGET __attribute__((always_inline)) {
      return load_wide<T>(in + i) - load(mean + i) - load(rest + i);
    };
    for (; c <= last; c += lanes) store(out + c, centred(c));
    if (c == columns) return;
    if (overlaps<T>(columns)) return store(out + last, centred(last));
    const int64_t count = columns - c;
    const auto value = load_wide_first<T>(in + c, count);
    store_first(out + c, value - load_first(mean + c, count) - load_first(rest + c, count), count);
  }
}

template <class S, class T>
CCDN_TARGET void read_elements(const void* elements, int64_t row_stride, int64_t column_stride,
                               int64_t rows, int64_t columns, const Centre<T>& centre, T* out,
                               int64_t stride) {
  const S* in = static_cast<const S*>(elements);
  const T *mean = centre.mean, *rest = centre.rest;
  const int64_t step = mean && centre.by_row;
  for (int64_t r = 0; r < rows; ++r, in += row_stride, out += stride, mean += step, rest += step) {
    if (columns == kPanel<T> && column_stride == 1) {  // a constant is worth more than a variable
      read_row<S, T>(in, 1, kPanel<T>, mean, rest, centre.by_row, out);
    } else {
      read_row<S, T>(in, column_stride, columns, mean, rest, centre.by_row, out);
    }
  }
}

template <class S, class T>
CCDN_INLINE void write_row(const T* in, int64_t columns, S* out) {
  constexpr int lanes = Simd<T>::lanes;
  int64_t c = 0;
  for (; c + lanes <= columns; c += lanes) store_narrow<T>(out + c, load(in + c));
  if (c == columns) return;
  if (overlaps<T>(columns)) {
    return store_narrow<T>(out + columns - lanes, load(in + columns - lanes));
  }
  store_narrow_first<T>(out + c, load_first(in + c, columns - c), columns - c);
}

template <class S, class T>
CCDN_TARGET void write_elements(const T* in, int64_t stride, int64_t rows, int64_t columns,
                                void* elements, int64_t row_stride, int64_t column_stride) {
  S* out = static_cast<S*>(elements);
  for (int64_t r = 0; r < rows; ++r, in += stride, out += row_stride) {
    if (column_stride != 1) {
      for (int64_t c = 0; c < columns; ++c) narrow(in[c], out[c * column_stride]);
    } else if (columns == kPanel<T>) {
      write_row<S, T>(in, kPanel<T>, out);
    } else {
      write_row<S, T>(in, columns, out);
    }
  }
}

template <class S, class T>
const Codec<T> codec{std::is_same_v<S, T>, std::is_same_v<S, BFloat16>, sizeof(S),
                     read_elements<S, T>, write_elements<S, T>};

// Numbers that the forward pass saves for the backward pass: floats, or doubles where the features
// are doubles, whatever the arithmetic was in.
struct Saved {
  bool floats;

  // Returns the number as the backward pass will see it.
  double put(void* numbers, int64_t index, double value) const {
    if (!floats) return static_cast<double*>(numbers)[index] = value;
    return double(static_cast<float*>(numbers)[index] = float(value));
  }

  double get(const void* numbers, int64_t index) const {
    return floats ? double(static_cast<const float*>(numbers)[index])
                  : static_cast<const double*>(numbers)[index];
  }

  template <class T>
  const Codec<T>& codec() const {
    if constexpr (sizeof(T) == sizeof(double)) {
      return floats ? CCDN_ISA::codec<float, T> : CCDN_ISA::codec<T, T>;
    } else {
      return CCDN_ISA::codec<T, T>;
    }
  }
};

// A kernel of one sample, Status kernel<T>(job, sample, memory, threads, codec), for elements S.
template <class Job, class S, class T,
          Status (*kernel)(const Job&, int64_t, char*, int, const Codec<T>&)>
Status sample_task(const void* job, int64_t sample, char* memory, int threads) {
  return kernel(*static_cast<const Job*>(job), sample, memory, threads, codec<S, T>);
}

// Its tasks by Dtype, and after them that of float elements in double.
#define CCDN_SAMPLE_TASKS(Job, kernel)                                                             \
  {sample_task<Job, float, float, kernel<float>>,                                                  \
   sample_task<Job, double, double, kernel<double>>,                                               \
   sample_task<Job, BFloat16, float, kernel<float>>, sample_task<Job, Half, float, kernel<float>>, \
   sample_task<Job, float, double, kernel<double>>}

}  // namespace CCDN_ISA
}  // namespace ccdn
