"""Plain PyTorch, written to be read beside the paper; differentiable by autograd."""

from ccdn_ops.backends.reference.cocs_loss import cocs_loss
from ccdn_ops.backends.reference.covariance_pool import covariance_pool
from ccdn_ops.backends.reference.ctm import ctm
from ccdn_ops.backends.reference.dual_squeeze import dual_squeeze
from ccdn_ops.backends.reference.excitation_gates import excitation_gates
from ccdn_ops.backends.reference.isqrt_cov import isqrt_cov
from ccdn_ops.backends.reference.multi_excite import multi_excite
from ccdn_ops.backends.reference.newton_schulz_sqrt import newton_schulz_sqrt
from ccdn_ops.backends.reference.second_order_squeeze import second_order_squeeze

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
