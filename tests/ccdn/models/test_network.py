"""The network: shapes, variants, what its configuration refuses, and the objective of eq. 9."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from ccdn.config import LossConfig, ModelConfig, differences, load_config, presets
from ccdn.models import Output, build_model, objective
from ccdn.models.excitation import CFF

TINY = ModelConfig(
    points=5,
    input_size=32,
    stem_stride=1,
    stem_channels=4,
    stacks=2,
    depth=2,
    channels=8,
    stage_channels=[12, 16],
    excitations=3,
)
GAMMAS = (0.025, 0.01, 0.05)
VARIANT_FIELDS = {"fcdn": {"model.orders": 1}, "baseline": {"model.ctm": False}}


def model(**changes):
    torch.manual_seed(0)
    return build_model(replace(TINY, **changes))


@pytest.mark.parametrize("name", presets())
def test_every_preset_builds_and_takes_its_input(name):
    config = load_config(name).model
    with torch.device("meta"):
        network = build_model(config)
        crops = torch.empty(2, 3, config.input_size, config.input_size)
        stack = network.stack(network.stem(crops))
        fine = network.stage_fine(stack)
        coarse = network.stage_coarse(fine)
    size = config.input_size
    assert stack.shape[2:] == (size // (2 * config.stem_stride),) * 2
    assert fine.shape == (2, config.stage_channels[0], size // 8, size // 8)
    assert coarse.shape == (2, config.stage_channels[1], size // 16, size // 16)


@pytest.mark.parametrize(
    ("stem_stride", "orders", "excitations", "head", "upsample"),
    list(
        itertools.product(
            (1, 2), (1, 2), (1, 3), ("fused", "sum", "integral"), ("nearest", "deconv")
        )
    ),
)
def test_variants_train(stem_stride, orders, excitations, head, upsample):
    network = model(
        stem_stride=stem_stride,
        orders=orders,
        excitations=excitations,
        head=head,
        upsample=upsample,
    )
    output = network(torch.rand(2, 3, 32, 32))
    assert output.landmarks.shape == (2, 5, 2)
    assert [f.shape for f in output.features] == [(2, excitations, d) for d in (16, 12, 12)]
    loss = objective(output, torch.rand(2, 5, 2), GAMMAS)
    loss.total.backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


@pytest.mark.parametrize("points", [19, 29, 68, 98, 7])
@pytest.mark.parametrize("variant", [{}, {"orders": 1}, {"ctm": False}, {"head": "integral"}])
def test_any_number_of_landmarks(points, variant):
    network = model(points=points, **variant)
    assert network(torch.rand(2, 3, 32, 32)).landmarks.shape == (2, points, 2)


def test_variants_differ_from_their_base_in_one_field_and_the_folder():
    for base, variant in itertools.product(("paper", "small", "quick", "tiny"), VARIANT_FIELDS):
        found = differences(load_config(base), load_config(f"{base}-{variant}"))
        assert {k: v for k, (_, v) in found.items()} == {
            **VARIANT_FIELDS[variant],
            "train.out": f"runs/{base}-{variant}",
        }


@pytest.mark.parametrize("kind", ["preactivation", "postactivation"])
def test_initial_weights(kind):
    network = model(residual=kind, channels=64, stem_channels=32, stage_channels=[96, 128])
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            fan = layer.weight[0].numel()
            count = layer.weight.numel()
            assert abs(layer.weight.square().mean() * fan / 2 - 1) < 6 * (2 / count) ** 0.5, name
            assert layer.bias is None or not layer.bias.any(), name
        elif isinstance(layer, torch.nn.BatchNorm2d):
            assert (layer.weight == 1).all(), name
            assert not layer.bias.any(), name
    assert not network.head.weight.any()
    for ctm in (network.ctm_fine, network.ctm_coarse):
        deviation = (2 / ctm.channels) ** 0.5
        assert abs(ctm.reduce_weight.std() / deviation - 1) < 0.05
        assert not ctm.expand_bias.any()


def test_spread_of_each_point():
    network = model(spread=True)
    crops = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network(crops).spread, torch.full((2, 5), 0.05))
    with torch.no_grad():
        network.head_spread.weight.normal_(0, 0.1)
        network.head_spread.bias[0] += 100
        network.head_spread.bias[1] -= 100
    output = network(crops)
    pooled = network.maps(crops).pooled.flatten(1)
    logarithm = pooled @ network.head_spread.weight.T + network.head_spread.bias
    torch.testing.assert_close(output.spread[:, 2:], logarithm[:, 2:].exp())
    assert (output.spread[:, 0] == 1).all()  # of the crop
    torch.testing.assert_close(output.spread[:, 1], torch.full((2,), 0.001))
    network.head_spread.bias.data[:2] = 0
    loss = LossConfig(kind="laplace")
    objective(network(crops), torch.rand(2, 5, 2), GAMMAS, loss).total.backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
    assert model().train()(crops).spread is None
    with pytest.raises(ValueError, match=r"model\.intermediate have none"):
        model(spread=True, intermediate=True)


def test_intermediate_supervision_is_for_training_alone():
    network = model(intermediate=True, stacks=3)
    assert len(network(torch.rand(2, 3, 32, 32)).intermediate) == 2
    assert network.eval()(torch.rand(2, 3, 32, 32)).intermediate == ()


def test_baseline_has_no_excitation():
    network = model(ctm=False)
    assert not [name for name, _ in network.named_modules() if "ctm" in name or "cff" in name]
    output = network(torch.rand(2, 3, 32, 32))
    assert output.features == ()
    loss = objective(output, torch.zeros(2, 5, 2), ())
    assert loss.cocs.shape == (0,)
    assert loss.total == loss.landmarks


@pytest.mark.parametrize("changes", [{}, {"head": "integral"}, {"head": "integral", "ctm": False}])
def test_regression_starts_at_the_mean_shape(changes):
    network = model(**changes, input_size=64).eval()
    # The integral head's prior is for means at least a cell of the map, of 4 x 4, from the border.
    shape = torch.rand(5, 2) * 0.5 + 0.25
    network.set_mean_shape(shape)
    torch.testing.assert_close(network(torch.rand(2, 3, 64, 64)).landmarks, shape.expand(2, -1, -1))
    with pytest.raises(ValueError, match=r"\(5, 2\), found \(4, 2\)"):
        network.set_mean_shape(torch.rand(4, 2))


def test_landmarks_do_not_depend_on_the_batch_in_evaluation():
    network = model().eval()
    crops = torch.rand(3, 3, 32, 32)
    together = network(crops).landmarks
    alone = torch.cat([network(crop[None]).landmarks for crop in crops])
    torch.testing.assert_close(together, alone)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is")
@pytest.mark.parametrize("changes", [{}, {"head": "integral"}])
def test_torchscript_takes_any_batch(changes):
    network = model(**changes).double().eval().requires_grad_(False)
    torch.nn.init.normal_(network.head.weight, std=0.1)
    if network.head_integral is not None:
        torch.nn.init.normal_(network.head_integral.weight, std=0.1)
    traced = torch.jit.trace(lambda x: network(x).landmarks, torch.rand(2, 3, 32, 32).double())
    crops = torch.rand(5, 3, 32, 32).double()
    expected = network(crops).landmarks
    assert (expected - expected.mean(0)).abs().max() > 1e-3
    torch.testing.assert_close(traced(crops), expected)


def test_channels_last_changes_nothing():
    crops = torch.rand(2, 3, 32, 32)
    network = model().eval()
    expected = network(crops)
    network.to(memory_format=torch.channels_last)
    found = network(crops.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found.landmarks, expected.landmarks, rtol=1e-4, atol=1e-5)


def test_cff_is_eq_7_for_each_excitation_alone():
    torch.manual_seed(0)
    cff = CFF(excitations=2, fine=3, coarse=4).double().eval()
    torch.nn.init.uniform_(cff.norm.running_mean)
    fine, coarse = torch.rand(2, 2, 3, 8, 8).double(), torch.rand(2, 2, 4, 4, 4).double()
    found = cff(fine, coarse)
    for p in range(2):
        rows = slice(3 * p, 3 * p + 3)
        up = torch.nn.functional.conv2d(
            coarse[:, p], cff.reduce.weight[rows], cff.reduce.bias[rows]
        )
        up = torch.nn.functional.conv_transpose2d(
            up, cff.resize.weight[rows], cff.resize.bias[rows], stride=2, padding=1
        )
        smooth = torch.nn.functional.conv2d(fine[:, p] + up, cff.smooth.weight[rows], padding=1)
        mean, var = cff.norm.running_mean[rows], cff.norm.running_var[rows]
        expected = (smooth - mean.view(1, 3, 1, 1)) / (var.view(1, 3, 1, 1) + cff.norm.eps).sqrt()
        torch.testing.assert_close(found[:, p], expected)


def decorrelation(features):
    """Eqs. 5 and 6, pair by pair."""
    batch, excitations, _ = features.shape
    unit = torch.nn.functional.normalize(features, dim=2)
    q = torch.empty(excitations, excitations)
    for i, j in itertools.product(range(excitations), repeat=2):
        q[i, j] = (unit[:, i] @ unit[:, j].T).sum() / batch**2
    diagonal = q.diagonal().square().sum()
    return (q.square().sum() - diagonal) / diagonal


def test_objective_is_eq_9():
    torch.manual_seed(1)
    features = tuple(torch.rand(4, 3, d) for d in (6, 5, 5))
    output = Output(torch.rand(4, 5, 2), features)
    target = torch.rand(4, 5, 2)
    found = objective(output, target, GAMMAS)
    error = ((output.landmarks - target) ** 2).sum() / 4
    cocs = [decorrelation(f) for f in features]
    torch.testing.assert_close(found.landmarks, error)
    torch.testing.assert_close(found.cocs, torch.stack(cocs))
    expected = error + sum(g * c for g, c in zip(GAMMAS, cocs, strict=True))
    torch.testing.assert_close(found.total, expected)


def test_objective_refuses_what_does_not_fit():
    output = Output(torch.rand(4, 5, 2), ())
    with pytest.raises(ValueError, match=r"\(4, 5, 2\), found \(4, 6, 2\)"):
        objective(output, torch.rand(4, 6, 2), ())
    with_features = Output(torch.rand(4, 5, 2), (torch.rand(4, 3, 6),))
    with pytest.raises(ValueError, match="expected 1 weights gamma, found 3"):
        objective(with_features, torch.rand(4, 5, 2), GAMMAS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem_stride": 3}, "stem_stride: expected one of 1, 2; found 3"),
        ({"head": "linear"}, "head: expected one of fused, sum, integral; found 'linear'"),
        ({"upsample": "cubic"}, "upsample: expected one of nearest, deconv; found 'cubic'"),
        ({"orders": 3}, "orders: expected one of 1, 2; found 3"),
        ({"stage_channels": [8]}, r"widths of T-1 and T, found \[8\]"),
        ({"stage_channels": [8, 0]}, r"stage_channels\[1\]: expected at least 1, found 0"),
        ({"input_size": 40}, "multiple of 16 .* found 40"),
        ({"excitations": 0}, "excitations: expected at least 1, found 0"),
        ({"iterations": 11}, "iterations: expected 1 to 10, found 11"),
        ({"depth": 10**12}, "depth: expected 1 to 30, found 1000000000000"),
        ({"ctm": False, "stage_input": "excited"}, "stage_input: excited needs an excitation"),
    ],
)
def test_configurations_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        model(**changes)(torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 64, 64)])
def test_crops_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"expected crops \(B, 3, 32, 32\), found"):
        model()(torch.rand(shape))
