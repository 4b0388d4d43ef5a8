"""A row of a benchmark: what it runs, how results are checked, and what is measured.

A bench_<op>.py describes cases and hands each to the fixture `bench`:

    def test_forward_backward(shape, bench):
        bench(Case("gram", {"B": b, "D": d}, [x], ours, reference, best_eager, work("gram", b, d)))
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
import roofline
import torch
from timing import THREADS, Timing, interleaved, peak_bytes, thread
from torch import Tensor

import ccdn_ops

# torch.compile of the reference: "1" always, "0" never, "auto" in an operator's first row whose
# eager step is short: compiling takes longer than all other measurements of a row.
COMPILE = os.environ.get("CCDN_BENCH_COMPILE", "auto")
COMPILED_UP_TO = 0.03  # seconds of an eager step
COMPILED_ROWS = 1
_compiled_rows: Counter[str] = Counter()

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Of all inputs. A row in 16 bits has one baseline: itself in float32.
_NAME = os.environ.get("CCDN_BENCH_DTYPE", "float32")
if _NAME not in DTYPES:
    raise SystemExit(f"CCDN_BENCH_DTYPE is {_NAME!r}; expected one of {', '.join(DTYPES)}")
DTYPE = DTYPES[_NAME]
NARROW = DTYPE.itemsize == 2

# In this order in every table. sqrth computes another function, the exact root.
BASELINES = ("best eager", "reference", "compiled", "eigh", "sqrth", "float32")

Operator = Callable[..., "Tensor | Sequence[Tensor]"]


@dataclass(frozen=True)
class Case:
    """One operator on one input.

    The three functions take `inputs` and return a tensor or several, the same ones. Inputs that
    require a gradient are differentiated for random gradients of all outputs; without such inputs
    the row is the forward pass alone.

    size        columns that identify this row, in symbols: {"B": 8, "D": 256, "N": 64}
    reference   ccdn_ops.reference's, differentiable by autograd
    best_eager  the fastest plain PyTorch; None: nothing is faster than the reference
    work        bytes if every tensor moved once, and multiplications and additions of ours, both
                forward and backward: the function work() below
    eigh        the same through torch.linalg.eigh, where it computes the same
    sqrth       the exact root through torch.linalg.matrix_sqrth, where ours stops after K steps:
                the function and what it is checked against; None where this torch has none
    samples     None, or how many samples the check takes: all inputs then begin with a batch whose
                samples do not influence each other
    tolerance   relative error that is no mistake; None: 1e-4, and 16 eps for 16-bit inputs
    """

    operator: str
    size: dict[str, object]
    inputs: Sequence[Tensor]
    ours: Operator
    reference: Operator
    best_eager: Operator | None
    work: tuple[int, int]
    eigh: Operator | None = None
    sqrth: tuple[Operator, Operator] | None = None
    samples: int | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Row:
    """The measurements of a case; a ratio is a baseline's fastest round over ours."""

    operator: str
    size: dict[str, object]
    ratios: dict[str, float]  # by BASELINES
    seconds: dict[str, Timing]  # the same, and ours
    moved: int
    operations: int
    roofline_seconds: float
    peaks: dict[str, int]
    error: float
    bound: str = field(default="memory")  # or "arithmetic": what the roofline is made of

    @property
    def share(self) -> float:
        """Of the roofline."""
        return self.roofline_seconds / self.seconds["ours"].best


def work(operator: str, *shape: int, **arguments: int) -> tuple[int, int]:
    """Bytes and operations of a call, forward and backward, as ccdn_ops.explain has them.

    The arguments are explain's; skips the row if the native kernels do not serve the call.
    """
    found = ccdn_ops.explain(operator, *shape, dtype=DTYPE, **arguments)
    if found.backend != "cpu":
        pytest.skip(f"the native kernels are not used here: {found.rejected}")
    return sum(found.bytes), sum(found.operations)


def features(batch: int, channels: int, positions: int) -> Tensor:
    """Features (B, D, N) with one dominant direction, as in networks."""
    random = torch.Generator().manual_seed(0)
    direction = torch.randn(batch, channels, 1, generator=random)
    direction = direction * torch.randn(batch, 1, positions, generator=random)
    noise = torch.randn(batch, channels, positions, generator=random)
    return 3 * direction + noise


def network_weights(
    excitations: int, channels: int, orders: int = 2, reduction: int = 4
) -> list[Tensor]:
    """The weights of excitation_gates, as large as in a network at initialisation."""
    random = torch.Generator().manual_seed(2)
    p, o, d, r = excitations, orders, channels, channels // reduction
    shapes = ((p, o, r, d), (p, o, r), (p, o, d, r), (p, o, d))
    scales = (d**-0.5, 0.1, r**-0.5, 0.1)
    return [
        (scale * torch.randn(shape, generator=random)).requires_grad_()
        for shape, scale in zip(shapes, scales, strict=True)
    ]


def named(shape: object) -> str:
    """A test's id: 8x256x49."""
    return "x".join(map(str, shape)) if isinstance(shape, tuple) else str(shape)


def steps(case: Case) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """Each function as one step: its outputs, then the gradients of the inputs."""
    if NARROW:
        return {"ours": _stepped(_narrowed(case), case.ours), "float32": _stepped(case, case.ours)}
    functions = {"ours": case.ours, "reference": case.reference}
    if case.best_eager is not None:
        functions["best eager"] = case.best_eager
    if case.eigh is not None:
        functions["eigh"] = case.eigh
    if case.sqrth is not None:
        functions["sqrth"] = case.sqrth[0]
    return {name: _stepped(case, function) for name, function in functions.items()}


