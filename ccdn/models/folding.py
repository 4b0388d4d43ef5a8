"""Batch norms folded into convolutions: the same function in fewer passes over memory."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ccdn.models.excitation import CFF
from ccdn.models.hourglass import PostActivation, Residual
from ccdn.models.network import CCDN

# A convolution and the batch norm that takes its result, by their names in each block.
FOLLOWED: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    Residual: (("conv1", "norm2"), ("conv2", "norm3")),
    PostActivation: (("conv1", "norm1"), ("conv2", "norm2"), ("conv3", "norm3")),
    CFF: (("smooth", "norm"),),
}


def folded(model: CCDN) -> CCDN:
    """A copy, in evaluation mode, whose batch norms behind convolutions are part of them.

    Its results differ from the model's by rounding alone. It is for inference: it has no gradients,
    and neither the names nor the statistics of a checkpoint's weights.
    """
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    for block in copied.modules():
        for convolution, norm in FOLLOWED.get(type(block), ()):
            first, second = getattr(block, convolution), getattr(block, norm)
            dtype = first.weight.dtype
            setattr(
                block, convolution, fuse_conv_bn_eval(first.double(), second.double()).to(dtype)
            )
            setattr(block, norm, nn.Identity())
    return copied
