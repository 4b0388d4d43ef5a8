"""The operators as PyTorch's own, for runtimes that know no others: ONNX, torch without ccdn_ops.

    exported = torch.export.export(model.eval(), ...)
    exported = exported.run_decompositions(ccdn_ops.decompositions.table())

Batch, height and width may be open, and so may channels. A size influences the graph only if it is
known while the graph is made: unless there are known to be fewer positions than channels, the
matrices are D x D, which is correct in both cases. Outputs are those of the forward operators, in
the accumulation dtype. The graph uses only products, sums and comparisons in float32 (float64 for
float64 features), so every runtime supports it.

The second-order squeeze takes the last three Newton-Schulz steps on one vector: 4 products of
matrices for K = 5 instead of 12. The Chebyshev series of plans.py would need none, but its
recurrence loses up to ten times the reference's error unless its vectors are double, which many
runtimes lack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ccdn_ops.backends import registry
from ccdn_ops.newton_schulz_plan import nothing_saved
from ccdn_ops.ops.cocs_loss.reference import SMALLEST_NORM
from ccdn_ops.ops.operator import OPERATORS, Operator
from ccdn_ops.precision import accumulation_dtype

# Why a backward pass has no decomposition. table() turns each into an error with this reason.
WITHOUT = "what is exported computes no gradient; export the forward pass alone"
ON_A_VECTOR = 3  # steps; 3^3 products with a vector


def table() -> dict[Any, Callable[..., Any]]:
    """What `run_decompositions` takes: every operator of ccdn_ops.

    In a graph, an operator that has no decomposition (a backward pass) raises NotImplementedError,
    and a size that must not be open raises ValueError, each with a one-line message that names the
    operator.
    """
    own: dict[str, Callable[..., Any]] = {
        "cocs_loss": cocs_loss,
        "covariance_pool": covariance_pool,
        "ctm": ctm,
        "dual_squeeze": dual_squeeze,
        "excitation_gates": excitation_gates,
        "isqrt_cov": isqrt_cov,
        "multi_excite": multi_excite,
        "newton_schulz_roots": newton_schulz_roots,
        "newton_schulz_sqrt": newton_schulz_sqrt,
    }
    found = {}
    for operator in OPERATORS.values():
        if operator.schema:
            raw = getattr(torch.ops.ccdn, operator.name)
            found[raw.default] = own.get(operator.name) or _by_reference(operator)
            backward = getattr(torch.ops.ccdn, f"{operator.name}_backward")
            found[backward.default] = _refusal(f"{operator.name}_backward", WITHOUT)
    return found


def _by_reference(operator: Operator) -> Callable[..., Any]:
    """The operator by its reference's forward pass, which uses only PyTorch's own operators."""
    kernel = operator.kernel
    assert kernel is not None

    def decompose(*arguments: Any) -> Any:
        with registry.asked_for("reference"):
            return kernel(*arguments)

    return decompose


def _refusal(name: str, reason: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> NoReturn:
        raise NotImplementedError(f"ccdn_ops.decompositions: {name} has no decomposition: {reason}")

    return refuse


# Squeezes and matrices --------------------------------------------------------------------------


def dual_squeeze(x: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """first, second, mean, trace and gram of x (B, D, N) or (B, D, H, W), as
    ops/dual_squeeze/spec.py says."""
    _, channels, positions = x.flatten(2).shape
    by_positions = statically_known_true(positions < channels)
    mean, centred, gram, trace, safe = _moments(x, by_positions)
    a = gram / safe
    if by_positions:  # kappa = Xc q_K(G) Xc^T 1 / (N tr), all of it times sqrt(tr) / D
        start = centred.sum(1, keepdim=True).mT
        y = centred @ _on_a_vector(a, start, iterations, root=False)
        y = y / (positions * safe)
    else:  # A q_K(A) 1
        ones = torch.ones(channels, 1, dtype=a.dtype, device=a.device)
        y = _on_a_vector(a, ones, iterations, root=True)
    second = (y * (safe.sqrt() / channels)).masked_fill(trace == 0, 0.0)
    # flatten rather than squeeze, which OpenCV keeps for the example's batch alone.
    second, mean = second.flatten(1), mean.flatten(1)
    return mean.to(x.dtype), second.to(x.dtype), mean, trace.flatten(), gram


def covariance_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """covariance and trace of x (B, D, N) or (B, D, H, W), as ops/covariance_pool/spec.py says."""
    _, _, covariance, trace, _ = _moments(x, False)
    covariance = covariance.masked_fill(trace == 0, 0.0)
    return covariance.to(x.dtype), trace.flatten()


def isqrt_cov(x: Tensor, iterations: int, triu: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """root and trace as ops/isqrt_cov/spec.py says, and no iterates, which only its backward
    reads."""
    _, channels, positions = x.flatten(2).shape
    if triu and not isinstance(channels, int):
        raise ValueError(
            f"ccdn_ops.isqrt_cov: the number of channels is open ({channels}); with triu=True it"
            " must be fixed in an exported graph, because a triangle's indices are constants"
        )
    by_positions = statically_known_true(10 * positions <= 9 * channels)  # newton_schulz_plan's
    _, centred, gram, trace, safe = _moments(x, by_positions)
    y, z = _coupled(gram / safe, iterations)
    scale = safe.sqrt()
    root = centred @ z @ centred.mT / (positions * scale) if by_positions else y * scale
    root = root.masked_fill(trace == 0, 0.0).to(x.dtype)
    if triu:
        rows, columns = torch.triu_indices(channels, channels)
        root = root.flatten(1).index_select(1, (rows * channels + columns).to(x.device))
    return root, trace.flatten(), _none_saved(trace)


def newton_schulz_roots(
    a: Tensor, iterations: int, norm: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """root, inverse and divisor as ops/newton_schulz_roots/spec.py says, and no iterates, which
    only its backward reads."""
    wide = a.to(accumulation_dtype(a.dtype))
    wide = (wide + wide.mT) / 2
    divisor = wide.square().sum((1, 2), keepdim=True).sqrt() if norm else _trace(wide)
    safe = divisor.masked_fill(divisor == 0, 1.0)
    y, z = _coupled(wide / safe, iterations)
    power = safe.sqrt() + (safe - safe)  # NaN for what overflows
    root, inverse = y * power, z / power
    root, inverse = (r.masked_fill(divisor == 0, 0.0).to(a.dtype) for r in (root, inverse))
    return root, inverse, divisor.flatten(), _none_saved(divisor)


def newton_schulz_sqrt(a: Tensor, iterations: int, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """root and trace as ops/newton_schulz_sqrt/spec.py says, and no iterates, which only its
    backward reads."""
    wide = a.to(accumulation_dtype(a.dtype))
    wide = (wide + wide.mT) / 2
    trace = _trace(wide)
    safe = trace.masked_fill(trace == 0, 1.0)
    y, _ = _coupled(wide / safe, iterations)
    root = y * safe.sqrt()
    root = root.masked_fill(trace == 0, 0.0)
    return root.to(a.dtype), trace.flatten(), _none_saved(trace)


def _moments(x: Tensor, by_positions: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """mean (B, D, 1), centred features (B, D, N), the smaller of their products over N, its trace
    (B, 1, 1), 0 for a constant sample, and that trace with 1 in place of 0."""
    wide = x.flatten(2).to(accumulation_dtype(x.dtype))
    positions = wide.shape[2]
    mean = wide.mean(2, keepdim=True)
    centred = wide - mean
    gram = (centred.mT @ centred if by_positions else centred @ centred.mT) / positions
    trace = _trace(gram)  # of the rounded one, so that what is divided by it has trace 1

    # True if all deviation from the mean is rounding; an infinite trace is never below.
    limits = torch.finfo(wide.dtype)
    bound = (16 * limits.eps) ** 2 * (wide.square().sum((1, 2), keepdim=True) / positions)
    constant = trace <= bound.clamp(max=limits.max)
    safe = trace.masked_fill(constant, 1.0)
    return mean, centred, gram, trace.masked_fill(constant, 0.0), safe


def _coupled(a: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Y and Z after so many coupled steps (iSQRT-COV) from Y = a and Z = 1; at least one."""
    three = 3 * _eye(a)
    p = 0.5 * (three - a)
    y, z = a @ p, p
    for _ in range(1, steps):
        p = 0.5 * (three - z @ y)
        y, z = y @ p, p @ z
    return y, z


