"""Plain PyTorch, written to be read beside the paper; differentiable by autograd."""

from ccdn_ops.backends.reference.cocs_loss import cocs_loss
from ccdn_ops.backends.reference.ctm import ctm
from ccdn_ops.backends.reference.dual_squeeze import dual_squeeze
from ccdn_ops.backends.reference.excitation_gates import excitation_gates
from ccdn_ops.backends.reference.multi_excite import multi_excite
from ccdn_ops.backends.reference.second_order_squeeze import second_order_squeeze

__all__ = [
    "cocs_loss",
    "ctm",
    "dual_squeeze",
    "excitation_gates",
    "multi_excite",
    "second_order_squeeze",
]
