"""Kernels in CUDA C++ (csrc/cuda), called through the native module."""
