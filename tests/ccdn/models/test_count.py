"""Weights and multiply-adds: torch's count and one by hand agree, and the page is current."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from ccdn.cli import models as command
from ccdn.config import ModelConfig, load_config
from ccdn.models.count import count, flops_of
from ccdn.models.excitation import CFF, Excitation
from ccdn.models.hourglass import Hourglass, PostActivation, Residual, Stem

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


def conv(inputs: int, outputs: int, kernel: int, side: int, groups: int = 1) -> int:
    """Multiply-adds of a convolution whose output is side x side."""
    return side**2 * outputs * (inputs // groups) * kernel**2


def residual(inputs: int, outputs: int, side: int, stride: int = 1) -> int:
    """side is the input's."""
    inner, small = outputs // 2, side // stride
    skip = conv(inputs, outputs, 1, small) if inputs != outputs or stride > 1 else 0
    return (
        conv(inputs, inner, 1, side)
        + conv(inner, inner, 3, small)
        + conv(inner, outputs, 1, small)
        + skip
    )


def hourglass(channels: int, side: int, depth: int) -> int:
    small = residual(channels, channels, side // 2)
    inner = hourglass(channels, side // 2, depth - 1) if depth > 1 else small
    return residual(channels, channels, side) + 2 * small + inner


def gates(channels: int, excitations: int, orders: int, reduction: int) -> int:
    return excitations * orders * 2 * channels * (channels // reduction)


CTM = ModelConfig(excitations=3, reduction=4)
# M = 2A - 1 of 16 x 16 positions' Gram matrix: half of its symmetric product, a product with a
# vector for each of the 28 Chebyshev terms after the first, and four with the features.
SQUEEZE = 16 * 17 * 24 // 2 + 28 * 16**2 + 2 * 24 * 16

BLOCKS = {
    "residual": (Residual(8, 12, stride=2), [(8, 16, 16)], residual(8, 12, 16, 2)),
    "postactivation": (PostActivation(12, 12), [(12, 16, 16)], residual(12, 12, 16)),
    "hourglass": (Hourglass(3, 8), [(8, 32, 32)], hourglass(8, 32, 3)),
    "deconv": (
        Hourglass(1, 8, "deconv"),
        [(8, 32, 32)],
        # A transposed convolution multiplies every input with the whole kernel.
        hourglass(8, 32, 1) + 16**2 * 8 * 8 * 4**2,
    ),
    "stem": (
        Stem(4, 16, 2),
        [(3, 32, 32)],
        conv(3, 4, 3, 16) + residual(4, 8, 16) + residual(8, 16, 8),
    ),
    "ctm": (
        Excitation(24, CTM),
        [(24, 4, 4)],
        gates(24, 3, 2, 4) + 3 * 24 * 16 + SQUEEZE,
    ),
    "ctm of one order": (
        Excitation(24, ModelConfig(excitations=3, orders=1)),
        [(24, 4, 4)],
        gates(24, 3, 1, 4) + 3 * 24 * 16,
    ),
    "cff": (
        CFF(3, 8, 12),
        [(3, 8, 8, 8), (3, 12, 4, 4)],
        3 * (conv(12, 8, 1, 4) + 4**2 * 8 * 8 * 4**2 + conv(8, 8, 3, 8)),
    ),
    "head": (nn.Linear(24, 10), [(24,)], 240),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_torch_and_a_hand_count_the_same(name: str) -> None:
    block, shapes, expected = BLOCKS[name]
    inputs = [torch.rand(2, *shape) for shape in shapes]
    assert flops_of(block.eval(), *inputs)["Global"] == 2 * 2 * expected


def test_weights_by_hand() -> None:
    found = count(load_config("tiny").model).weights
    fine, coarse, p, points = 48, 64, 4, 68
    # K1 and its bias, the deconvolution and its bias, K2, and BN
    assert found["CFF"] == p * (coarse * fine + fine + fine**2 * 16 + fine + fine**2 * 9 + 2 * fine)
    assert found["CTM"] == sum(p * 2 * (2 * d * (d // 4) + d // 4 + d) for d in (fine, coarse))
    # Of each point a map of logits, and x and y from the pooled maps; the softmax needs no biases.
    assert found["heads"] == p * fine * 3 * points


def test_the_parts_of_the_paper_s_network() -> None:
    found = count(load_config("paper").model)
    stem = conv(3, 64, 3, 128) + residual(64, 128, 128) + residual(128, 256, 64)
    assert found.multiply_adds["stem and stack"] == stem + 4 * hourglass(256, 64, 4)
    stages = residual(256, 256, 64, 2) + residual(256, 256, 32, 2) + residual(256, 512, 16, 2)
    assert found.multiply_adds["stages"] == stages
    # 12 products of 512 x 512 and of 256 x 256, and both covariances, in the place of the series
    iteration = 12 * (512**3 + 256**3) + 512**2 * 64 + 256**2 * 256
    assert iteration * 0.98 < found.iteration < iteration


def test_the_page_is_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    block = re.search(r"<!-- ccdn models --markdown -->\n(.*?)<!-- end -->", text, re.S)
    assert block is not None
    rows = command.table(command.presets())
    assert block[1].splitlines() == command.markdown(rows), "run the command and paste its table"


def test_the_page_names_every_field() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in ModelConfig.__dataclass_fields__:
        assert re.search(rf"`(model\.)?{name}(=\d)?`", text), f"docs/models.md lacks {name}"


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["tiny", "model.excitations=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("tiny ")
    assert len({len(line) for line in lines}) <= 2
    assert command.main(["tyny"]) == 2
    assert "no configuration 'tyny'" in capsys.readouterr().err
    assert command.main(["tiny", "model.channels=1000000000000"]) == 2
    assert "too large for the memory" in capsys.readouterr().err
