// The PTX instructions that C++ has no words for, from sm_80 on: products of tensor cores, copies
// from device to shared memory that pass by the registers, lanes and clusters.
//
// A warp calls them together. Included as <cuda/instructions.cuh>.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace ccdn::cuda {

// The nearest TF32 number, ten bits behind the point, halves away from zero; NaN stays NaN.
__device__ __forceinline__ float to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
}

// The same number in two instructions instead of eight, for a value whose tf32_rest is used as
// well: a NaN is in the rest, if not here.
__device__ __forceinline__ float tf32_part(float value) {
  return __uint_as_float((__float_as_uint(value) + 0x1000u) & 0xFFFFE000u);
}

// What the part leaves of the value, to eleven bits: 12 bits and a sign are left of 24, so that at
// most the last one of the value is lost.
__device__ __forceinline__ float tf32_rest(float value, float part) {
  return __uint_as_float(__float_as_uint(value - part) & 0xFFFFE000u);
}

__device__ __forceinline__ uint32_t float_bits(float value) { return __float_as_uint(value); }
__device__ __forceinline__ float bits_float(uint32_t bits) { return __uint_as_float(bits); }

// sum[i][j] += a[i] b[j], m16n8k8, with fragments as fragment.h places them.
template <int kRows, int kColumns>
__device__ __forceinline__ void multiply_tf32(float (&sum)[kRows][kColumns][4],
                                              const uint32_t (&a)[kRows][4],
                                              const uint32_t (&b)[kColumns][2]) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      float (&s)[4] = sum[i][j];
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
          : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
    }
  }
}

// The same, m16n8k16, of pairs of bfloat16.
template <int kRows, int kColumns>
__device__ __forceinline__ void multiply_bf16(float (&sum)[kRows][kColumns][4],
                                              const uint32_t (&a)[kRows][4],
                                              const uint32_t (&b)[kColumns][2]) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      float (&s)[4] = sum[i][j];
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
          : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
    }
  }
}

// Four matrices of 8 x 8 numbers of 16 bits from shared memory: matrix i's rows, 16 bytes each, are
// at the addresses of lanes 8 i to 8 i + 7. A lane gets of each the pair (row lane / 4, columns
// lane % 4 * 2 and one more); turned, of its transpose.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(place)
               : "memory");
}

__device__ __forceinline__ void load_matrices_turned(uint32_t (&to)[4], const void* row) {
  const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(place)
               : "memory");
}

// a - b of two pairs of bfloat16, each rounded once.
__device__ __forceinline__ uint32_t subtract_bf16(uint32_t a, uint32_t b) {
  uint32_t result;
  // b times minus one, plus a: sm_80 has no subtraction of these.
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(b), "r"(0xBF80BF80u), "r"(a));
  return result;
}

// Copies 16 bytes into shared memory, or zeros if they are not `inside`. They are there when the
// copy's group has been waited for; for other threads, after a barrier.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool inside) {
  const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(place), "l"(from), "r"(inside ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most this many of the thread's groups are under way.
template <int kGroups>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// The value of the lane whose number differs in the bits of the mask.
__device__ __forceinline__ double from_lane(double value, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}

// A kernel that is launched as overlapping (launch.cuh) begins while the launch before it still
// runs, and calls this before it touches memory: it waits until that launch, and with it all
// before, has ended and what they wrote is visible. From here on the next launch may begin as well.
__device__ __forceinline__ void wait_for_last_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The number itself, but the compiler does not know that: what a loop computes from it is not moved
// in front of the loop, where it would take registers all the time.
__device__ __forceinline__ int made_here(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// Clusters: blocks that run at the same time and reach each other's shared memory, from sm_90 on. A
// kernel for several blocks is empty on older ones, where it is not launched.
constexpr __host__ __device__ bool has_clusters(int blocks) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  return blocks == 1;
#else
  return blocks >= 1;
#endif
}

// The dynamic shared memory of this block, as large as the launch says.
template <typename Memory>
__device__ __forceinline__ Memory& block_memory() {
  extern __shared__ __align__(16) unsigned char bytes_of_block[];
  return *reinterpret_cast<Memory*>(bytes_of_block);
}

// The number of this block in its cluster of kBlocks.
template <int kBlocks>
__device__ __forceinline__ int cluster_rank() {
  return static_cast<int>(blockIdx.x % kBlocks);  // clusters are made of neighbours
}

// Waits for all threads of the cluster; what they wrote before is then visible to all of them.
template <int kBlocks>
__device__ __forceinline__ void cluster_barrier() {
  if constexpr (kBlocks == 1) {
    __syncthreads();
  } else {
    asm volatile(
        "barrier.cluster.arrive.release.aligned;\n\t"
        "barrier.cluster.wait.acquire.aligned;"
        :
        :
        : "memory");
  }
}

// The address in the shared memory of the cluster's block `rank` that corresponds to `mine` here.
template <int kBlocks, typename Number>
__device__ __forceinline__ Number* of_block(Number* mine, int rank) {
  if constexpr (kBlocks == 1) {
    return mine;
  } else {
    uint64_t place;
    asm("mapa.u64 %0, %1, %2;"
        : "=l"(place)
        : "l"(reinterpret_cast<uint64_t>(mine)), "r"(static_cast<uint32_t>(rank)));
    return reinterpret_cast<Number*>(place);
  }
}

// Numbers that the blocks of a cluster send each other, counted in bytes where they arrive, so that
// a block waits for them and nothing else. A barrier of the cluster costs more: to make everything
// visible it first waits until all writes, including those to device memory, have reached L2, and
// then empties L1.

// By one thread, before a barrier of the cluster. `arrivals` is in shared memory.
__device__ __forceinline__ void begin_arrivals(uint64_t* arrivals) {
  const auto place = static_cast<uint32_t>(__cvta_generic_to_shared(arrivals));
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\n\t"
      "fence.mbarrier_init.release.cluster;"
      :
      : "r"(place)
      : "memory");
}

// By one thread for each phase: the phase ends when this many bytes have arrived.
__device__ __forceinline__ void expect_arrivals(uint64_t* arrivals, int bytes) {
  const auto place = static_cast<uint32_t>(__cvta_generic_to_shared(arrivals));
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
               :
               : "r"(place), "r"(bytes)
               : "memory");
}

// Waits until the phase of this parity, 0 for the first one, has ended; what arrived is visible.
__device__ __forceinline__ void wait_for_arrivals(uint64_t* arrivals, int parity) {
  const auto place = static_cast<uint32_t>(__cvta_generic_to_shared(arrivals));
  asm volatile(
      "{\n\t"
      ".reg .pred ended;\n"
      "again:\n\t"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 ended, [%0], %1;\n\t"
      "@!ended bra again;\n\t"
      "}"
      :
      : "r"(place), "r"(parity)
      : "memory");
}

// Sends value to the address in block `rank` that corresponds to `mine`, where it counts as
// arrived.
template <typename Number>
__device__ __forceinline__ void send(Number* mine, Number value, uint64_t* arrivals, int rank) {
  uint32_t to, counted;
  const auto place = static_cast<uint32_t>(__cvta_generic_to_shared(mine));
  const auto counter = static_cast<uint32_t>(__cvta_generic_to_shared(arrivals));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(place), "r"(rank));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counted) : "r"(counter), "r"(rank));
  if constexpr (sizeof(Number) == 8) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];"
                 :
                 : "r"(to), "l"(__double_as_longlong(value)), "r"(counted)
                 : "memory");
  } else {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];"
                 :
                 : "r"(to), "r"(__float_as_uint(value)), "r"(counted)
                 : "memory");
  }
}

}  // namespace ccdn::cuda
