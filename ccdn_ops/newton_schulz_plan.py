"""How newton_schulz_sqrt, newton_schulz_roots and isqrt_cov iterate, and what of it they save.

K coupled Newton-Schulz steps turn a matrix A of trace 1 into Y_K = A q_K(A) (plans.py). With
W = Z Y a step is Y <- Y P, Z <- Z P, W <- W P^2, P = (3 - W) / 2, and two steps are one with the
polynomial P P' = 9/4 + X in W:

    E = W^2 - 9/2 W,  X = (E^2 + 27/4 E - 69/8 W) / 16,  V = W (9/4 + X),
    Y <- Y (9/4 + X),  Z <- Z (9/4 + X),  W <- V (9/4 + X)

which makes 10 products of K = 5 where the coupled steps need 12. isqrt_cov of features (D, N) with
fewer positions than channels needs only Q = q_K(M), the Z_K of M = Xc^T Xc / (N tr):
root = Xc Q Xc^T / (N sqrt(tr)). Z is then z 1 + R, with its large multiple of 1 apart.
newton_schulz_roots takes this Z, too: it is the inverse root, and one more product makes Y = A Z.

What is saved for the backward pass, in this order: W_0 = A; for every two steps E, X, V (but for
the last ones, unless Y is still W: the new Y is V then), the new Y or R (unless it is V, or X where
R was 0), the new W (but for the last ones); for a single last step the new Y or R.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class NewtonSchulzPlan:
    """How one matrix size is iterated.

    Args:
        side: the matrix is D x D ("channels") or N x N ("positions").
        polynomial: the iteration is that of Z_K = q_K(A), not of Y_K.
        wide: float32 is iterated in double. Rounding errors of the derivative grow with every step
            where eigenvalues are close to 0, and those of a few channels do not average out.
        slots: how many matrices are saved; 0 where that would not pay.
        panel: columns of a panel of what is saved, 128 bytes.
    """

    side: Literal["channels", "positions"]
    polynomial: bool
    wide: bool
    slots: int
    panel: int

    def saved_shape(self, batch: int, size: int) -> tuple[int, int, int, int, int]:
        """(B, slots, panels, n, columns): matrices in column panels, the last filled with zeros.

        Without slots `nothing_saved`.
        """
        if not self.slots:
            return nothing_saved(batch)
        return batch, self.slots, (size + self.panel - 1) // self.panel, size, self.panel


def nothing_saved(batch: int) -> tuple[int, int, int, int, int]:
    """The shape of iterates that are not saved; no other size is in it, so that it may be open."""
    return batch, 0, 0, 0, 0


def newton_schulz_plan(
    channels: int,
    positions: int | None,
    iterations: int,
    dtype: torch.dtype,
    save: bool,
    roots: bool = False,
) -> NewtonSchulzPlan:
    """The plan for a (D, D) matrix, or for features (D, N) of this dtype; `roots`: for both."""
    # The N x N iteration costs (N / D)^3 of the other, but expands its result by two products more.
    by_positions = positions is not None and 10 * positions <= 9 * channels
    wide = dtype == torch.float32 and (channels <= 32 or (iterations > 5 and not by_positions))
    polynomial = by_positions or roots
    slots = _slots(iterations, polynomial) if save and not wide else 0
    side: Literal["channels", "positions"] = "positions" if by_positions else "channels"
    return NewtonSchulzPlan(side, polynomial, wide, slots, 16 if dtype == torch.float64 else 32)


def products(iterations: int, polynomial: bool) -> int:
    """Matrix products of the iteration, for Y_K or, with `polynomial`, for q_K."""
    if iterations == 1 and polynomial:
        return 0  # q_1 = (3 - M) / 2
    return _slots(iterations, polynomial) - 1  # each makes one matrix, and A is there


def _slots(iterations: int, polynomial: bool) -> int:
    if iterations == 1:
        return 2
    if iterations == 2:
        return 3 if polynomial else 4
    pairs, single = divmod(iterations, 2)
    # A; E, X, V, W of the first two steps, with Y among them; E, X, V, Y, W of those between.
    return 5 + 5 * (pairs - 1) + 1 if single else 5 + 5 * (pairs - 2) + 3
