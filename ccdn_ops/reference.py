"""The literal references, differentiable by plain autograd: for tests, benchmarks and reading."""

from ccdn_ops.backends.reference.dual_squeeze import dual_squeeze

__all__ = ["dual_squeeze"]
