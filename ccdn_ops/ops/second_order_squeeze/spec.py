"""second_order_squeeze: dual_squeeze's second output, so that it has no raw operator of its own."""

from __future__ import annotations

from ccdn_ops.ops.dual_squeeze.spec import work
from ccdn_ops.ops.operator import Operator, define

OPERATOR = define(
    Operator(
        name="second_order_squeeze",
        first="(B, D, N) or (B, D, H, W)",
        parts=("dual_squeeze",),
        work=work,
        tensors={"x": "BDHW"},
        results=["BD"],
        samples=1,
        options={"iterations": 5},
    )
)
