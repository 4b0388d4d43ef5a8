// Where the numbers of symmetric matrices are: plain arithmetic, for host, device and tests.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

namespace ccdn::cuda {

// A matrix in panels: panel after panel of so many columns, 128 bytes a row, each n rows, the
// columns behind the last one 0 (ccdn_ops/newton_schulz_plan.py).
template <typename Acc>
inline constexpr int kPanelColumns = 128 / int(sizeof(Acc));

template <typename Acc>
inline __host__ __device__ int64_t panel_count(int64_t n) {
  return (n + kPanelColumns<Acc> - 1) / kPanelColumns<Acc>;
}

// Numbers of a matrix in panels.
template <typename Acc>
inline __host__ __device__ int64_t panel_size(int64_t n) {
  return panel_count<Acc>(n) * n * kPanelColumns<Acc>;
}

template <typename Acc>
inline __host__ __device__ int64_t panel_place(int64_t i, int64_t j, int64_t n) {
  return (j / kPanelColumns<Acc> * n + i) * kPanelColumns<Acc> + j % kPanelColumns<Acc>;
}

// Where entry (i, j) of an n x n matrix in rows is, or i <= j of its upper triangle row by row.
inline __host__ __device__ int64_t row_place(int64_t i, int64_t j, int64_t n, bool triangle) {
  return triangle ? i * (2 * n - 1 - i) / 2 + j : i * n + j;
}

inline __host__ __device__ int64_t row_size(int64_t n, bool triangle) {
  return triangle ? n * (n + 1) / 2 : n * n;
}

// The tiles on and below the diagonal: (0, 0), (1, 0), (1, 1), (2, 0), ...
struct TriangleTile {
  int64_t row, column;

  static __host__ __device__ int64_t count(int64_t across) { return across * (across + 1) / 2; }

  explicit __host__ __device__ TriangleTile(int64_t number) {
    // The root is right to a few of 2^52; what it is off by is mended.
    row = int64_t((sqrt(8.0 * double(number) + 1) - 1) / 2);
    while (count(row) > number) --row;
    while (count(row + 1) <= number) ++row;
    column = number - count(row);
  }
};

}  // namespace ccdn::cuda
