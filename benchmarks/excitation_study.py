"""What each order of a trained network's excitations contributes.

    python benchmarks/excitation_study.py --weights runs/a/last.pt --data ~/300w --split train

Prints a table for T-1 and T, with a row for each order: the size of its squeeze, how much it and
the gates made of it vary over faces, the error without its variation (each of its gates at its
mean over the faces), and how large the gradients of the landmarks' error and of COCS are in its
W_V.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ccdn_ops
from ccdn.checkpoint.load import load_model
from ccdn.config import Config, resolve_data
from ccdn.data.layouts import generic_layout
from ccdn.models import CCDN, objective
from ccdn.models.excitation import Excitation
from ccdn.plan.faces import evaluation_crops, open_split

STAGES = {"T-1": "ctm_fine", "T": "ctm_coarse"}
ORDERS = ("first", "second")
BATCH = 32


@dataclass(frozen=True)
class Row:
    """Of one order at one stage.

    squeeze: root mean square of kappa over faces and channels; squeeze_spread: its standard
    deviation over faces, averaged over channels. gate_spread: the same of the gates, averaged over
    excitations, too; channel_spread: standard deviation over channels of a gate's mean over faces.
    frozen: NME in % with the order's gates at their means, minus NME. landmark_gradient and
    cocs_gradient: norms of the gradient in W_V of this order.
    """

    stage: str
    order: str
    squeeze: float
    squeeze_spread: float
    gate_spread: float
    channel_spread: float
    frozen: float
    landmark_gradient: float
    cocs_gradient: float


def study(model: CCDN, crops: Tensor, truth: Tensor, config: Config) -> tuple[float, list[Row]]:
    """The NME in %, and a row for each stage and order.

    crops: (B, 3, S, S) in [0, 1]; truth: (B, L, 2) in [0, 1] of the crop, of a layout with eye
    corners. Raises ValueError for a network without excitations and for a layout without eyes.
    """
    if model.cff is None:
        raise ValueError("expected a network with excitations, found the Baseline")
    eyes = generic_layout(model.points).ocular
    if eyes is None:
        raise ValueError(f"expected points with eye corners, found {model.points} without")
    model.eval()
    error = _nme(model, crops, truth, eyes)
    gradients = _gradients(model, crops, truth, config)
    rows = []
    for stage, name in STAGES.items():
        excitation = getattr(model, name)
        squeezes, gates = _seen(model, excitation, crops)
        for order in range(excitation.orders):
            with _frozen(excitation, order, gates[order].mean(0)):
                frozen = _nme(model, crops, truth, eyes)
            kappa, gate = squeezes[order], gates[order]
            own = min(order, excitation.reduce_weight.shape[1] - 1)  # the orders may share them
            rows.append(
                Row(
                    stage,
                    ORDERS[order],
                    float(kappa.square().mean().sqrt()),
                    float(kappa.std(0).mean()),
                    float(gate.std(0).mean()),
                    float(gate.mean(0).std(1).mean()),
                    frozen - error,
                    *(float(one[name][:, own].norm()) for one in gradients),
                )
            )
    return error, rows


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    titles = (
        "stage",
        "order",
        "squeeze, rms",
        "its deviation over faces",
        "gates, deviation over faces",
        "over channels",
        "NME with constant gates",
        "gradient in W_V, landmarks",
        "COCS",
    )
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in rows:
        numbers = (
            f"{row.squeeze:.2g}",
            f"{row.squeeze_spread:.2g}",
            f"{row.gate_spread:.2g}",
            f"{row.channel_spread:.2g}",
            f"{row.frozen:+.2f}",
            f"{row.landmark_gradient:.2g}",
            f"{row.cocs_gradient:.2g}",
        )
        lines.append("| " + " | ".join((row.stage, row.order, *numbers)) + " |")
    return "\n".join(lines)


def order_gates(excitation: Excitation, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """For each order of an excitation of x (B, D, H, W): its squeeze (B, D), gates (B, P, D)."""
    weights = excitation.gate_weights(x.shape[2] * x.shape[3])
    squeezes = [one for one in excitation.squeezes(x) if one is not None]
    gates = [
        ccdn_ops.excitation_gates(squeeze, None, *(w[:, order : order + 1] for w in weights))
        for order, squeeze in enumerate(squeezes)
    ]
    return squeezes, gates


@torch.no_grad()
def _seen(model: CCDN, excitation: Excitation, crops: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    found: list[tuple[list[Tensor], list[Tensor]]] = []
    hook = excitation.register_forward_pre_hook(
        lambda _, inputs: found.append(order_gates(excitation, inputs[0]))
    )
    try:
        for part in crops.split(BATCH):
            model(part)
    finally:
        hook.remove()
    orders = range(excitation.orders)
    squeezes = [torch.cat([part[0][order] for part in found]) for order in orders]
    gates = [torch.cat([part[1][order] for part in found]) for order in orders]
    return squeezes, gates


@contextmanager
def _frozen(excitation: Excitation, frozen: int, mean: Tensor) -> Iterator[None]:
    """With the gates of one order at their mean (P, D), whatever the face."""

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        _, gates = order_gates(excitation, x)
        gates[frozen] = mean.expand_as(gates[frozen])
        total = torch.stack(gates).sum(0)
        return ccdn_ops.multi_excite(x, total), total * x.mean((2, 3)).unsqueeze(1)

    excitation.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del excitation.forward


@torch.no_grad()
def _nme(model: CCDN, crops: Tensor, truth: Tensor, eyes: tuple[int, int]) -> float:
    found = torch.cat([model(part).landmarks for part in crops.split(BATCH)])
    distance = (truth[:, eyes[0]] - truth[:, eyes[1]]).norm(dim=1)
    return 100 * float(((found - truth).norm(dim=2).mean(1) / distance).mean())


def _gradients(
    model: CCDN, crops: Tensor, truth: Tensor, config: Config
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The mean gradients in W_V by stage: of the landmarks' error, and of the weighted COCS."""
    train = config.train
    sums: list[dict[str, Tensor]] = [{}, {}]
    weights = {name: getattr(model, name).reduce_weight for name in STAGES.values()}
    parts = [*zip(crops.split(BATCH), truth.split(BATCH), strict=True)]
    for part, target in parts:
        loss = objective(model(part), target, train.cocs.gammas(), train.loss, model.input_size)
        terms = (loss.landmarks, loss.total - loss.landmarks)
        for number, term in enumerate(terms):
            found = torch.autograd.grad(term, [*weights.values()], retain_graph=number == 0)
            for name, gradient in zip(weights, found, strict=True):
                sums[number][name] = sums[number].get(name, 0) + gradient / len(parts)
    return sums[0], sums[1]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="a checkpoint")
    parser.add_argument("--data", required=True, help="faces, or synthetic")
    parser.add_argument("--split", default="train", help="default: train")
    parser.add_argument("--faces", type=int, default=256, help="so many, evenly over the split")
    options = parser.parse_args(arguments)
    model, checkpoint = load_model(options.weights)
    config = checkpoint.config
    kind: dict[str, Any] = {"kind": "auto", "root": options.data, "eval_splits": []}
    data = resolve_data(replace(config.data, **kind))
    faces = evaluation_crops(open_split(data, options.split, model.points), config, data)
    chosen = np.linspace(0, len(faces) - 1, min(options.faces, len(faces))).round().astype(int)
    batch = faces.batch(np.unique(chosen).tolist())
    error, rows = study(model, batch["image"].float() / 255, batch["landmarks"], config)
    print(f"{options.weights}: NME {error:.2f} % on {len(batch['image'])} faces\n")
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