def _on_a_vector(a: Tensor, v: Tensor, iterations: int, root: bool) -> Tensor:
    """Y_K v, or without root Z_K v, of the coupled iteration of a (B, n, n), for v (B, n, 1) or
    (n, 1).

    All iterates are polynomials in a, so their order is free: Y_{k+1} v = Y_k P_k v and
    Z_{k+1} v = P_k Z_k v with P_k v = (3 v - Z_k Y_k v) / 2.
    """
    before = iterations - ON_A_VECTOR
    y, z = _coupled(a, before) if before > 0 else (a, None)

    def times_y(steps: int, v: Tensor) -> Tensor:
        return times_y(steps - 1, times_p(steps - 1, v)) if steps else y @ v

    def times_z(steps: int, v: Tensor) -> Tensor:
        if steps:
            return times_p(steps - 1, times_z(steps - 1, v))
        return v if z is None else z @ v

    def times_p(steps: int, v: Tensor) -> Tensor:
        return 1.5 * v - 0.5 * times_z(steps, times_y(steps, v))

    return (times_y if root else times_z)(min(iterations, ON_A_VECTOR), v)


def _eye(a: Tensor) -> Tensor:
    return torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)


def _trace(a: Tensor) -> Tensor:
    """(B, 1, 1) of a (B, n, n)."""
    return (a * _eye(a)).sum((1, 2), keepdim=True)


