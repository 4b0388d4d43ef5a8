"""Every operator: its schema, its fake kernel, its batching rule, and what a backend must provide.

An operator X is two raw operators, `ccdn::X` and `ccdn::X_backward`, defined in X.py of this
folder, whose head says what goes in and out. Their kernels look up the backend when they run
(backends/registry.py), so they are opaque to torch.compile. Autograd is not here but in ops/X.py.

What the forward pass saves is defined by mathematics alone, so forward and backward may come from
different backends. Autocast is off while a backend runs.
"""

from ccdn_ops.schemas import (  # noqa: F401
    cocs_loss,
    covariance_pool,
    ctm,
    dual_squeeze,
    excitation_gates,
    isqrt_cov,
    multi_excite,
    newton_schulz_sqrt,
)