def measure(case: Case) -> Row:
    """Check every function against the float64 reference, then time them in turn."""
    functions: dict[str, Callable[[], tuple[Tensor, ...]]] = steps(case)
    device = case.inputs[0].device.type
    if not NARROW and _compiles(case.operator, functions["reference"], device):
        functions["compiled"] = _compiled(case)

    errors = checked(case, {"ours": functions["ours"]} if NARROW else functions)
    # A few per cent decide here, which other programs would blur; other threads have other clocks.
    clock = thread if NARROW and THREADS == 1 and device == "cpu" else None
    times = interleaved(functions, device=device, clock=clock, seconds=2)
    measured = [n for n in ("ours", "reference", "best eager", "float32") if n in functions]
    peaks = {name: peak_bytes(functions[name]) for name in measured}
    if case.best_eager is None and not NARROW:
        times["best eager"], peaks["best eager"] = times["reference"], peaks["reference"]
    ours = times["ours"].best
    baselines = [n for n in BASELINES if n in times]
    moved, operations = case.work
    seconds, bound = roofline_seconds(case)
    return Row(
        case.operator,
        case.size,
        {name: times[name].best / ours for name in baselines},
        times,
        moved,
        operations,
        seconds,
        peaks,
        errors["ours"],
        bound,
    )


def checked(case: Case, functions: dict[str, Callable[[], tuple[Tensor, ...]]]) -> dict[str, float]:
    """The error of each function, against the float64 reference. AssertionError if one is wrong.

    In 16 bits those that take the narrow inputs can be checked.
    """
    case = _narrowed(case) if NARROW else case
    errors = _errors(case, functions)
    dtype = case.inputs[0].dtype
    sixteen_bit = dtype in (torch.bfloat16, torch.float16)
    tolerance = case.tolerance or (16 * torch.finfo(dtype).eps if sixteen_bit else 1e-4)
    for name, error in errors.items():
        assert error <= tolerance, (
            f"{name} is wrong (error {error:.1e} > {tolerance:.1e}), so it has no speed"
        )
    return errors


def roofline_seconds(case: Case) -> tuple[float, str]:
    """What the machine needs for the case's bytes or operations, and which of them that is."""
    moved, operations = case.work
    dtype, device = case.inputs[0].dtype, case.inputs[0].device.type
    by_bytes = moved / roofline.bandwidth(moved, device)
    by_operations = operations / roofline.matrix_rate(dtype, device)
    return max((by_bytes, "memory"), (by_operations, "arithmetic"))


def _narrowed(case: Case) -> Case:
    inputs = [x.detach().to(DTYPE).requires_grad_(x.requires_grad) for x in case.inputs]
    return replace(case, inputs=inputs)


def _stepped(case: Case, function: Operator) -> Callable[[], tuple[Tensor, ...]]:
    grads = _upstream(case)
    return lambda: _step(function, case.inputs, grads)


def _step(
    function: Operator, inputs: Sequence[Tensor], grads: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    outputs = function(*inputs)
    outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
    leaves = [x for x in inputs if x.requires_grad]
    if not leaves:
        return outputs
    return (*outputs, *torch.autograd.grad(outputs, leaves, grads))


def _upstream(case: Case) -> list[Tensor]:
    """Random gradients of the outputs, in their memory formats."""
    with torch.no_grad():
        outputs = case.ours(*case.inputs)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    random = torch.Generator().manual_seed(1)
    return [
        torch.empty_like(y).copy_(torch.randn(y.shape, generator=random, dtype=torch.float64))
        for y in outputs
    ]


def _errors(case: Case, functions: dict[str, Callable[[], tuple[Tensor, ...]]]) -> dict[str, float]:
    """The largest |y - y64| / |y64| of any output or gradient, for each function."""
    few = slice(0, case.samples)
    grads = [g[few].double() for g in _upstream(case)]
    wide = [x.detach()[few].double().requires_grad_(x.requires_grad) for x in case.inputs]
    ours = _step(case.reference, wide, grads)
    errors = {}
    for name, function in functions.items():
        found, truth = function(), ours
        if name == "sqrth":
            assert case.sqrth is not None
            truth = _step(case.sqrth[1], wide, grads)
        assert len(found) == len(truth), f"{name} returns {len(found)} tensors, not {len(truth)}"
        errors[name] = max(_error(y[few], y64) for y, y64 in zip(found, truth, strict=True))
    return errors


def _error(found: Tensor, truth: Tensor) -> float:
    assert found.shape == truth.shape, f"{tuple(found.shape)} is not {tuple(truth.shape)}"
    assert found.isfinite().all()
    size = truth.detach().norm().item()
    return (found.detach().double() - truth.detach()).norm().item() / (size or 1.0)


def _compiles(operator: str, reference: Callable[[], object], device: str) -> bool:
    if COMPILE != "auto":
        return COMPILE == "1"
    if _compiled_rows[operator] == COMPILED_ROWS:
        return False
    timing = interleaved({"reference": reference}, device=device, seconds=0, min_rounds=2)
    short = timing["reference"].best < COMPILED_UP_TO
    _compiled_rows[operator] += short
    return short


def _compiled(case: Case) -> Callable[[], tuple[Tensor, ...]]:
    torch._dynamo.reset()  # one graph a row; the limit of graphs for a function is small
    function = torch.compile(case.reference, dynamic=False)
    grads = _upstream(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _step(function, case.inputs, grads)
    return lambda: _step(function, case.inputs, grads)
