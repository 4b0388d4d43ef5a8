// Kernel launches that do not lose their errors.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "../common/status.h"

namespace ccdn::cuda {

// A launch of clusters of `blocks` blocks, each with so many bytes of dynamic shared memory. The
// configuration points into it. `overlapping` ones begin before the launch before has ended.
struct ClusterLaunch {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attributes[2] = {};

  ClusterLaunch(int64_t clusters, int blocks, size_t bytes, int threads, cudaStream_t stream,
                bool overlapping = false) {
    config.gridDim = dim3(static_cast<unsigned>(clusters * blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = attributes;
    if (blocks > 1) {
      cudaLaunchAttribute& size = attributes[config.numAttrs++];
      size.id = cudaLaunchAttributeClusterDimension;
      size.val.clusterDim.x = static_cast<unsigned>(blocks);
      size.val.clusterDim.y = size.val.clusterDim.z = 1;
    }
    if (overlapping) {
      cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
      overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      overlap.val.programmaticStreamSerializationAllowed = 1;
    }
  }
  ClusterLaunch(const ClusterLaunch&) = delete;
  ClusterLaunch& operator=(const ClusterLaunch&) = delete;
};

// Launches in order on one stream; after the first failure nothing more is launched. Where they are
// `overlapping`, every kernel calls wait_for_last_launch() first: its blocks are in their places
// when the launch before ends, which saves about a microsecond of each launch but the first. That
// one waits for everything that others have launched.
class Launcher {
 public:
  explicit Launcher(void* stream, bool overlapping = false)
      : stream_(static_cast<cudaStream_t>(stream)), overlapping_(overlapping) {
    cudaGetLastError();  // an earlier error is not ours to report
  }

  // `work` pieces, a block for each; kernels walk through them in strides of the grid, so that any
  // number fits.
  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), int64_t work, int threads,
                  const Arguments&... arguments) {
    cluster(kernel, work, 1, 0, threads, arguments...);
  }

  // As many clusters of `blocks` blocks, each with so many bytes of dynamic shared memory.
  template <typename... Parameters, typename... Arguments>
  void cluster(void (*kernel)(Parameters...), int64_t work, int blocks, size_t bytes, int threads,
               const Arguments&... arguments) {
    if (status_ != Status::ok || work == 0) return;
    const int64_t clusters = work < kMaxBlocks / blocks ? work : kMaxBlocks / blocks;
    const ClusterLaunch launch(clusters, blocks, bytes, threads, stream_, overlapping_ && begun_);
    begun_ = true;
    cudaError_t launched = allow(reinterpret_cast<const void*>(kernel), bytes);
    if (launched == cudaSuccess) {
      launched = cudaLaunchKernelEx(&launch.config, kernel, arguments...);
    }
    const cudaError_t last = cudaGetLastError();
    const cudaError_t error = launched != cudaSuccess ? launched : last;
    if (error != cudaSuccess) {
      status_ = static_cast<Status>(static_cast<int>(Status::cuda_error) + static_cast<int>(error));
    }
  }

  Status status() const { return status_; }

 private:
  // More shared memory than a block gets by default.
  static cudaError_t allow(const void* kernel, size_t bytes) {
    if (bytes <= (48 << 10)) return cudaSuccess;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
  }

  static constexpr int64_t kMaxBlocks = int64_t(1) << 30;
  cudaStream_t stream_;
  bool overlapping_, begun_ = false;
  Status status_ = Status::ok;
};

// run(element) with an element of the type that `dtype` names.
template <typename Run>
Status for_element(Dtype dtype, Run run) {
  switch (dtype) {
    case Dtype::f32:
      return run(float{});
    case Dtype::f64:
      return run(double{});
    case Dtype::bf16:
      return run(__nv_bfloat16{});
    case Dtype::f16:
      return run(__half{});
  }
  return Status::unsupported_dtype;
}

}  // namespace ccdn::cuda
