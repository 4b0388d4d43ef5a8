"""Which calls the CUDA kernels can serve; the answer is the same for every operator."""

from __future__ import annotations

from torch import Tensor

from ccdn_ops.backends import native


def supports(x: Tensor, *_: object) -> str | None:
    """Why the CUDA kernels cannot serve a call with this first tensor; None if they can."""
    if x.device.type != "cuda":
        return f"the CUDA kernels serve CUDA tensors, not tensors on {x.device.type}"
    return native.why_no_cuda_kernels(x.device)
