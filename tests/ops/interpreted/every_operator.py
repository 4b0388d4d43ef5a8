"""The Triton backend's own tests for every operator: tests/ops/test_triton.py runs this file.

Not collected by itself: TRITON_INTERPRET=1 must be set before anything imports triton. The numbers
of the operators are judged in their own tests, which the interpreter runs too; here it runs with
the blocks of a device, with offsets beyond 32 bits, with halves of two backends, and with the
products of tensor cores, which it would do in float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from unittest import mock

import pytest
import torch
from far_memory import (
    CONTIGUOUS_MATRICES,
    FAR_CALLS,
    FAR_GATES,
    FarCall,
    FarGates,
    check_last_sample,
    spread_out,
)
from harness import Judge, features
from operator_rows import BY_NAME, ITERATIONS, Operator, served_by, step
from tensor_cores import tf32_dot
from torch import Tensor
from triton.runtime import interpreter

import ccdn_ops
from ccdn_ops import reference
from ccdn_ops.backends.triton import features as feature_means
from ccdn_ops.backends.triton import launcher, matrices
from ccdn_ops.backends.triton.launcher import blocks
from ccdn_ops.ops.cocs_loss import triton as cocs_loss
from ccdn_ops.ops.dual_squeeze import triton as dual_squeeze
from ccdn_ops.ops.excitation_gates import triton as excitation_gates
from ccdn_ops.ops.multi_excite import triton as multi_excite

every = pytest.mark.parametrize("operator", served_by("triton"), ids=str)


@pytest.fixture(autouse=True)
def backend() -> Iterator[str]:
    assert launcher.interpreted()
    with ccdn_ops.use_backend("triton"):
        yield "triton"


@pytest.fixture
def device_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cocs_loss, dual_squeeze, excitation_gates, feature_means, multi_excite):
        monkeypatch.setattr(module, "INTERPRETER_BLOCKS", module.DEVICE_BLOCKS)
    monkeypatch.setattr(matrices, "INTERPRETER_BLOCKS", matrices.DEVICE_BLOCKS[9])


@every
def test_blocks_of_the_device(operator: Operator, device_blocks: None) -> None:
    sizes = {"B": 2, "P": 2, "D": 70, "R": 66, "H": 5, "W": 15}
    if operator.name == "cocs_loss":
        sizes["B"], sizes["P"] = 20, 5
    tensors = operator.tensors(**sizes)
    operator.case(tensors, f"of {sizes}").check(operator.call)


@pytest.mark.parametrize(
    "operator",
    # The others' backends get contiguous tensors.
    [o for o in served_by("triton") if o.name not in ("excitation_gates", *CONTIGUOUS_MATRICES)],
    ids=str,
)
def test_offsets_beyond_32_bits(operator: Operator) -> None:
    near = [t.detach() for t in operator.tensors(torch.float16, B=2)]
    far = [spread_out(near[0], 2**31 + 1000), *near[1:]]
    found = [step(operator.call, [t.requires_grad_() for t in ts]) for ts in (near, far)]
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


@contextmanager
def only(choose: Callable[[str, int], Iterable[int]]) -> Iterator[None]:
    """Within, launches run the programs choose(kernel, how many there are) alone."""
    builder, original, first = interpreter.interpreter_builder, launcher.launch, 0

    def launch(kernel, programs, *rest, **options):  # type: ignore[no-untyped-def]
        nonlocal first
        for program in choose(kernel.__name__, programs):
            first = program
            original(kernel, 1, *rest, **options)

    def set_grid_idx(x: int, y: int, z: int) -> None:
        builder.grid_idx = (first + x, y, z)

    with (
        mock.patch.object(builder, "set_grid_idx", set_grid_idx),
        mock.patch.object(launcher, "launch", launch),
    ):
        yield


@pytest.mark.parametrize(
    "call",
    [  # a vector of every sample for each Chebyshev term, which PyTorch adds up
        pytest.param(c, marks=pytest.mark.slow) if c.operator == "dual_squeeze" else c
        for c in FAR_CALLS
    ],
    ids=str,
)
def test_samples_beyond_32_bits(call: FarCall) -> None:
    def only_last(batch: int) -> AbstractContextManager[None]:
        return only(lambda _, programs: range(programs - blocks(programs, batch), programs))

    check_last_sample("triton", call, only_last)


@pytest.mark.parametrize("gates", FAR_GATES, ids=str)
def test_gates_beyond_32_bits(gates: FarGates) -> None:
    def at_the_end(kernel: str, programs: int) -> list[int]:
        # Sums over all samples, or over all excitations.
        if kernel == ("weight_gradients" if gates.many_samples else "squeeze_gradient"):
            return []
        if gates.many_samples and kernel != "gates_layer":  # of both networks, or squeezes
            return [programs // 2 - 1, programs - 1]
        return [programs - 2, programs - 1]

    gates.check("triton", partial(only, at_the_end), partial(only, at_the_end))


@every
@pytest.mark.parametrize("backward_by", ["triton", "reference"])
@pytest.mark.parametrize(
    "sizes",
    [{"D": 40, "H": 2, "W": 3, "R": 5}, pytest.param({"D": 40, "R": 35}, marks=pytest.mark.slow)],
    ids=str,
)
def test_halves_of_two_backends(
    operator: Operator, backward_by: str, sizes: dict[str, int]
) -> None:
    tensors = operator.tensors(B=1, **sizes)

    def forward_elsewhere(*tensors: Tensor) -> object:
        with ccdn_ops.use_backend("reference" if backward_by == "triton" else "triton"):
            return operator.call(*tensors)

    with ccdn_ops.use_backend(backward_by):
        operator.case(tensors, f"of {sizes}").check(forward_elsewhere)


def test_float64_is_left_to_others() -> None:
    for operator in served_by("triton"):
        with pytest.raises(RuntimeError, match=r"'triton', which cannot.*no float64"):
            operator.call(*(t.detach() for t in operator.tensors(torch.float64)))


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (64, {"channel_means": 2, "gram_matrix": 2, "excite": 1}),
        (128, {"channel_means": 2, "gram_matrix": 3, "matrix_vector": 2, "excite": 1}),
    ],
)
def test_how_often_ctm_reads_its_maps(
    device_blocks: None, monkeypatch: pytest.MonkeyPatch, channels: int, expected: dict[str, int]
) -> None:
    """What backends/triton/__init__.py says; a kernel reads again what its caches still hold."""
    x, *weights = (t.detach() for t in BY_NAME["ctm"].tensors(B=1, D=channels, R=16, H=8, W=12))
    first, last = x.data_ptr(), x.data_ptr() + x.nbytes
    kernel, reads = "", Counter[str]()
    load, launch = interpreter.InterpreterBuilder.create_masked_load, launcher.launch

    def counting_load(self, pointers, mask, *rest):  # type: ignore[no-untyped-def]
        inside = (pointers.data >= first) & (pointers.data < last) & mask.data
        reads[kernel] += int(inside.sum())
        return load(self, pointers, mask, *rest)

    def naming_launch(function, *rest, **options):  # type: ignore[no-untyped-def]
        nonlocal kernel
        kernel = function.__name__
        launch(function, *rest, **options)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", counting_load)
    monkeypatch.setattr(launcher, "launch", naming_launch)
    ccdn_ops.ctm(x, weights, ITERATIONS)
    assert {name: count / x.numel() for name, count in reads.items() if count} == expected


# Products of tensor cores -------------------------------------------------------------------------


@pytest.fixture(params=[3, 1])
def tensor_cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The interpreter's tl.dot rounds as three terms of TF32 do, or one; returns how many."""
    original = interpreter.InterpreterBuilder.create_dot

    def create_dot(self, a, b, d, input_precision, imprecise):  # type: ignore[no-untyped-def]
        if "TF32x3" not in str(input_precision):
            return original(self, a, b, d, input_precision, imprecise)
        found = tf32_dot(request.param, a.data, b.data, d.data)
        return interpreter.TensorHandle(found, d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    return int(request.param)


CHAINS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "covariance_pool": (ccdn_ops.covariance_pool, reference.covariance_pool),
    "isqrt_cov": (ccdn_ops.isqrt_cov, reference.isqrt_cov),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize(("channels", "positions"), [(65, 100), (80, 33)])
@pytest.mark.parametrize("kind", ["dominant", pytest.param("noise", marks=pytest.mark.slow)])
def test_three_terms_of_tf32_are_float32(
    tensor_cores: int, device_blocks: None, chain: str, channels: int, positions: int, kind: str
) -> None:
    call, literal = CHAINS[chain]
    x = features(kind, 1, channels, positions)
    case = Judge(literal, ["BDN"], ["BDD"]).case(f"{chain} of {kind}, {tensor_cores} terms", [x])
    if tensor_cores == 3:
        case.check(call)
    else:  # one is not enough, so the rounding that this test is about happens
        with pytest.raises(AssertionError, match=f"of {chain}"):
            case.check(call)
