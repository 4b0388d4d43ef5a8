"""Tensors that operators must refuse, each with one clear error before any kernel sees them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from operator_rows import OPERATORS, Operator, arguments, outputs_of
from torch import Tensor

import ccdn_ops
from ccdn_ops import nn

B, P, D, R = 2, 2, 4, 3
X = torch.randn(B, D, 3, 5)
GATES = torch.rand(B, P, D)
WEIGHTS = (
    torch.randn(P, 2, R, D),
    torch.randn(P, 2, R),
    torch.randn(P, 2, D, R),
    torch.randn(P, 2, D),
)

# Every tensor argument of every operator and module: a good value, and a call with another one.
ARGUMENTS: dict[str, tuple[Tensor, Callable[[Any], Any]]] = {
    **arguments(),
    "cocs_loss": (GATES, ccdn_ops.cocs_loss),
    "nn.CTM": (X, nn.CTM(D)),
    "nn.SqueezeExcite": (X, nn.SqueezeExcite(D)),
    "nn.SecondOrderAttention": (X, nn.SecondOrderAttention(D)),
    "nn.ISqrtCovPool": (X, nn.ISqrtCovPool()),
    "nn.COCSLoss": (GATES, lambda x: nn.COCSLoss([1.0])([x])),
}


def nested(x: Tensor, layout: torch.layout = torch.strided) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are new
        return torch.nested.nested_tensor(list(x), layout=layout)


WRONG: dict[str, Callable[[Tensor], Any]] = {
    "complex": lambda x: x.to(torch.complex64),
    "whole numbers": lambda x: x.int(),
    "8 bits": lambda x: x.to(torch.float8_e4m3fn),
    "sparse": lambda x: x.to_sparse(),
    "of oneDNN": lambda x: x.to_mkldnn(),
    "nested": nested,
    "jagged": lambda x: nested(x, torch.jagged),
    "an array": lambda x: x.numpy(),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_a_tensor_of_another_kind(argument: str, wrong: str) -> None:
    good, call = ARGUMENTS[argument]
    for _ in range(
        4
    ):  # the last ones are direct, and a check of torch's compares the bad one with them
        call(good)
    bad = WRONG[wrong](good)
    with pytest.raises(TypeError, match=r"^ccdn_ops\.[\w.]+: .*; expected (a dense|a torch|torch)"):
        call(bad)


@pytest.mark.parametrize("argument", [name for name in ARGUMENTS if ", " in name])
def test_tensors_on_two_devices(argument: str) -> None:
    good, call = ARGUMENTS[argument]
    with pytest.raises(ValueError, match=r"expected all tensors on one device, found .* on meta"):
        call(good.to("meta"))


@pytest.mark.parametrize("weights", [None, 4, torch.tensor(1.0)])
def test_weights_that_are_not_a_sequence(weights: Any) -> None:
    with pytest.raises(TypeError, match=r"^ccdn_ops\.ctm: weights is a \w+; expected a sequence"):
        ccdn_ops.ctm(X, weights)


@pytest.mark.parametrize("features", [None, 4])
def test_features_that_are_not_a_sequence(features: Any) -> None:
    with pytest.raises(TypeError, match=r"^ccdn_ops\.cocs_loss: features is a \w+; expected a t"):
        ccdn_ops.cocs_loss(features)


@pytest.mark.parametrize("size", ["4", 2.0, None, True])
@pytest.mark.parametrize("module", [nn.CTM, nn.SqueezeExcite, nn.SecondOrderAttention])
def test_sizes_that_are_not_integers(module: Callable[..., Any], size: Any) -> None:
    with pytest.raises(TypeError, match=r"^ccdn_ops\.nn\.\w+: channels is .*; expected an int"):
        module(size)
    with pytest.raises(TypeError, match=r"^ccdn_ops\.nn\.\w+: reduction is .*; expected an int"):
        module(4, reduction=size)


@pytest.mark.parametrize("shape", [(2, -3, 4), ("a", 3, 4), (2, 3.0, 4)])
def test_an_invalid_shape_to_explain(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"the shape is .*; expected ints of 0 or more"):
        ccdn_ops.explain("dual_squeeze", *shape)


def test_values_seen_through_a_negation() -> None:
    """The imaginary part of a conjugate is a real tensor whose memory has the other sign."""
    seen = torch.randn(B, D, 7, dtype=torch.complex64).conj().imag
    assert seen.is_neg()
    written = seen.resolve_neg().clone()
    assert torch.equal(ccdn_ops.dual_squeeze(seen)[0], ccdn_ops.dual_squeeze(written)[0])


@pytest.mark.parametrize("offset", [1, 4])
@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_addresses_that_no_vector_is_aligned_to(operator: Operator, offset: int) -> None:
    """Of every tensor of a call, of floats that are not aligned either; and of the gradients."""

    def moved(x: Tensor) -> Tensor:
        buffer = bytearray(offset + x.nbytes)
        return torch.frombuffer(buffer, dtype=x.dtype, offset=offset).view(x.shape).copy_(x)

    def step(tensors: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in tensors]
        outputs = outputs_of(operator.call, leaves)
        return [*outputs, *torch.autograd.grad(outputs, leaves, gradients)]

    tensors = [x.detach() for x in operator.tensors()]
    gradients = [torch.randn_like(y) for y in outputs_of(operator.call, tensors)]
    for _ in range(4):  # a direct call, too
        wanted = step(tensors, gradients)
        found = step([moved(x) for x in tensors], [moved(g) for g in gradients])
        for a, b in zip(found, wanted, strict=True):
            assert torch.equal(a, b)
