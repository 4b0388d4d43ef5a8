"""The literal references, differentiable by plain autograd: for tests, benchmarks and reading."""

from ccdn_ops.ops.cocs_loss.reference import cocs_loss
from ccdn_ops.ops.covariance_pool.reference import covariance_pool
from ccdn_ops.ops.ctm.reference import ctm
from ccdn_ops.ops.dual_squeeze.reference import dual_squeeze
from ccdn_ops.ops.excitation_gates.reference import excitation_gates
from ccdn_ops.ops.isqrt_cov.reference import isqrt_cov
from ccdn_ops.ops.multi_excite.reference import multi_excite
from ccdn_ops.ops.newton_schulz_sqrt.reference import newton_schulz_sqrt
from ccdn_ops.ops.second_order_squeeze.reference import second_order_squeeze

__all__ = [
    "cocs_loss",
    "covariance_pool",
    "ctm",
    "dual_squeeze",
    "excitation_gates",
    "isqrt_cov",
    "multi_excite",
    "newton_schulz_sqrt",
    "second_order_squeeze",
]
