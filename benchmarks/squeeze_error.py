"""How accurate the covariance squeeze is, compared with the iteration that it replaces.

    python benchmarks/squeeze_error.py            measures, writes docs/squeeze_error.json and .svg
    python benchmarks/squeeze_error.py --draw     draws the .svg anew from the .json

Truth is float64 by eigendecomposition: with A = U diag(t) U^T the K-th iterate is U diag(h(t)) U^T,
h = t q_K(t), and its derivative in the eigenbasis is the matrix of divided differences h[t_i, t_j]
(Daleckii and Krein). They follow q's own recurrence by the product rule (f g)[a, b] = f(a) g[a, b]
+ f[a, b] g(b), so nothing is subtracted and multiple eigenvalues do no harm.

The features have one dominant direction: independent noise hides rounding that this one shows.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tables import commit, cpu_model
from torch import Tensor

import ccdn_ops
from ccdn_ops.backends import native
from ccdn_ops.chebyshev import TERMS, newton_schulz_polynomial

DATA = Path(__file__).resolve().parents[1] / "docs" / "squeeze_error.json"
PICTURE = DATA.with_suffix(".svg")
ITERATIONS = range(1, 11)
# (B, D, N): more positions than channels, and fewer.
SHAPES = ((8, 64, 256), (8, 256, 49))
SEEDS = range(5)
SERIES = (3, 5, 7)  # the K whose truncation is drawn


class Truth(NamedTuple):
    """Of x (B, D, N) and an upstream gradient (B, D), all float64.

    second (B, D) and grad_x (B, D, N) of K exact steps; root (B, D): the mean over the columns of
    the covariance's square root, where K goes to infinity.
    """

    second: Tensor
    grad_x: Tensor
    root: Tensor


def truth(x: Tensor, grad: Tensor, iterations: int) -> Truth:
    """By eigendecomposition, in float64."""
    x, grad = x.double(), grad.double()
    channels, positions = x.shape[1:]
    centred = x - x.mean(2, keepdim=True)
    covariance = centred @ centred.mT / positions
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0)
    trace = values.sum(1)[:, None]  # [B, 1]
    t = values / trace  # [B, D]

    q, divided = torch.ones_like(t), torch.zeros_like(covariance)  # q_K(t_i), q_K[t_i, t_j]
    for _ in range(iterations):
        square = divided * (q[:, :, None] + q[:, None, :])  # q^2[a, b]
        w, w_divided = t * q * q, t[:, :, None] * square + (q * q)[:, None, :]  # t q^2
        divided = (divided * (3 - w)[:, None, :] - q[:, :, None] * w_divided) / 2
        q = q * (3 - w) / 2
    h_divided = t[:, :, None] * divided + q[:, None, :]

    ones = vectors.sum(1)  # [B, D], U^T 1
    scale = trace.sqrt() / channels
    second = scale * _times(vectors, t * q * ones)
    root = _times(vectors, values.sqrt() * ones) / channels

    g = _times(vectors.mT, grad)
    outer = (g[:, :, None] * ones[:, None, :] + ones[:, :, None] * g[:, None, :]) / 2
    grad_a = scale[:, :, None] * vectors @ (h_divided * outer) @ vectors.mT
    radial = (grad * second).sum(1) / (2 * trace[:, 0])
    radial = radial - (grad_a * covariance).sum((1, 2)) / trace[:, 0] ** 2
    eye = torch.eye(channels, dtype=torch.float64)
    grad_covariance = grad_a / trace[:, :, None] + radial[:, None, None] * eye
    return Truth(second, 2 / positions * grad_covariance @ centred, root)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[:, :, None])[:, :, 0]


def features(shape: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
    """x (B, D, N) with a dominant direction and a gradient (B, D), float32."""
    random = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=random, dtype=torch.float64)
    batch, channels, positions = shape
    direction = draw(batch, channels, 1) * draw(batch, 1, positions)
    x = 3 * direction + 0.3 * draw(shape) + draw(batch, channels, 1)
    return x.float(), draw(batch, channels).float()


def error(found: Tensor, expected: Tensor) -> float:
    """Relative, in Frobenius norms."""
    return ((found.double() - expected).norm() / expected.norm()).item()


def measure() -> dict[str, Any]:
    """Everything that is drawn: for each shape and K the largest error over the seeds."""
    functions = {
        "iteration": ccdn_ops.reference.second_order_squeeze,
        "operator": ccdn_ops.second_order_squeeze,
    }
    module = native.require()  # without the native module the operator is the iteration
    rows = []
    for shape in SHAPES:
        for iterations in ITERATIONS:
            row: dict[str, Any] = {"shape": shape, "iterations": iterations}
            for seed in SEEDS:
                x, grad = features(shape, seed)
                true = truth(x, grad, iterations)
                _keep_largest(row, "exact steps to root", error(true.second, true.root))
                for name, function in functions.items():
                    leaf = x.clone().requires_grad_()
                    second = function(leaf, iterations)
                    (grad_x,) = torch.autograd.grad(second, leaf, grad)
                    _keep_largest(row, f"{name} to root", error(second.detach(), true.root))
                    _keep_largest(row, f"{name} value", error(second.detach(), true.second))
                    _keep_largest(row, f"{name} gradient", error(grad_x, true.grad_x))
            rows.append(row)
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit(),
        "processor": cpu_model(),
        "torch": torch.__version__,
        "native module": f"compiler {module.compiler}",
        "errors": rows,
        "truncation": {str(k): truncation(k) for k in SERIES},
    }


def _keep_largest(row: dict[str, Any], name: str, value: float) -> None:
    row[name] = max(row.get(name, 0.0), value)


def truncation(iterations: int) -> list[float]:
    """sup |t (q_K - its first m Chebyshev terms)| on [0, 1] for m = 1, 2, ...

    From the terms left out, the last first, in extended precision where the platform has it: what
    is left out is smaller than the rounding of what it is left out of.
    """
    wide = np.longdouble
    nodes, last = 2048, 3 * TERMS["float64"][iterations - 1] // 2
    pi = 4 * np.arctan(wide(1))
    angle = pi * (np.arange(nodes, dtype=wide) + wide(0.5)) / nodes
    q = newton_schulz_polynomial(iterations, (np.cos(angle) + 1) / 2)
    # On the same points, where the terms are cosines.
    terms = np.cos(np.arange(last + 1, dtype=wide)[:, None] * angle)
    series = 2 * (terms @ q) / nodes
    rest = np.zeros_like(q)
    found = []
    for j in range(last, 0, -1):
        rest = rest + series[j] * terms[j]
        found.append(float(np.abs((np.cos(angle) + 1) / 2 * rest).max()))
    return found[::-1]


def draw(data: dict[str, Any]) -> None:
    """The picture; the same data give the same file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Without a date and with fixed ids; letters as paths look the same everywhere.
    with matplotlib.rc_context({"svg.hashsalt": "ccdn", "font.size": 9}):
        figure, axes = pyplot.subplots(2, 2, figsize=(9.2, 7.2), layout="constrained")
        _root(axes[0, 0], data)
        _truncation(axes[0, 1], data)
        _rounding(axes[1, 0], data, "value")
        _rounding(axes[1, 1], data, "gradient")
        figure.savefig(PICTURE, metadata={"Date": None})
        pyplot.close(figure)


