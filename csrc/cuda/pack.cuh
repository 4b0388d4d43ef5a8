// Loads and stores of 16 bytes, and the divisions that find a place in a map.
#pragma once

#include <cstdint>

#include "element.cuh"

namespace ccdn::cuda {

// V neighbours in memory, moved at once (in pieces of 16 bytes).
template <typename T, int V>
struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) Pack {
  T value[V];
};

// How many elements 16 bytes hold.
template <typename T>
inline constexpr int kPack = 16 / int(sizeof(T));

inline bool aligned(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % 16 == 0;
}

template <typename T, int V>
__device__ __forceinline__ void load_wide(const T* from, Accumulator<T> (&to)[V]) {
  const auto pack = *reinterpret_cast<const Pack<T, V>*>(from);
#pragma unroll
  for (int v = 0; v < V; ++v) to[v] = Element<T>::load(pack.value[v]);
}

template <typename T, int V>
__device__ __forceinline__ void store_narrow(T* to, const Accumulator<T> (&from)[V]) {
  Pack<T, V> pack;
#pragma unroll
  for (int v = 0; v < V; ++v) pack.value[v] = Element<T>::store(from[v]);
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

inline __host__ __device__ int64_t round_up_quotient(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// a / b of numbers from 0 on. A 64-bit division takes a hundred instructions, a 32-bit one twenty.
inline __host__ __device__ int64_t quotient(int64_t a, int64_t b) {
  if (((a | b) >> 32) != 0) return a / b;
  return int64_t(static_cast<uint32_t>(a) / static_cast<uint32_t>(b));
}

// The smallest power of two that is not below `count`, but at most `limit` (one, too).
inline __host__ __device__ int power_of_two(int64_t count, int limit) {
  int result = 1;
  while (result < limit && result < count) result *= 2;
  return result;
}

}  // namespace ccdn::cuda
