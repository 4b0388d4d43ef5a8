"""The operators of CCDN: fast, differentiable, each with a readable reference.

ccdn_ops/ops/__init__.py explains how an operator is put together; `python -m ccdn_ops` shows what
is built and which backend serves each operator.
"""

from ccdn_ops import reference
from ccdn_ops._version import __version__
from ccdn_ops.backends.registry import use_backend
from ccdn_ops.flops import count_our_operators as _count_our_operators
from ccdn_ops.ops.cocs_loss import cocs_loss
from ccdn_ops.ops.covariance_pool import covariance_pool
from ccdn_ops.ops.ctm import ctm
from ccdn_ops.ops.dual_squeeze import dual_squeeze
from ccdn_ops.ops.excitation_gates import excitation_gates
from ccdn_ops.ops.isqrt_cov import isqrt_cov
from ccdn_ops.ops.multi_excite import multi_excite
from ccdn_ops.ops.newton_schulz_roots import newton_schulz_roots
from ccdn_ops.ops.newton_schulz_sqrt import newton_schulz_sqrt
from ccdn_ops.ops.second_order_squeeze import second_order_squeeze
from ccdn_ops.report import explain
from ccdn_ops.swap import swap_functions, swap_second_order, swap_squeeze_excite, unswap

_count_our_operators()

__all__ = [
    "__version__",
    "cocs_loss",
    "covariance_pool",
    "ctm",
    "dual_squeeze",
    "excitation_gates",
    "explain",
    "isqrt_cov",
    "multi_excite",
    "newton_schulz_roots",
    "newton_schulz_sqrt",
    "reference",
    "second_order_squeeze",
    "swap_functions",
    "swap_second_order",
    "swap_squeeze_excite",
    "unswap",
    "use_backend",
]
