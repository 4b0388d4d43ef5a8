"""The operators in the fastest plain PyTorch we know: the fairest baselines for native kernels.

Each uses the algorithm of the kernels as far as PyTorch's own operators allow, with a hand-written
gradient, so the kernels' remaining advantage is their arithmetic and memory traffic. They take
float32, trust their arguments, and do not handle constant samples; the benchmarks check results.
"""

from best_eager.cocs_loss import cocs_loss
from best_eager.covariance_pool import covariance_pool
from best_eager.ctm import ctm
from best_eager.dual_squeeze import dual_squeeze
from best_eager.eigh import eigh_isqrt_cov, eigh_sqrt
from best_eager.exact import exact_isqrt_cov, exact_sqrt
from best_eager.excitation_gates import excitation_gates
from best_eager.isqrt_cov import isqrt_cov
from best_eager.multi_excite import multi_excite
from best_eager.newton_schulz_roots import newton_schulz_roots
from best_eager.newton_schulz_sqrt import newton_schulz_sqrt

__all__ = [
    "cocs_loss",
    "covariance_pool",
    "ctm",
    "dual_squeeze",
    "eigh_isqrt_cov",
    "eigh_sqrt",
    "exact_isqrt_cov",
    "exact_sqrt",
    "excitation_gates",
    "isqrt_cov",
    "multi_excite",
    "newton_schulz_roots",
    "newton_schulz_sqrt",
]
