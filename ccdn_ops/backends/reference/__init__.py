"""Plain PyTorch, written to be read beside the paper; differentiable by autograd."""

from ccdn_ops.backends.reference.cocs_loss import loss_of_sums, unit_sum
from ccdn_ops.backends.reference.dual_squeeze import dual_squeeze
from ccdn_ops.backends.reference.excitation import excitation_gates, multi_excite

__all__ = ["dual_squeeze", "excitation_gates", "loss_of_sums", "multi_excite", "unit_sum"]
