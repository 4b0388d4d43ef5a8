// Chebyshev recurrences t_{j+1} = 2 M t_j - t_{j-1}, M = 2 C / tr - 1, one block for each sample.
//
// The matrix C is symmetric, in the accumulation type, and stays in L2; the vectors are float64,
// because on the positions side a float32 recurrence is not accurate enough for the gradient.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace ccdn::cuda {

constexpr int kRecurrenceThreads = 512;

// Coefficients travel by value: the host's array need not outlive the launch, nothing is copied to
// the device beforehand, and a captured graph keeps its own copy. 448 float64 stay below the 4 KB
// that every architecture passes.
constexpr int kMaxTerms = 448;

struct Coefficients {
  int terms;
  double c[kMaxTerms];
};

// What the gradient needs of the plan's table: c, the coefficients of q + 2 t q', `rank` rows R and
// `rank` numbers, each of which makes a row L of its row R. In float32 and for K <= 5 it is short
// enough to travel with the kernel that reads it; store_numbers writes a longer one to memory.
struct GradientTable {
  int terms, rank;

  __host__ __device__ int64_t right(int64_t r) const { return (2 + r) * terms; }
  __host__ __device__ int64_t factors() const { return right(rank); }
  __host__ __device__ int64_t size() const { return factors() + rank; }
  __host__ __device__ bool travels() const { return size() <= kMaxTerms; }
};

// Where the vectors of one sample's backward pass lie, as rows of n float64. The first pairs() rows
// are what the gradient with respect to C is made of, each paired with another: that gradient is a
// sum of outer products of paired rows, `rank` thin factors (ccdn_ops/plans.py) and, on the
// channels side, (upstream gradient, q(A) v).
struct AdjointRows {
  int terms, rank;
  int64_t n;

  __host__ __device__ int64_t left(int64_t r) const { return r * n; }
  __host__ __device__ int64_t right(int64_t r) const { return (rank + r) * n; }
  __host__ __device__ int64_t upstream() const { return 2 * int64_t(rank) * n; }
  __host__ __device__ int64_t result() const { return upstream() + n; }
  // Gradient with respect to v.
  __host__ __device__ int64_t start_gradient() const { return upstream() + 2 * n; }
  // t_j = T_j(M) v, and s_j = T_j(M) (gradient with respect to the result q(A) v).
  __host__ __device__ int64_t t(int64_t j) const { return upstream() + (3 + j) * n; }
  __host__ __device__ int64_t s(int64_t j) const { return t(terms) + j * n; }
  __host__ __device__ int64_t size() const { return s(terms); }

  // On the positions side v depends on x instead of a last pair.
  static __host__ __device__ int64_t pairs(int64_t rank, bool with_upstream) {
    return 2 * rank + (with_upstream ? 2 : 0);
  }
  __host__ __device__ int64_t partner(int64_t row) const {
    if (row < rank) return row + rank;
    if (row < 2 * rank) return row - rank;
    return row == 2 * rank ? row + 1 : row - 1;
  }
};

// then(i, sums) for every i < n, where sums[v] is the sum over k of matrix(k, i) vectors[v][k]: the
// matrix is read once for all kCount vectors. `then` is called by the same thread for the same i
// every time. Every thread of the block must call it; what the block wrote before is visible
// inside, and what `then` writes is visible after.
template <int kCount, typename Acc, typename Then>
__device__ __forceinline__ void symmetric_products(const Acc* matrix, int64_t n,
                                                   const double* const (&vectors)[kCount],
                                                   Then then) {
  __shared__ double chunk[kCount][kRecurrenceThreads];
  __shared__ double parts[kCount][kRecurrenceThreads];
  const int padded =
      static_cast<int>(n < kRecurrenceThreads ? (n + 31) / 32 * 32 : kRecurrenceThreads);
  const int groups = kRecurrenceThreads / padded;
  const int group = threadIdx.x / padded, column = threadIdx.x % padded;
  for (int64_t i0 = 0; i0 < n; i0 += padded) {
    const int64_t i = i0 + column;
    double sum[kCount] = {};
    for (int64_t k0 = 0; k0 < n; k0 += kRecurrenceThreads) {
      const int length =
          static_cast<int>(n - k0 < kRecurrenceThreads ? n - k0 : kRecurrenceThreads);
      __syncthreads();
      if (threadIdx.x < static_cast<unsigned>(length)) {
#pragma unroll
        for (int v = 0; v < kCount; ++v) chunk[v][threadIdx.x] = vectors[v][k0 + threadIdx.x];
      }
      __syncthreads();
      if (group < groups && i < n) {
        const Acc* entry = matrix + k0 * n + i;
#pragma unroll 12
        for (int k = group; k < length; k += groups) {
          const double value = double(entry[k * n]);
#pragma unroll
          for (int v = 0; v < kCount; ++v) sum[v] += value * chunk[v][k];
        }
      }
    }
#pragma unroll
    for (int v = 0; v < kCount; ++v) parts[v][threadIdx.x] = sum[v];
    __syncthreads();
    if (group == 0 && i < n) {
      for (int g = 1; g < groups; ++g) {
#pragma unroll
        for (int v = 0; v < kCount; ++v) sum[v] += parts[v][g * padded + column];
      }
      then(i, sum);
    }
  }
  __syncthreads();
}

