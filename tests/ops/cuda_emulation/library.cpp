// The CUDA kernels as a library for the CPU; tests/ops/cuda_emulation/__init__.py compiles it.
#include "cuda/dual_squeeze.cu"

extern "C" {

int64_t emulated_workspace(const ccdn::DualSqueezeShape* shape, int backward) {
  return ccdn::dual_squeeze_workspace_cuda(*shape, backward != 0);
}

int emulated_forward(const ccdn::DualSqueezeShape* shape, const void* x, void* first, void* second,
                     void* mean, void* trace, void* gram, void* workspace) {
  return int(ccdn::dual_squeeze_forward_cuda(*shape, x, first, second, mean, trace, gram, workspace,
                                             nullptr));
}

int emulated_backward(const ccdn::DualSqueezeShape* shape, const void* grad_first,
                      const void* grad_second, const void* x, const void* mean, const void* trace,
                      const void* gram, void* grad_x, void* workspace) {
  return int(ccdn::dual_squeeze_backward_cuda(*shape, grad_first, grad_second, x, mean, trace, gram,
                                              grad_x, workspace, nullptr));
}

void emulated_settings(unsigned thread_order, unsigned largest_grid) {
  emulation::thread_order = thread_order;
  emulation::largest_grid = largest_grid;
}

int64_t emulated_launches() { return emulation::launches; }

int emulated_max_terms() { return ccdn::cuda::kMaxTerms; }
}
