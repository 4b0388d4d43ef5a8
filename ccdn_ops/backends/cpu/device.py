"""Which calls the native CPU kernels can serve; the answer is the same for every operator."""

from __future__ import annotations

from torch import Tensor

from ccdn_ops.backends import native


def supports(x: Tensor, *_: object) -> str | None:
    """Why the CPU kernels cannot serve a call with this first tensor; None if they can."""
    if x.device.type != "cpu":
        return f"the native CPU kernels serve CPU tensors, not {x.device.type}"
    return native.why_missing()
