// Kernels with one fault each, or none, that change no value when threads and blocks run one after
// another: what races.cpp has to find.
#include <cuda_runtime.h>

#include <cuda/instructions.cuh>

namespace {

enum class Fault {
  none,
  no_barrier_before_reading,
  no_barrier_after_reading,
  barrier_too_early,
  two_writers,
  nothing_written,
  copy_not_awaited,
  copy_without_barrier,
  copy_too_early,
  blocks_write_the_same,
  blocks_read_each_other,
  matrices_without_barrier,
};

constexpr int kThreads = 64, kRounds = 3;

template <Fault kFault>
void faulty(float* numbers) {
  alignas(16) __shared__ float values[kThreads * 4];
  const unsigned t = threadIdx.x, next = (t + 1) % kThreads;
  float sum = 0;
  for (int round = 0; round < kRounds; ++round) {
    if (kFault != Fault::nothing_written) values[t] = float(round);
    if (kFault == Fault::two_writers) values[kThreads] = 1;
    if (kFault == Fault::barrier_too_early) {
      __syncthreads();
      values[t] = float(round);
    } else if (kFault != Fault::no_barrier_before_reading) {
      __syncthreads();
    }
    sum += values[next];
    if (kFault != Fault::no_barrier_after_reading) __syncthreads();
  }

  float* mine = numbers + (blockIdx.x * kThreads + t) * 4;
  ccdn::cuda::copy_async(values + t * 4, mine, true);
  ccdn::cuda::commit_copies();
  if (kFault != Fault::copy_not_awaited) ccdn::cuda::wait_for_copies<0>();
  if (kFault != Fault::copy_without_barrier) __syncthreads();
  sum += values[next * 4];
  if (kFault != Fault::copy_too_early) __syncthreads();
  ccdn::cuda::copy_async(values + t * 4, mine, false);
  ccdn::cuda::commit_copies();
  ccdn::cuda::wait_for_copies<0>();
  __syncthreads();

  values[t * 4] = sum;
  if (kFault != Fault::matrices_without_barrier) __syncthreads();
  uint32_t matrices[4];
  ccdn::cuda::load_matrices(matrices, values + next * 4);
  sum += float(matrices[0]);

  mine[0] = sum;
  if (kFault == Fault::blocks_write_the_same) numbers[1] = 1;
  if (kFault == Fault::blocks_read_each_other) {
    mine[2] = numbers[((blockIdx.x + 1) % gridDim.x * kThreads + t) * 4];
  }
}

template <int... kNumbers>
auto table(std::integer_sequence<int, kNumbers...>) {
  return std::vector<void (*)(float*)>{faulty<Fault(kNumbers)>...};
}

}  // namespace

// Runs the kernel of a fault on two blocks; false if no fault has this number.
extern "C" __attribute__((visibility("default"))) bool emulated_fault(unsigned number) {
  const auto kernels = table(std::make_integer_sequence<int, 12>());
  if (number >= kernels.size()) return false;
  std::vector<float> numbers(2 * kThreads * 4 + 4);
  auto* aligned = numbers.data();
  while (reinterpret_cast<uintptr_t>(aligned) % 16 != 0) ++aligned;
  cudaLaunchConfig_t config;
  config.gridDim = dim3(2);
  config.blockDim = dim3(kThreads);
  config.stream = emulation::expected_stream;
  return cudaLaunchKernelEx(&config, kernels[number], aligned) == cudaSuccess;
}
