// A device of the right architecture may still refuse every launch: the runtime that is linked into
// this module asks for a driver, and torch's own runtime may be content with an older one. So the
// module asks, once a process and device, what the driver makes of a kernel; nothing runs.
#include <cuda_runtime.h>

#include "../common/probe.h"

namespace ccdn {
namespace cuda {

__global__ void probe() {}

}  // namespace cuda

CudaProbe cuda_probe() noexcept {
  CudaProbe found = {};
  cudaRuntimeGetVersion(&found.runtime);
  cudaDriverGetVersion(&found.driver);
  cudaFuncAttributes attributes;
  const cudaError_t error =
      cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(cuda::probe));
  cudaGetLastError();  // the answer is given here, not to a launch to come
  found.error = static_cast<int>(error);
  found.words = cudaGetErrorString(error);
  return found;
}

}  // namespace ccdn
