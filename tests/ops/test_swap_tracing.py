"""Symbolic tracing, quantisation and TorchScript work after a swap as they did before it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import err
from published import MPNCOV, SOCA
from se_blocks import BLOCKS, CHANNELS, EffectiveSE, SELayer, SEModule, SqueezeExcitation, network
from torch import Tensor, nn
from torch.jit._builtins import _get_builtin_table

from ccdn_ops import covariance_pool, swap_second_order, swap_squeeze_excite
from ccdn_ops.nn import CTM, ISqrtCovPool, SecondOrderAttention, SqueezeExcite

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own: of TorchScript, and of tracing


def freed_operators() -> list[int]:
    """Addresses under which TorchScript finds an operator that is no longer there.

    It looks up by its address whether an object is an operator (torch.jit._builtins). A second
    overload of an operator of Python replaces its object and frees the first, whose address stays:
    whatever comes to lie there, a list of a convolution's, "cannot be used as a value".
    """
    found = []
    for address, name in list(_get_builtin_table().items()):
        namespace, _, operator = name.partition("::")
        if namespace not in ("aten", "prim"):  # torch's own are never replaced
            packet = getattr(getattr(torch.ops, namespace), operator, None)
            if packet is None or id(packet._op) != address:
                found.append(address)
    return found


@pytest.fixture(autouse=True)
def no_freed_operators() -> None:
    for address in freed_operators():
        del _get_builtin_table()[address]


def test_quantisation_frees_operators() -> None:
    """Once torch cleans up itself, the fixture above can go."""
    code = (
        "from test_swap_tracing import freed_operators\n"
        "assert not freed_operators()\n"
        "import torch.ao.quantization.quantize_fx\n"
        "assert freed_operators()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr


def images(batch: int = 2, size: int = 9) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def swapped() -> tuple[nn.Module, nn.Module]:
    """A network after a swap, and before."""
    torch.manual_seed(0)
    blocks = (SEModule(norm=nn.BatchNorm2d), SqueezeExcitation(), SELayer(), EffectiveSE())
    original = network(*blocks).eval()
    model = copy.deepcopy(original)
    assert len(swap_squeeze_excite(model).replaced) == len(blocks)
    return model, original


def quantised(model: nn.Module) -> nn.Module:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    prepared = prepare_fx(model, get_default_qconfig_mapping("x86"), (images(),))
    prepared(images())
    return convert_fx(prepared)


USES: dict[str, Callable[[nn.Module], Any]] = {
    "torch.fx.symbolic_trace": torch.fx.symbolic_trace,
    "FX quantisation": quantised,
    "torch.jit.script": torch.jit.script,
    "torch.jit.trace": lambda m: torch.jit.trace(m, images()),
    "torch.jit.freeze": lambda m: torch.jit.freeze(torch.jit.script(m)),
    "torch.export": lambda m: torch.export.export(m, (images(),)).module(),
    "torch.export, strict": lambda m: torch.export.export(m, (images(),), strict=True).module(),
}


@pytest.mark.parametrize("use", USES)
def test_it_works_after_a_swap(use: str) -> None:
    model, original = swapped()
    found, wanted = USES[use](copy.deepcopy(model)), USES[use](original)
    x = images()
    assert err(found(x).detach(), wanted(x).detach()) < 1e-5
    if "export" not in use:  # without dynamic shapes it has fixed ones
        assert err(found(images(3, 12)).detach(), wanted(images(3, 12)).detach()) < 1e-5
    swap_is_untouched = [type(m).__name__ for m in model.modules()].count("SwappedSqueezeExcite")
    assert swap_is_untouched == 4


@pytest.mark.parametrize("use", ["torch.fx.symbolic_trace", "torch.jit.script", "torch.jit.trace"])
def test_what_was_traced_trains(use: str) -> None:
    model, original = swapped()
    traced = USES[use](model)
    x = images()
    traced(x).square().sum().backward()
    original(x).square().sum().backward()
    grads = {name: p.grad for name, p in traced.named_parameters()}
    assert grads.keys() == dict(original.named_parameters()).keys()
    for name, parameter in original.named_parameters():
        assert err(grads[name], parameter.grad) < 1e-4


def run_elsewhere(code: str, *arguments: Path) -> None:
    """In a process that cannot import the project."""
    stop = "import sys; sys.modules.update(ccdn_ops=None, ccdn=None)\nimport torch\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", stop + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=arguments[0].parent,
    )
    assert done.returncode == 0, done.stderr


READ = (
    "model = torch.jit.load(sys.argv[1])\n"
    "x, wanted = torch.load(sys.argv[2])\n"
    "torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-5)\n"
)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("use", ["torch.jit.script", "torch.jit.trace"])
def test_a_saved_graph_runs_without_the_project(use: str, frozen: bool, tmp_path: Path) -> None:
    model, original = swapped()
    for parameter in model.parameters():
        parameter.requires_grad_(not frozen)
    torch.jit.save(USES[use](model), tmp_path / "model.pt")
    x = images(3, 11)
    torch.save((x, original(x).detach()), tmp_path / "wanted.pt")
    run_elsewhere(READ, tmp_path / "model.pt", tmp_path / "wanted.pt")


class Features(nn.Module):
    """Second-order layers and heads, as the papers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.soca = nn.Conv2d(3, 16, 3), SOCA(16, 4)
        self.head = MPNCOV(5, input_dim=16, is_vec=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.soca(self.conv(x)))


