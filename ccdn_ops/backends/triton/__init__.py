"""Kernels in Triton, for CUDA devices; on CPU tensors under TRITON_INTERPRET=1, for tests."""
