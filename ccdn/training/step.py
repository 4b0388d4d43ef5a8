"""One optimiser step: the objective of a batch, its gradient over all processes, the update."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ccdn.data.layouts import layout_or_none
from ccdn.models import LEVELS, objective
from ccdn.plan.training import TrainingPlan
from ccdn.training.batches import Batch
from ccdn.training.distribution import distribute
from ccdn.training.precision import autocast, compute_dtype, make_scaler

SMALLEST_SCALE = 2.0**-10  # of the loss in fp16; below it everything overflows


class NotFiniteError(ArithmeticError):
    """The objective or its gradient is not finite; the weights are those before the step."""

    def __init__(self, what: str, values: dict[str, float]) -> None:
        super().__init__(f"the {what} is not finite")
        self.what = what
        self.values = values


class Sample(NamedTuple):
    """Crops of the last step, uint8 (n, 3, S, S), with what the network said of them and the truth,
    (n, L, 2) in [0, 1] of the crop.
    """

    images: Tensor
    predicted: Tensor
    truth: Tensor


class Step:
    """Trains `model` on one batch per call; scaler is its only state besides the optimiser's.

    The values it returns are means over all processes: loss, landmarks, cocs_t ..., gradient (its
    norm before clipping), nme in %.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: TrainingPlan,
    ) -> None:
        self.config, self.device, self.processes = plan.config, plan.device, plan.processes
        self.model = distribute(model, self.config.train, self.device, self.processes)
        self.optimizer = optimizer
        self.scaler = make_scaler(self.config.train, self.device)
        self.sample: Sample | None = None
        self._eyes = _eye_indices(self.config.model.points)
        self._weights = list(model.parameters())

    def __call__(self, batch: Batch, step: int, rate: float) -> dict[str, float]:
        """Do optimiser step `step` (0-based) at a learning rate. Raises NotFiniteError."""
        train = self.config.train
        # For random layers such as dropout: their draws depend only on step and process.
        torch.manual_seed(
            (train.seed * 1_000_003 + step + self.processes.rank * 7_919_000_003) % 2**63
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        images, targets = (tensor.chunk(train.accumulate) for tensor in batch[1:3])
        terms: dict[str, Tensor] = {}
        for number, (part, target) in enumerate(zip(images, targets, strict=True)):
            last = number + 1 == train.accumulate
            for key, value in self._gradient(part, target, last).items():
                terms[key] = value + terms[key] if key in terms else value
        self.scaler.unscale_(self.optimizer)
        limit = train.clip or math.inf
        values = torch.stack([value.double() for value in terms.values()])
        means = self.processes.mean(values / train.accumulate).tolist()
        found = dict(zip(terms, means, strict=True))
        if not math.isfinite(found["loss"]):
            raise NotFiniteError("loss", {**found, "gradient": math.nan})
        # After the average over the processes the gradient is the same on all of them.
        found["gradient"] = float(nn.utils.clip_grad_norm_(self._weights, limit))
        if not math.isfinite(found["gradient"]):
            scaled = self.scaler.is_enabled() and self.scaler.get_scale() > SMALLEST_SCALE
            if not scaled:
                raise NotFiniteError("gradient", found)
            found["gradient"] = 0.0  # the scaler skips this step and halves the scale
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return found

    def _gradient(self, images: Tensor, target: Tensor, last: bool) -> dict[str, Tensor]:
        """Add the gradient of a part of the batch; the last part's call averages over processes."""
        train, processes = self.config.train, self.processes
        pixels = images.to(self.device, non_blocking=True).to(compute_dtype(train)).div_(255)
        if train.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        truth = target.to(self.device, compute_dtype(train), non_blocking=True)
        wait = isinstance(self.model, DistributedDataParallel) and not last
        with self.model.no_sync() if wait else nullcontext():  # type: ignore[operator]
            with autocast(train, self.device):
                output = self.model(pixels)
                loss = objective(
                    output,
                    truth,
                    train.cocs.gammas(),
                    train.loss,
                    self.config.model.input_size,
                    processes.group if train.cocs_scope == "global" else None,
                    processes.size * train.accumulate,
                )
            self.scaler.scale(loss.total / train.accumulate).backward()
        terms = {"loss": loss.total.detach(), "landmarks": loss.landmarks.detach()}
        terms.update(zip((f"cocs_{level}" for level in LEVELS), loss.cocs.detach(), strict=False))
        landmarks = output.landmarks.detach()
        error = self._nme(landmarks, truth)
        if error is not None:
            terms["nme"] = error
        self.sample = Sample(images, landmarks, truth)
        return terms

    def _nme(self, landmarks: Tensor, truth: Tensor) -> Tensor | None:
        """Mean inter-ocular NME of a batch in %; None for a layout without eye corners."""
        if self._eyes is None:
            return None
        left, right = self._eyes
        distance = (truth[:, left] - truth[:, right]).norm(dim=1).clamp_min(1e-6)
        return 100 * ((landmarks - truth).norm(dim=2).mean(1) / distance).mean()


def _eye_indices(points: int) -> tuple[int, int] | None:
    known = layout_or_none(points)
    return None if known is None else known.ocular