def test_second_order_is_traced_as_it_was() -> None:
    """The published code is made of autograd Functions, which TorchScript cannot save."""
    torch.manual_seed(0)
    original = Features().eval()
    model = copy.deepcopy(original)
    assert len(swap_second_order(model).replaced) == 2
    x = images()
    found = torch.jit.trace(model, x, check_trace=False)(x)
    assert err(found.detach(), original(x).detach()) < 1e-5


@pytest.mark.parametrize("use", ["torch.fx.symbolic_trace", "torch.jit.trace"])
def test_a_branch_of_second_order_is_traced_along(use: str) -> None:
    torch.manual_seed(0)
    model = network(SEModule(), SELayer()).eval()
    added = swap_squeeze_excite(model, second_order=True).new_parameters
    for parameter in added.values():
        nn.init.normal_(parameter, std=0.5)
    traced = USES[use](copy.deepcopy(model))
    for x in (images(), images(3, 12)):
        assert err(traced(x).detach(), model(x).detach()) < 1e-4
    model(images()).square().sum().backward()
    traced(images()).square().sum().backward()
    grads = dict(traced.named_parameters())
    for name, parameter in added.items():
        assert err(grads[name].grad, parameter.grad) < 1e-3


def test_a_branch_of_second_order_cannot_be_scripted() -> None:
    model = network(SEModule())
    swap_squeeze_excite(model, second_order=True)
    with pytest.raises(NotImplementedError, match=r"torch\.jit\.trace takes it along"):
        torch.jit.script(model)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "SqueezeExcite": lambda: SqueezeExcite(CHANNELS, 2),
    "SqueezeExcite, second order": lambda: SqueezeExcite(CHANNELS, 2, second_order=True),
    "SecondOrderAttention": lambda: SecondOrderAttention(CHANNELS, 2),
    "SecondOrderAttention, window": lambda: SecondOrderAttention(CHANNELS, 2, window=4),
    "ISqrtCovPool": ISqrtCovPool,
    "ISqrtCovPool, mean": lambda: ISqrtCovPool(output="mean"),
    "CTM": lambda: Excited(CTM(CHANNELS, 3)),
}


class Excited(nn.Module):
    def __init__(self, ctm: nn.Module) -> None:
        super().__init__()
        self.ctm = ctm

    def forward(self, x: Tensor) -> Tensor:
        return self.ctm(x)[0]


@pytest.mark.parametrize("use", ["torch.fx.symbolic_trace", "torch.jit.trace"])
@pytest.mark.parametrize("name", MODULES)
def test_the_modules_of_the_project_are_traced(name: str, use: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), MODULES[name]())
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    traced = USES[use](copy.deepcopy(model))
    x = images(3, 11)
    assert err(traced(x).detach(), model(x).detach()) < 1e-4
    traced(x).square().sum().backward()
    model(x).square().sum().backward()
    grads = dict(traced.named_parameters())
    largest = max(p.grad.norm().item() for p in model.parameters())
    for key, parameter in model.named_parameters():  # a bias before a covariance gets no gradient
        assert (grads[key].grad - parameter.grad).norm().item() < 1e-3 * largest
    if use == "torch.jit.trace":
        torch.jit.save(traced, tmp_path / "model.pt")
        torch.save((x, model(x).detach()), tmp_path / "wanted.pt")
        run_elsewhere(READ, tmp_path / "model.pt", tmp_path / "wanted.pt")


def test_an_operator_is_traced_to_functions_of_torch() -> None:
    traced = torch.jit.trace(lambda x: covariance_pool(x), images())
    assert "ccdn::" not in str(traced.graph)
    x = images(3, 12).requires_grad_()
    torch.testing.assert_close(traced(x), covariance_pool(x))
    assert traced(x).requires_grad


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_is_scripted_as_before(name: str) -> None:
    torch.manual_seed(0)
    block = BLOCKS[name]().eval()
    x = torch.randn(2, CHANNELS, 5, 6)
    try:
        wanted = torch.jit.script(copy.deepcopy(block))(x)
    except Exception as error:
        swap_squeeze_excite(block)
        with pytest.raises(type(error)):
            torch.jit.script(block)
        return
    swap_squeeze_excite(block)
    assert torch.jit.script(block)(x).equal(wanted)
