"""second_order_squeeze on every backend that serves CPU tensors.

It is dual_squeeze's second output, whose numbers test_dual_squeeze.py judges.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from harness import KINDS, LAYOUTS, Judge, check_layout, features, step, upstream

from ccdn_ops import dual_squeeze, reference, second_order_squeeze


def judge(iterations: int = 5, axes: str = "BDN") -> Judge:
    return Judge(partial(reference.second_order_squeeze, iterations=iterations), [axes], ["BD"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "positions"), [(3, 2), (65, 49), (33, 130)])
def test_fp32_exact(backend: str, kind: str, channels: int, positions: int) -> None:
    x = features(kind, 2, channels, positions)
    judge().case(f"{kind} {tuple(x.shape)}", [x]).check(second_order_squeeze)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(backend: str, layout: str) -> None:
    x = features("dominant", 3, 24, 15).view(3, 24, 3, 5)
    check_layout(judge(axes="BDHW"), second_order_squeeze, layout, [x])


@pytest.mark.parametrize("iterations", [1, 4, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_second_of_dual_squeeze(
    backend: str, iterations: int, dtype: torch.dtype
) -> None:
    x = features("dominant", 3, 24, 15, dtype=dtype)
    found = step(partial(second_order_squeeze, iterations=iterations), [x], [upstream(x)])
    call = partial(dual_squeeze, iterations=iterations)
    _, second, grad = step(call, [x], [None, upstream(x)])
    assert found[0].equal(second)
    assert found[1].equal(grad)


@pytest.mark.parametrize(
    ("x", "iterations", "error", "message"),
    [
        (torch.ones(3, 4), 5, ValueError, r"x has shape \(3, 4\); expected \(B, D, H, W\)"),
        (torch.ones(2, 3, 4).int(), 5, TypeError, "torch.int32; expected torch.float32"),
        (torch.ones(2, 3, 4), 11, ValueError, "iterations is 11; expected an int from 1 to 10"),
    ],
)
def test_wrong_input(x, iterations, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=r"ccdn_ops\.second_order_squeeze: .*" + message):
        second_order_squeeze(x, iterations)
