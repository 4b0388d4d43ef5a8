// Whether kernels of this module can start on the current device.
#pragma once

namespace ccdn {

// error: a cudaError_t, 0 where they can, and `words` what CUDA calls it. The versions are those of
// cudaRuntimeGetVersion and cudaDriverGetVersion, such as 13000 for 13.0; 0 where there is none.
struct CudaProbe {
  int error;
  const char* words;
  int runtime, driver;
};

CudaProbe cuda_probe() noexcept;

}  // namespace ccdn
