"""The operations of newton_schulz_sqrt, newton_schulz_roots and isqrt_cov on one matrix.

newton_schulz_plan.py says how they iterate. A product of symmetric matrices that commute is
symmetric: half of it is computed.
"""

from __future__ import annotations

from ccdn_ops.newton_schulz_plan import products
from ccdn_ops.work import Call


def iteration_work(
    n: int, call: Call, *, polynomial: bool, saved: bool, roots: bool = False
) -> tuple[str, tuple[int, int]]:
    """The iteration of an n x n matrix and its derivative: what it is, and its operations.

    polynomial: it is that of Z_K, not of Y_K; saved: the backward pass need not repeat it; roots:
    Y_K = A Z_K follows.
    """
    if call.literal:
        count = literal_products(call.iterations, roots)
        forward = 2 * count * n**3
        return f"{count} products of {n} x {n}", (forward, 3 * forward)
    count, half = products(call.iterations, polynomial), n * n * (n + 1)
    ends = 1 if roots else 0
    # The derivative of a product takes two, and so does each of the two ends of Y's; if nothing is
    # saved, the iteration comes first.
    backward = 2 * count + 4 * ends + (0 if saved else count)
    algorithm = f"{count + ends} symmetric products of {n} x {n}"
    return algorithm, ((count + ends) * half, backward * half)


def literal_products(iterations: int, roots: bool = False) -> int:
    """Of the coupled iteration, whose first step knows that Z is 1 and whose last computes Y alone,
    or with `roots` Z as well."""
    return 3 * iterations - 2 if roots else max(3 * iterations - 3, 1)
