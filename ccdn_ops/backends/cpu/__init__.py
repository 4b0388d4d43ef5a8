"""The native C++ kernels for CPU tensors."""
