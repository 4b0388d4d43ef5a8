"""The operations of newton_schulz_sqrt, newton_schulz_roots and isqrt_cov, and what they save.

newton_schulz_plan.py says how they iterate. A product of symmetric matrices that commute is
symmetric: half of it is computed.
"""

from __future__ import annotations

import torch

from ccdn_ops.newton_schulz_plan import NewtonSchulzPlan, products
from ccdn_ops.precision import accumulation_dtype
from ccdn_ops.work import Call


def saved_bytes(plan: NewtonSchulzPlan, dtype: torch.dtype, batch: int, n: int) -> int:
    """Of what n x n matrices are divided by, and of what is kept of their iteration."""
    return accumulation_dtype(dtype).itemsize * batch * (1 + plan.slots * n * n)


def iteration_work(
    n: int, call: Call, plan: NewtonSchulzPlan, *, roots: bool = False
) -> tuple[str, tuple[int, int]]:
    """The iteration of an n x n matrix and its derivative: what it is, and its operations.

    roots: Y_K = A Z_K follows.
    """
    if call.literal:
        count = literal_products(call.iterations, roots)
        forward = 2 * count * n**3
        return f"{count} products of {n} x {n}", (forward, 3 * forward)
    count, half = products(call.iterations, plan.polynomial), n * n * (n + 1)
    ends = 1 if roots else 0
    # The derivative of a product takes two, and so does each of the two ends of Y's; if nothing is
    # saved, the iteration comes first.
    backward = 2 * count + 4 * ends + (0 if plan.slots else count)
    algorithm = f"{count + ends} symmetric products of {n} x {n}"
    return algorithm, ((count + ends) * half, backward * half)


def literal_products(iterations: int, roots: bool = False) -> int:
    """Of the coupled iteration, whose first step knows that Z is 1 and whose last computes Y alone,
    or with `roots` Z as well."""
    return 3 * iterations - 2 if roots else max(3 * iterations - 3, 1)