def _none_saved(trace: Tensor) -> Tensor:
    return trace.new_empty(nothing_saved(trace.shape[0]))


# Gates ------------------------------------------------------------------------------------------


def excitation_gates(
    first: Tensor,
    second: Tensor | None,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """gates, hidden and scales, as ops/excitation_gates/spec.py says."""
    wide = accumulation_dtype(first.dtype)
    weights = (w.to(wide) for w in (reduce_weight, reduce_bias, expand_weight, expand_bias))
    squeezed = None if second is None else second.to(wide)
    gates, hidden, scales = _bottlenecks(first.to(wide), squeezed, *weights)
    return gates.to(first.dtype), hidden, scales


def _bottlenecks(
    first: Tensor,
    second: Tensor | None,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """gates (B, P, D), hidden (B, P, O, R) and scales (B, P, O, D), all of one dtype."""
    # Order by order and without einsum, which OpenCV takes for the example's batch alone.
    gates, hidden, scales = None, [], []
    for order, kappa in enumerate([first] if second is None else [first, second]):
        column = kappa.unsqueeze(1).unsqueeze(-1)  # [B, 1, D, 1]
        units = (reduce_weight[:, order] @ column).flatten(2) + reduce_bias[:, order]
        hidden.append(units.relu())  # [B, P, R]
        logits = (expand_weight[:, order] @ hidden[-1].unsqueeze(-1)).flatten(2)
        scales.append((logits + expand_bias[:, order]).sigmoid())  # [B, P, D]
        gates = scales[-1] if gates is None else gates + scales[-1]
    assert gates is not None
    return gates, torch.stack(hidden, 2), torch.stack(scales, 2)


def multi_excite(x: Tensor, gates: Tensor) -> Tensor:
    """Every gate's (B, P, D) share of x (B, D, H, W), in x's dtype."""
    wide = accumulation_dtype(x.dtype)
    return (x.to(wide).unsqueeze(1) * gates.to(wide)[..., None, None]).to(x.dtype)


def ctm(
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Everything that the operator ctm returns; ops/ctm/spec.py says what."""
    wide = accumulation_dtype(x.dtype)
    weights = (w.to(wide) for w in (reduce_weight, reduce_bias, expand_weight, expand_bias))
    if reduce_weight.shape[1] == 1:
        mean = x.mean((2, 3), dtype=wide)
        second, trace, gram = (mean.new_empty(0) for _ in range(3))
        gates, hidden, scales = _bottlenecks(mean, None, *weights)
    else:
        _, second, mean, trace, gram = dual_squeeze(x.to(wide), iterations)
        gates, hidden, scales = _bottlenecks(mean, second, *weights)
    pooled = (gates * mean.unsqueeze(1)).to(x.dtype)
    return multi_excite(x, gates), pooled, mean, second, trace, gram, gates, hidden, scales


def cocs_loss(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """losses and sums, as ops/cocs_loss/spec.py says."""
    losses, sums = [], []
    for level in features:
        f = level.to(accumulation_dtype(level.dtype))
        norm = f.square().sum(2, keepdim=True).sqrt()
        s = (f / norm.clamp(min=SMALLEST_NORM)).sum(0)  # [P, D]
        largest = s.abs().amax()
        scaled = s / largest.masked_fill(largest == 0, 1.0)
        q = (scaled @ scaled.mT).square()
        own = (q * _eye(q)).sum()
        cross = (q * (1 - _eye(q))).sum()
        # Sums of zero alone have no products: 0 / 1.
        losses.append(cross / own.masked_fill(own == 0, 1.0))
        sums.append(s.flatten())
    return torch.stack(losses).to(features[0].dtype), torch.cat(sums)