// The same for one vector: then(i, sum).
template <typename Acc, typename Then>
__device__ __forceinline__ void symmetric_product(const Acc* matrix, int64_t n,
                                                  const double* vector, Then then) {
  const double* const vectors[1] = {vector};
  symmetric_products<1>(matrix, n, vectors,
                        [&](int64_t i, const double (&sum)[1]) { then(i, sum[0]); });
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
  const double twice = 2 / trace;
  for (int64_t i = threadIdx.x; i < n; i += kRecurrenceThreads) {
    result[i] = coefficients.c[0] * row(0)[i];
  }
  for (int j = 1; j < coefficients.terms; ++j) {
    const double* last = row(j - 1);
    const double* before = row(j > 1 ? j - 2 : 0);
    double* next = row(j);
    symmetric_product(matrix, n, last, [=, &coefficients](int64_t i, double sum) {
      const double moved = twice * sum - last[i];
      const double value = j > 1 ? 2 * moved - before[i] : moved;
      next[i] = value;
      result[i] += coefficients.c[j] * value;
    });
  }
  __syncthreads();
}

// Entries `begin` to begin + count of the gradient's rows L s, R t, c t, c s, of the recurrences'
// vectors: an entry for each of so many threads, neighbours side by side.
__device__ inline void combine_terms(const double* table, AdjointRows rows, double* base,
                                     int64_t begin, int64_t count, int thread, int threads) {
  const int64_t n = rows.n;
  const int terms = rows.terms, rank = rows.rank;
  const GradientTable numbers = {terms, rank};
  for (int64_t e = thread; e < (2 * rank + 2) * count; e += threads) {
    const int64_t row = e / count, i = begin + e - row * count;
    const bool factor = row < 2 * rank, of_s = factor ? row < rank : row > 2 * rank;
    const double* weights = table + (factor ? numbers.right(row % rank) : 0);
    const double* x = base + (of_s ? rows.s(0) : rows.t(0)) + i;
    double sum = 0;
#pragma unroll 8
    for (int j = 0; j < terms; ++j) sum += weights[j] * x[j * n];
    if (row < rank) sum *= table[numbers.factors() + row];
    const int64_t to = factor ? row * n : of_s ? rows.start_gradient() : rows.result();
    base[to + i] = sum;
  }
}

// Entry i of s_0 times that of (q + 2 t q')(A) v.
__device__ inline double radial_term(const double* table, AdjointRows rows, const double* base,
                                     int64_t i) {
  const double* t = base + rows.t(0) + i;
  double sum = 0;
#pragma unroll 8
  for (int j = 0; j < rows.terms; ++j) sum += table[rows.terms + j] * t[j * rows.n];
  return base[rows.s(0) + i] * sum;
}

// The reverse of chebyshev_sum, from t_0 = v and s_0, the gradient with respect to its result. Both
// recurrences go through the matrix together; then their vectors are combined into the rows of the
// gradient. `table` is a GradientTable's numbers. Returned to every thread: s_0 (q + 2 t q')(A) v.
template <typename Acc>
__device__ double chebyshev_adjoint(const Acc* matrix, double trace, const double* table,
                                    AdjointRows rows, double* base) {
  const int64_t n = rows.n;
  const int terms = rows.terms;
  const double twice = 2 / trace;
  double *t = base + rows.t(0), *s = base + rows.s(0);
  for (int j = 1; j < terms; ++j) {
    const double* const last[2] = {t + (j - 1) * n, s + (j - 1) * n};
    symmetric_products<2>(matrix, n, last, [=](int64_t i, const double (&sum)[2]) {
      const int64_t at = j * n + i;
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        double* x = v ? s : t;
        const double moved = twice * sum[v] - x[at - n];
        x[at] = j > 1 ? 2 * moved - x[at - 2 * n] : moved;
      }
    });
  }
  __syncthreads();
  combine_terms(table, rows, base, 0, n, threadIdx.x, kRecurrenceThreads);
  double radial = 0;
  for (int64_t i = threadIdx.x; i < n; i += kRecurrenceThreads) {
    radial += radial_term(table, rows, base, i);
  }
  return block_sum(radial);
}

}  // namespace ccdn::cuda
