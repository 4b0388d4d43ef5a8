// Chebyshev recurrences t_{j+1} = 2 M t_j - t_{j-1}, M = 2 C / tr - 1, one block for each sample.
//
// The matrix C is symmetric, in the accumulation type, and stays in L2; the vectors are float64,
// because on the positions side a float32 recurrence is not accurate enough for the gradient.
#pragma once

#include <cstdint>

namespace ccdn::cuda {

constexpr int kRecurrenceThreads = 512;

// Coefficients travel by value: the host's array need not outlive the launch, and a captured graph
// keeps its own copy. 448 float64 stay below the 4 KB that every architecture passes.
constexpr int kMaxTerms = 448;

struct Coefficients {
  int terms;
  double c[kMaxTerms];
};

// Where the vectors of one sample's adjoint recurrence lie, as rows of n float64. The first pairs()
// rows are what the gradient with respect to C is made of, each paired with another: that gradient
// is a sum of outer products of paired rows, (adjoint of t_j, t_j) and (upstream gradient, q(A) v).
struct AdjointRows {
  int terms;
  int64_t n;

  __host__ __device__ int64_t steps() const { return terms - 1; }
  __host__ __device__ int64_t adjoint(int64_t j) const { return j * n; }
  // t_j; the last of them is in no pair.
  __host__ __device__ int64_t chebyshev(int64_t j) const {
    return (j < steps() ? steps() + j : 2 * steps() + 2) * n;
  }
  __host__ __device__ int64_t upstream() const { return 2 * steps() * n; }
  __host__ __device__ int64_t result() const { return (2 * steps() + 1) * n; }
  // Gradient with respect to the result q(A) v, and with respect to v.
  __host__ __device__ int64_t result_gradient() const { return (2 * steps() + 3) * n; }
  __host__ __device__ int64_t start_gradient() const { return (2 * steps() + 4) * n; }
  __host__ __device__ int64_t size() const { return (2 * steps() + 5) * n; }
  // The channels side has the last pair; on the positions side v depends on x instead.
  __host__ __device__ int64_t pairs(bool with_upstream) const {
    return 2 * steps() + (with_upstream ? 2 : 0);
  }
  __host__ __device__ int64_t partner(int64_t row) const {
    if (row < steps()) return row + steps();
    if (row < 2 * steps()) return row - steps();
    return row == 2 * steps() ? row + 1 : row - 1;
  }
};

// then(i, sum over k of matrix(k, i) vector[k]) for every i < n, called by the same thread for the
// same i every time. Every thread of the block must call it; what the block wrote before is visible
// inside, and what `then` writes is visible after.
template <typename Acc, typename Then>
__device__ __forceinline__ void symmetric_product(const Acc* matrix, int64_t n,
                                                  const double* vector, Then then) {
  __shared__ double chunk[kRecurrenceThreads];
  __shared__ double parts[kRecurrenceThreads];
  const int padded =
      static_cast<int>(n < kRecurrenceThreads ? (n + 31) / 32 * 32 : kRecurrenceThreads);
  const int groups = kRecurrenceThreads / padded;
  const int group = threadIdx.x / padded, column = threadIdx.x % padded;
  for (int64_t i0 = 0; i0 < n; i0 += padded) {
    const int64_t i = i0 + column;
    double sum = 0;
    for (int64_t k0 = 0; k0 < n; k0 += kRecurrenceThreads) {
      const int length =
          static_cast<int>(n - k0 < kRecurrenceThreads ? n - k0 : kRecurrenceThreads);
      __syncthreads();
      if (threadIdx.x < static_cast<unsigned>(length))
        chunk[threadIdx.x] = vector[k0 + threadIdx.x];
      __syncthreads();
      if (group < groups && i < n) {
        const Acc* entry = matrix + k0 * n + i;
#pragma unroll 4
        for (int k = group; k < length; k += groups) sum += double(entry[k * n]) * chunk[k];
      }
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    if (group == 0 && i < n) {
      double whole = sum;
      for (int g = 1; g < groups; ++g) whole += parts[g * padded + column];
      then(i, whole);
    }
  }
  __syncthreads();
}

// The sum of `part` over the block's threads, the same bits in every thread.
__device__ inline double block_sum(double part) {
  __shared__ double sums[kRecurrenceThreads];
  sums[threadIdx.x] = part;
  __syncthreads();
  for (int half = kRecurrenceThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < static_cast<unsigned>(half)) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  const double result = sums[0];
  __syncthreads();
  return result;
}

// result = q(C / trace) v. `row(j)` says where t_j is kept; row(0) holds v on entry.
template <typename Acc, typename Row>
__device__ void chebyshev_sum(const Acc* matrix, int64_t n, double trace,
                              const Coefficients& coefficients, Row row, double* result) {
  for (int64_t i = threadIdx.x; i < n; i += kRecurrenceThreads) {
    result[i] = coefficients.c[0] * row(0)[i];
  }
  for (int j = 1; j < coefficients.terms; ++j) {
    const double* last = row(j - 1);
    const double* before = row(j > 1 ? j - 2 : 0);
    double* next = row(j);
    symmetric_product(matrix, n, last, [=, &coefficients](int64_t i, double sum) {
      const double moved = 2 * sum / trace - last[i];
      const double value = j > 1 ? 2 * moved - before[i] : moved;
      next[i] = value;
      result[i] += coefficients.c[j] * value;
    });
  }
  __syncthreads();
}

// The reverse of chebyshev_sum: from the gradient of its result, the rows adjoint(0 ... terms - 2)
// whose outer products with t_j are the gradient with respect to C / trace, the gradient of v, and
// (returned to every thread) the inner product of C / trace with its gradient.
template <typename Acc>
__device__ double chebyshev_adjoint(const Acc* matrix, double trace,
                                    const Coefficients& coefficients, AdjointRows rows,
                                    double* base) {
  const int64_t n = rows.n;
  const double* upstream = base + rows.result_gradient();
  double* start = base + rows.start_gradient();
  // adjoint(j) holds 2 tbar_{j+1}, where tbar_j = c_j ybar + 2 M tbar_{j+1} - tbar_{j+2}, but for
  // the last step: tbar_0 = c_0 ybar + M tbar_1 - tbar_2.
  double inner = 0;
  for (int64_t j = rows.steps(); j >= 0; --j) {
    const bool has_next = j < rows.steps(), has_second = j + 1 < rows.steps();
    const double* next = has_next ? base + rows.adjoint(j) : nullptr;
    const double* second = has_second ? base + rows.adjoint(j + 1) : nullptr;
    const double* t = base + rows.chebyshev(j);
    double* out = j > 0 ? base + rows.adjoint(j - 1) : start;
    const double weight = j > 0 ? 2 : 1, half = j > 0 ? 1 : 0.5;
    const double own = weight * coefficients.c[j];
    if (!has_next) {
      __syncthreads();
      for (int64_t i = threadIdx.x; i < n; i += kRecurrenceThreads) out[i] = own * upstream[i];
      continue;
    }
    symmetric_product(matrix, n, next, [=, &inner](int64_t i, double sum) {
      const double moved = 2 * sum / trace - next[i];
      inner += half * t[i] * (moved + next[i]);
      out[i] = own * upstream[i] + weight * half * moved - half * (has_second ? second[i] : 0);
    });
  }
  // 2 tbar_1 becomes tbar_1: t_1 = M t_0 has no factor 2.
  if (rows.steps() > 0) {
    double* first = base + rows.adjoint(0);
    for (int64_t i = threadIdx.x; i < n; i += kRecurrenceThreads) first[i] /= 2;
  }
  return block_sum(inner);
}

}  // namespace ccdn::cuda
