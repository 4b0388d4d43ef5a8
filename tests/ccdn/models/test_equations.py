"""Equations 1 to 9 line by line: a slow literal network gives the model's outputs, losses and
gradients.

`Literal` reads the model's weights by their names and does one excitation, one order and one sample
at a time: no grouped convolution, no operator of ccdn_ops, autograd through every line.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ccdn.config import LossConfig, ModelConfig
from ccdn.models import CCDN, build_model, objective
from ccdn.models.network import Output

TINY = ModelConfig(
    points=5,
    input_size=32,
    stem_stride=1,
    stem_channels=4,
    stacks=2,
    depth=2,
    channels=6,
    stage_channels=[8, 12],
    excitations=3,
)
VARIANTS = {"ccdn": {}, "fcdn": {"orders": 1}, "baseline": {"ctm": False}}
# What the paper leaves open, each other choice alone.
CHOICES = [
    {"residual": "postactivation"},
    {"blocks": 2},
    {"upsample": "deconv"},
    {"stem_stride": 2},
    {"intermediate": True},
    {"stage_norm": "none"},
    {"stage_input": "excited"},
    {"excitations": 1},
    {"gate_weights": "shared"},
    {"gate_bias": False},
    {"squeeze_norm": "layer"},
    {"squeeze_norm": "layer", "orders": 1},
    {"squeeze_norm": "layer", "covariance_divisor": "n-1"},
    {"iterations": 3},
    {"covariance": "uncentred"},
    {"covariance_divisor": "n-1"},
    {"covariance": "uncentred", "covariance_divisor": "n-1", "gate_weights": "shared"},
    {"fusion_weights": "shared"},
    {"fusion_kernel": 2},
    {"fusion_activation": "relu"},
    {"head": "sum"},
    {"head": "integral"},
    {"head": "integral", "ctm": False},
]
GAMMAS = (0.025, 0.01, 0.05)


class Literal:
    """The network of a configuration in training mode, computed from weights by name."""

    def __init__(self, config: ModelConfig, weights: dict[str, Tensor]) -> None:
        self.config, self.weights = config, weights

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Landmarks (B, L, 2), X_hat's features f at T, T-1 and G (B, P, D), not normalised, and
        the landmarks after each supervised hourglass."""
        config = self.config
        x = self.conv("stem.conv", (images - 0.5) * 4, stride=config.stem_stride, padding=1)
        x = F.max_pool2d(self.blocks("stem.block1", x), 2)
        x = self.blocks("stem.block2", x)
        early = []
        for i in range(config.stacks):
            x = self.hourglass(f"stack.{i}", x, config.depth)
            if config.intermediate and i < config.stacks - 1:
                pooled = gap(F.relu(self.norm(f"norms_stack.{i}", x)))
                early.append(self.linear(f"heads_stack.{i}", pooled).view(-1, config.points, 2))
        fine = x
        for i in range(3 - config.stem_stride):
            fine = self.blocks(f"stage_fine.{i}", fine, stride=2)
        if not config.ctm:
            coarse = self.blocks("stage_coarse.0", fine, stride=2)
            return self.landmarks([self.norm_relu("norm_coarse", coarse)]), [], early

        excited_fine = self.ctm("ctm_fine", self.norm_relu("norm_fine", fine))
        source = fine
        if config.stage_input == "excited":
            source = sum(excited_fine) / config.excitations
        coarse = self.norm_relu("norm_coarse", self.blocks("stage_coarse.0", source, stride=2))
        excited_coarse = self.ctm("ctm_coarse", coarse)
        fused = self.cff(excited_fine, excited_coarse)
        landmarks = self.landmarks(fused)
        if config.head == "sum":
            for name, maps in (("head_fine", excited_fine), ("head_coarse", excited_coarse)):
                flat = self.linear(name, torch.cat([gap(x) for x in maps], 1))
                landmarks = landmarks + flat.view(-1, config.points, 2)
        levels = (excited_coarse, excited_fine, fused)
        features = [torch.stack([gap(x) for x in maps], 1) for maps in levels]
        return landmarks, features, early

    def landmarks(self, maps: list[Tensor]) -> Tensor:
        """The head's share of the landmarks, (B, L, 2), of one (B, D, H, W) for each p."""
        points, linear = self.config.points, torch.cat([gap(x) for x in maps], 1)
        if self.config.head != "integral":
            return self.linear("head", linear).view(-1, points, 2)
        flat = linear @ self.weights["head.weight"].T
        return flat.view(-1, points, 2) + self.expected_positions(torch.cat(maps, 1))

    def expected_positions(self, maps: Tensor) -> Tensor:
        """Integral regression, one landmark of one sample after the other."""
        weight, centre = (self.weights[f"head_integral.{n}"] for n in ("weight", "centre"))
        height, width = maps.shape[2:]
        found = torch.zeros(len(maps), len(weight), 2, dtype=maps.dtype)
        for b, sample in enumerate(maps):
            for point in range(len(weight)):
                total, x_sum, y_sum = 0.0, 0.0, 0.0
                for i, j in itertools.product(range(height), range(width)):
                    x, y = (j + 0.5) / width, (i + 0.5) / height
                    away = (x - centre[point, 0]) ** 2 + (y - centre[point, 1]) ** 2
                    seen = weight[point, :, 0, 0] @ F.relu(sample[:, i, j])
                    chance = (seen - away / (2 * 0.2**2)).exp()
                    total, x_sum, y_sum = total + chance, x_sum + chance * x, y_sum + chance * y
                found[b, point] = torch.stack([x_sum / total, y_sum / total])
        return found

    def ctm(self, name: str, x: Tensor) -> list[Tensor]:
        """Eqs. 1 to 4: the maps X_hat_p, one (B, D, H, W) for each p."""
        config = self.config
        reduce, expand = (
            self.weights[f"{name}.reduce_weight"],
            self.weights[f"{name}.expand_weight"],
        )
        excited = []
        for p in range(config.excitations):
            samples = []
            for sample in x:  # (D, H, W)
                kappas = [first_order(sample)]
                if config.orders == 2:
                    kappas.append(second_order(sample, config))
                x_hat = torch.zeros_like(sample)
                if config.squeeze_norm == "layer":
                    kappas = [normalised(kappa) for kappa in kappas]
                for order, kappa in enumerate(kappas):
                    own = 0 if config.gate_weights == "shared" else order
                    hidden = reduce[p, own] @ kappa
                    if config.gate_bias:
                        hidden = hidden + self.weights[f"{name}.reduce_bias"][p, own]
                    logits = expand[p, own] @ F.relu(hidden)
                    if config.gate_bias:
                        logits = logits + self.weights[f"{name}.expand_bias"][p, own]
                    s = torch.sigmoid(logits)  # eq. 3
                    x_hat = x_hat + s[:, None, None] * sample  # eqs. 3 and 4
                samples.append(x_hat)
            excited.append(torch.stack(samples))
        return excited

    def cff(self, fine: list[Tensor], coarse: list[Tensor]) -> list[Tensor]:
        """Eq. 7: X_hat_G^p = BN(K2 * (X_hat_{T-1}^p + Deconv(K1 * X_hat_T^p)))."""
        config = self.config
        before = []
        for p in range(config.excitations):
            up = F.conv2d(coarse[p], self.of("cff.reduce.weight", p), self.of("cff.reduce.bias", p))
            # The weights of a transposed convolution have the input's channels first.
            up = F.conv_transpose2d(
                up,
                self.of("cff.resize.weight", p),
                self.of("cff.resize.bias", p),
                stride=2,
                padding=(config.fusion_kernel - 2) // 2,
            )
            before.append(F.conv2d(fine[p] + up, self.of("cff.smooth.weight", p), padding=1))
        if config.fusion_weights == "shared":  # one BN over all of them
            fused = list(self.norm("cff.norm", torch.cat(before)).chunk(config.excitations))
        else:
            fused = [
                batch_norm(x, self.of("cff.norm.weight", p), self.of("cff.norm.bias", p))
                for p, x in enumerate(before)
            ]
        return [F.relu(x) for x in fused] if config.fusion_activation == "relu" else fused

    def of(self, name: str, p: int) -> Tensor:
        """Excitation p's share of a grouped layer's weights."""
        whole = self.weights[name]
        if self.config.fusion_weights == "shared":
            return whole
        size = self.config.stage_channels[0]
        return whole[p * size : (p + 1) * size]

    def hourglass(self, name: str, x: Tensor, depth: int) -> Tensor:
        low = self.blocks(f"{name}.down", F.max_pool2d(x, 2))
        if depth > 1:
            low = self.hourglass(f"{name}.inner", low, depth - 1)
        else:
            low = self.blocks(f"{name}.inner", low)
        low = self.blocks(f"{name}.up", low)
        if self.config.upsample == "nearest":
            low = low.repeat_interleave(2, 2).repeat_interleave(2, 3)
        else:
            weight, bias = (self.weights[f"{name}.resize.{n}"] for n in ("weight", "bias"))
            low = F.conv_transpose2d(low, weight, bias, stride=2, padding=1)
        return self.blocks(f"{name}.across", x) + low

    def blocks(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        if self.config.blocks == 1:
            return self.residual(name, x, stride)
        for i in range(self.config.blocks):
            x = self.residual(f"{name}.{i}", x, stride if i == 0 else 1)
        return x

    def residual(self, name: str, x: Tensor, stride: int) -> Tensor:
        skip = x
        if f"{name}.skip.weight" in self.weights:
            skip = self.conv(f"{name}.skip", x, stride=stride)
        settings = [{}, {"stride": stride, "padding": 1}, {}]
        y = x
        for i, setting in enumerate(settings, start=1):
            if self.config.residual == "preactivation":
                y = self.conv(f"{name}.conv{i}", F.relu(self.norm(f"{name}.norm{i}", y)), **setting)
            else:
                y = self.norm(f"{name}.norm{i}", self.conv(f"{name}.conv{i}", y, **setting))
                y = F.relu(y) if i < 3 else y
        y = y + skip
        return y if self.config.residual == "preactivation" else F.relu(y)

    def norm_relu(self, name: str, x: Tensor) -> Tensor:
        return x if self.config.stage_norm == "none" else F.relu(self.norm(name, x))

    def norm(self, name: str, x: Tensor) -> Tensor:
        return batch_norm(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride, padding)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * weight[:, None, None] + bias[:, None, None]


def gap(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def first_order(sample: Tensor) -> Tensor:
    """Eq. 1: the mean over the positions, (D,)."""
    return sample.flatten(1).mean(1)


def second_order(sample: Tensor, config: ModelConfig) -> Tensor:
    """Eq. 2: the mean over the columns of Y_hat, (D,), by iSQRT-COV's iteration."""
    x = sample.flatten(1)
    channels, positions = x.shape
    if config.covariance == "centred":
        x = x - x.mean(1, keepdim=True)
    divisor = positions if config.covariance_divisor == "n" else positions - 1
    sigma = torch.zeros(channels, channels, dtype=x.dtype)
    for n in range(positions):
        sigma = sigma + torch.outer(x[:, n], x[:, n]) / divisor
    trace = sigma.trace()
    eye = torch.eye(channels, dtype=x.dtype)
    y, z = sigma / trace, eye
    for _ in range(config.iterations):
        y, z = 0.5 * y @ (3 * eye - z @ y), 0.5 * (3 * eye - z @ y) @ z
    y_hat = trace.sqrt() * y
    return y_hat.mean(1)


def normalised(kappa: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the channels."""
    away = kappa - kappa.mean()
    return away / (away.square().mean() + 1e-12).sqrt()


def decorrelation(features: Tensor) -> Tensor:
    """Eqs. 5 and 6: L(Q) of f (B, P, D), pair by pair."""
    batch, excitations, _ = features.shape
    f = features / features.norm(dim=2, keepdim=True)  # eq. 5: l2-normalised
    q = [[torch.zeros(()).double() for _ in range(excitations)] for _ in range(excitations)]
    for p in range(excitations):
        for other in range(excitations):
            for i in range(batch):
                for j in range(batch):
                    q[p][other] = q[p][other] + f[i, p] @ f[j, other] / batch**2
    whole = torch.stack([torch.stack(row) for row in q])
    diagonal = whole.diagonal().square().sum()
    return (whole.square().sum() - diagonal) / diagonal  # eq. 6


def model_of(config: ModelConfig) -> CCDN:
    """A network with nothing at its initial value, in which every weight matters."""
    torch.manual_seed(0)
    model = build_model(config).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    model.set_mean_shape(torch.rand(config.points, 2) * 0.6 + 0.2)
    return model


def agree(found: Tensor, expected: Tensor, name: str) -> None:
    assert found.shape == expected.shape, name
    error = (found - expected).norm().item()
    # The gradient of a bias before a normalisation is rounding and nothing else.
    assert error <= 1e-10 * expected.norm().item() + 1e-13, f"{name}: {error:.1e}"


@pytest.mark.parametrize("changes", [*VARIANTS.values(), *CHOICES], ids=str)
def test_the_model_is_the_equations(changes: dict[str, object], backend: str) -> None:
    config = replace(TINY, **changes)
    model = model_of(config)
    torch.manual_seed(1)
    images, target = torch.rand(3, 3, 32, 32).double(), torch.rand(3, 5, 2).double()

    output = model(images)
    found = objective(output, target, GAMMAS)
    found.total.backward()

    weights = {n: w.detach().clone().requires_grad_() for n, w in model.named_parameters()}
    landmarks, features, early = Literal(config, weights | dict(model.named_buffers()))(images)
    error = sum(((landmarks[i] - target[i]) ** 2).sum() for i in range(3)) / 3
    total = error + sum(((e - target) ** 2).sum() / 3 for e in early)
    losses = [decorrelation(f) for f in features]
    for gamma, loss in zip(GAMMAS, losses, strict=False):  # eq. 9
        total = total + gamma * loss

    agree(output.landmarks, landmarks, "landmarks")
    assert len(output.features) == len(features) == (3 if config.ctm else 0)
    for level, (mine, literal) in enumerate(zip(output.features, features, strict=True)):
        agree(mine, literal, f"features of level {level}")
    assert len(output.intermediate) == len(early) == (1 if config.intermediate else 0)
    agree(found.landmarks, error, "squared error")
    if losses:
        agree(found.cocs, torch.stack(losses), "L(Q_T), L(Q_T-1), L(Q_G)")
        agree(found.cocs.sum(), sum(losses), "eq. 8")
    agree(found.total, total, "eq. 9")

    names = list(weights)
    grads = torch.autograd.grad(total, [weights[n] for n in names])
    own = dict(model.named_parameters())
    for name, grad in zip(names, grads, strict=True):
        agree(own[name].grad, grad, f"gradient of {name}")
        if not name.endswith("bias"):
            assert grad.norm() > 1e-9, f"{name} does not matter: the comparison says nothing"


@pytest.mark.parametrize(
    ("loss", "scale"),
    [
        (LossConfig(), 1 / 3),
        (LossConfig(coordinates="pixels"), 32**2 / 3),
        (LossConfig(over_points="mean"), 1 / 15),
        (LossConfig(over_batch="sum"), 1.0),
    ],
)
def test_units_and_sums_of_eq_9(loss: LossConfig, scale: float) -> None:
    model = model_of(replace(TINY, ctm=False, intermediate=True))
    torch.manual_seed(1)
    images, target = torch.rand(3, 3, 32, 32).double(), torch.rand(3, 5, 2).double()
    output = model(images)
    found = objective(output, target, (), loss, input_size=32)
    squares = ((output.landmarks - target) ** 2).sum()
    agree(found.landmarks, squares * scale, "squared error")
    early = ((output.intermediate[0] - target) ** 2).sum()
    agree(found.total, (squares + early) * scale, "total")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cocs_of_16_bit_features_is_weighed_in_float32(dtype: torch.dtype) -> None:
    """Under autocast, with the loss scaled as GradScaler does at first."""
    random = torch.Generator().manual_seed(0)
    wide = [torch.randn(4, 3, 8, generator=random).to(dtype) for _ in range(3)]
    features = tuple(one.clone().requires_grad_() for one in wide)
    landmarks = torch.rand(4, 5, 2, generator=random)
    gammas = (0.025, 0.01, 0.05)
    with torch.autocast("cpu", dtype):
        found = objective(Output(landmarks, features), landmarks + 0.1, gammas)
    doubles = tuple(one.double().requires_grad_() for one in wide)
    landmarks = landmarks.double()
    expected = objective(Output(landmarks, doubles), landmarks + 0.1, gammas)
    torch.testing.assert_close(found.total.double(), expected.total, rtol=1e-6, atol=0)
    scale = 65536.0
    (found.total * scale).backward()
    (expected.total * scale).backward()
    for ours, theirs in zip(features, doubles, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        # One rounding to the features' type.
        error = (ours.grad.double() - theirs.grad).abs().max() / theirs.grad.abs().max()
        assert error < torch.finfo(dtype).eps