BLUE, GREY, ORANGE = "#1b6ca8", "#8a8a8a", "#e69138"


def _rows(data: dict[str, Any], shape: tuple[int, ...]) -> list[dict[str, Any]]:
    return [row for row in data["errors"] if tuple(row["shape"]) == shape]


def _named(shape: tuple[int, ...]) -> str:
    return f"D {shape[1]}, N {shape[2]}"


def _axes(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def _root(axes: Any, data: dict[str, Any]) -> None:
    _axes(axes, "Distance from the exact square root", "steps K", "relative error")
    for shape, marker in zip(SHAPES, "os", strict=True):
        rows = _rows(data, shape)
        steps = [row["iterations"] for row in rows]
        iterated = [row["iteration to root"] for row in rows]
        ours = [row["operator to root"] for row in rows]
        axes.plot(steps, iterated, color=GREY, linewidth=5, alpha=0.35, solid_capstyle="round")
        axes.plot(steps, ours, marker, color=BLUE, markersize=4.5, label=_named(shape))
    axes.plot([], [], color=GREY, linewidth=5, alpha=0.35, label="iteration, float32")
    axes.plot([], [], ".", color=BLUE, label="operator, float32")
    axes.set_ylim(0)
    axes.set_xticks(list(ITERATIONS))
    axes.legend(frameon=False, fontsize=8)


def _truncation(axes: Any, data: dict[str, Any]) -> None:
    title = "What the Chebyshev series leaves out"
    _axes(axes, title, "terms m", "sup of |t (q$_K$ - series)| on [0, 1]")
    axes.set_yscale("log")
    for (name, values), shade in zip(data["truncation"].items(), (0.45, 0.7, 1.0), strict=True):
        terms = range(1, len(values) + 1)
        axes.plot(terms, values, color=BLUE, alpha=shade, label=f"K = {name}")
        for precision, colour in (("float32", ORANGE), ("float64", "#333333")):
            m = TERMS[precision][int(name) - 1]  # type: ignore[index]
            axes.plot(m, values[m - 1], "o", color=colour, markersize=5, zorder=4)
    axes.plot([], [], "o", color=ORANGE, label="taken for float32")
    axes.plot([], [], "o", color="#333333", label="taken for float64")
    axes.set_ylim(3e-17, 3)
    axes.legend(frameon=False, fontsize=8)


def _rounding(axes: Any, data: dict[str, Any], what: str) -> None:
    title = f"Rounding of the {what}, float32"
    _axes(axes, title, "steps K", "error against K exact steps")
    axes.set_yscale("log")
    for shape, style in zip(SHAPES, ("-o", "--s"), strict=True):
        rows = _rows(data, shape)
        steps = [row["iterations"] for row in rows]
        for name, colour in (("iteration", GREY), ("operator", BLUE)):
            values = [row[f"{name} {what}"] for row in rows]
            label = f"{name}, {_named(shape)}"
            axes.plot(steps, values, style, color=colour, markersize=4, label=label)
    axes.set_xticks(list(ITERATIONS))
    axes.legend(frameon=False, fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description="How exact the covariance squeeze is, drawn.")
    parser.add_argument("--draw", action="store_true", help="draw from the .json, measure nothing")
    if not parser.parse_args().draw:
        torch.set_num_threads(1)
        DATA.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
        print(f"written: {DATA}", file=sys.stderr)
    draw(json.loads(DATA.read_text(encoding="utf-8")))
    print(f"written: {PICTURE}", file=sys.stderr)


if __name__ == "__main__":
    main()
