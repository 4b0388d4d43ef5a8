"""What must hold for every operator; no operator is left out.

The numbers are judged in each operator's own tests. Here every test takes the row of every operator
(operator_rows.py); test_operator_derivatives.py and test_operator_kernels.py continue.

Why so many rows: each promise is asked of every operator on every backend that serves CPU tensors,
and of several types or layouts where it is about these. A row costs 0.04 s. None repeats another at
a different size: sizes belong to the operators' own tests.
"""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from harness import check_close, err
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_rows import (
    ITERATIONS,
    OPERATORS,
    D,
    Operator,
    assert_equal,
    outputs_of,
    step,
    upstream_of,
)
from torch import Tensor

import ccdn_ops
from ccdn_ops import reference
from ccdn_ops.backends.triton.launcher import interpreted

every = pytest.mark.parametrize("operator", OPERATORS, ids=str)


# Nobody is left out ------------------------------------------------------------------------------


def test_every_public_operator_has_a_row() -> None:
    public = {
        name
        for name in ccdn_ops.__all__
        if getattr(getattr(ccdn_ops, name), "__module__", "").startswith("ccdn_ops.ops.")
    }
    assert public == {operator.name for operator in OPERATORS}
    assert all(hasattr(reference, name) for name in public)


def test_references_take_as_many_steps() -> None:
    for name in (operator.name for operator in OPERATORS):
        own, literal = (
            inspect.signature(getattr(m, name)).parameters for m in (ccdn_ops, reference)
        )
        assert ("iterations" in own) == ("iterations" in literal)
        if "iterations" in own:
            assert own["iterations"].default == literal["iterations"].default == 5


def test_every_raw_operator_has_a_row() -> None:
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeExplicitAutograd")
    raw = {name.removeprefix("ccdn::") for name in names if name.startswith("ccdn::")}
    forward = {name for name in raw if not name.endswith("_backward")}
    assert forward == {operator.name for operator in OPERATORS if operator.raw}
    assert raw == forward | {f"{name}_backward" for name in forward}


# What holds for all ------------------------------------------------------------------------------


@every
def test_a_step_stays_on_its_device(operator: Operator) -> None:
    """On the device that has no memory: shapes, dtypes and devices of outputs and gradients."""
    tensors = operator.tensors()
    found = step(operator.call, [t.detach().to("meta").requires_grad_() for t in tensors])
    for y, wanted in zip(found, step(operator.call, tensors), strict=True):
        assert y.is_meta
        assert (y.shape, y.dtype, y.stride()) == (wanted.shape, wanted.dtype, wanted.stride())


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(backend: str, operator: Operator, dtype: torch.dtype) -> None:
    if operator.raw is None:
        pytest.skip("no raw operator of its own")
    tensors = [t.detach() for t in operator.tensors(dtype)]
    inputs, options = operator.raw(*tensors)
    forward = getattr(torch.ops.ccdn, operator.name).default
    torch.library.opcheck(forward, (*inputs, *options))
    found = forward(*inputs, *options)
    found = (found,) if isinstance(found, Tensor) else tuple(found)
    grads, saved = found[: operator.public], found[operator.public :]
    backward = getattr(torch.ops.ccdn, f"{operator.name}_backward").default
    torch.library.opcheck(backward, (*grads, *inputs, *saved, *options))


@every
@pytest.mark.filterwarnings("ignore")  # torch's own: it has no gradient of a raw operator
def test_a_raw_operator_takes_parameters(backend: str, operator: Operator) -> None:
    """As an exported program calls it: with gradients enabled, for tensors that have some."""
    if operator.raw is None:
        pytest.skip("no raw operator of its own")
    inputs, options = operator.raw(*(t.detach().requires_grad_() for t in operator.tensors()))
    found = getattr(torch.ops.ccdn, operator.name)(*inputs, *options)
    with torch.no_grad():
        wanted = getattr(torch.ops.ccdn, operator.name)(*inputs, *options)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@every
@pytest.mark.parametrize(
    "sizes",
    [{}, {"D": 8, "R": 8, "H": 2, "W": 2}, {"D": 20, "H": 5, "W": 7}],
    ids=["wide", "narrow", "panels"],  # panels are 16 columns of float64
)
def test_a_backward_pass_of_what_another_backend_saved(
    operator: Operator, sizes: dict[str, int]
) -> None:
    """What a forward pass saves means the same on every backend: one may continue for another."""
    if operator.raw is None:
        pytest.skip("no raw operator of its own")
    inputs, options = operator.raw(*(t.detach() for t in operator.tensors(torch.float64, **sizes)))
    forward = getattr(torch.ops.ccdn, operator.name)
    backward = getattr(torch.ops.ccdn, f"{operator.name}_backward")
    for changed in [[k, *options[1:]] for k in range(1, 8)] if options else [[]]:
        found = []
        for forward_backend in ("cpu", "reference"):
            with ccdn_ops.use_backend(forward_backend):
                results = forward(*inputs, *changed)
            results = (results,) if isinstance(results, Tensor) else tuple(results)
            grads, saved = results[: operator.public], results[operator.public :]
            with ccdn_ops.use_backend("cpu"):
                given = backward(*grads, *inputs, *saved, *changed)
            found.append(torch.utils._pytree.tree_leaves(given))
        assert all(err(a, b) <= 1e-11 for a, b in zip(*found, strict=True)), changed


@every
def test_compiles_to_one_graph(backend: str, operator: Operator) -> None:
    tensors = operator.tensors()
    torch._dynamo.reset()  # every row's call is one function, of which few graphs may be made
    compiled = torch.compile(operator.call, fullgraph=True, backend="aot_eager", dynamic=False)
    assert_equal(step(compiled, tensors), step(operator.call, tensors))


@every
def test_two_runs_are_bit_equal(backend: str, operator: Operator) -> None:
    sizes = {"B": 5, "D": 40, "R": 10, "H": 7, "W": 9}
    tensors = operator.tensors(**sizes)
    once = step(operator.call, tensors)
    for _ in range(2):
        again = [t.detach().clone().requires_grad_() for t in tensors]
        assert_equal(step(operator.call, again), once)


@every
@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(torch.float32, marks=pytest.mark.check),
        torch.float64,
        torch.bfloat16,
        torch.float16,
    ],
)
def test_dtypes(backend: str, operator: Operator, dtype: torch.dtype) -> None:
    tensors = operator.tensors(dtype)
    found = operator.case(tensors, str(dtype)).check(operator.call)
    assert all(y.dtype == dtype for y in found)


@every
def test_empty_batch(backend: str, operator: Operator) -> None:
    tensors = operator.tensors(B=0)
    found = step(operator.call, tensors)
    wanted = [y.shape for y in outputs_of(operator.reference, operator.tensors(B=1))]
    outputs, grads = found[: len(wanted)], found[len(wanted) :]
    for y, shape in zip(outputs, wanted, strict=True):
        assert y.shape == (0, *shape[1:]) if operator.samples else y.shape == shape
        assert y.isfinite().all()
    for tensor, grad in zip(tensors, grads, strict=True):
        assert grad.shape == tensor.shape
        assert (grad == 0).all()


@every
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stays_in_its_sample(backend: str, operator: Operator, value: float) -> None:
    if not operator.samples:
        pytest.skip("its samples are not independent")
    clean = operator.tensors()
    dirty = [t.detach().clone() for t in clean]
    dirty[0][1].view(-1)[1] = value
    before = step(operator.call, clean)
    after = step(operator.call, [t.requires_grad_() for t in dirty])
    outputs = len(before) - len(clean)
    for a, b in zip(before[: outputs + operator.samples], after, strict=False):
        assert a[0].equal(b[0])
        assert a[2].equal(b[2])
    assert not all(y[1].isfinite().all() for y in after[:outputs])


@every
def test_a_sample_without_variance(backend: str, operator: Operator) -> None:
    if not operator.samples:
        pytest.skip("its samples are not independent")
    tensors = operator.tensors()
    before = step(operator.call, tensors)
    flat = [t.detach().clone() for t in tensors]
    for tensor in flat[: operator.samples]:
        tensor[1] = 0
    if operator.shapes[0] == "BDHW":  # channels that differ, positions that do not
        flat[0][1] = torch.linspace(-1 / 3, 1e3, D)[:, None, None]
    found = operator.case(flat).check(operator.call)
    outputs = len(before) - len(tensors)
    for a, b in zip(before[: outputs + operator.samples], found, strict=False):
        assert a[0].equal(b[0])
        assert a[2].equal(b[2])


@pytest.mark.parametrize("scale", [1.0] if interpreted() else [2.0**-40, 1.0, 2.0**30])
@pytest.mark.parametrize("channels", [3, 40], ids=["D < N", "D > N"])
def test_how_little_variance_is_rounding(backend: str, channels: int, scale: float) -> None:
    """A sample is constant where tr S <= (16 eps)^2 times the mean of x^2, whatever its size."""
    eps = torch.finfo(torch.float32).eps
    signs = torch.tensor([1.0, -1.0]).repeat(10)
    for deviation, is_constant in ((15 * eps, True), (17 * eps, False), (1e-3, False)):
        x = (scale * (1 + deviation * signs)).expand(2, channels, -1).contiguous()
        covariance = 0.0 if is_constant else (scale * deviation) ** 2
        # S is that everywhere, a matrix of rank 1: its root is S / sqrt(tr S) after any step.
        root = covariance**0.5 / channels**0.5
        for found, value in (
            (ccdn_ops.covariance_pool(x), covariance),
            (ccdn_ops.isqrt_cov(x, ITERATIONS), root),
            (ccdn_ops.second_order_squeeze(x, ITERATIONS), root),
        ):
            torch.testing.assert_close(found, torch.full_like(found, value), rtol=1e-3, atol=0)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_one_of_everything(backend: str, operator: Operator, dtype: torch.dtype) -> None:
    for sizes in ({"H": 1, "W": 1}, {"D": 1}, {"B": 1, "P": 1, "D": 1, "R": 1, "H": 1, "W": 1}):
        tensors = operator.tensors(dtype, **sizes)
        case = operator.case(tensors)
        # Where nothing can change, as in the direction of one channel, the truth is rounding.
        rounding = 1e-12 if dtype == torch.float64 else 16 * torch.finfo(dtype).eps
        found = step(operator.call, tensors)
        for y, y64, tolerance in zip(found, case.exact, case.allowed, strict=True):
            difference = (y.double() - y64).norm().item()
            allowed = max(tolerance * y64.norm().item(), rounding)
            assert difference <= allowed, f"{operator} {sizes}"


@every
@pytest.mark.parametrize("inside", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(backend: str, operator: Operator, inside: torch.dtype) -> None:
    tensors = operator.tensors()
    plain = step(operator.call, tensors)
    with torch.autocast("cpu", dtype=inside):
        cast = step(operator.call, tensors)
    assert_equal(cast, plain)


@every
def test_vmap(backend: str, operator: Operator) -> None:
    many = [operator.tensors(seed=seed) for seed in range(3)]
    stacked = [torch.stack([t.detach() for t in ts]) for ts in zip(*many, strict=True)]
    cases = [operator.case(tensors, f"of seed {seed}") for seed, tensors in enumerate(many)]

    def loss(*tensors: Tensor) -> Tensor:
        pairs = zip(outputs_of(operator.call, tensors), cases[0].grads, strict=True)
        return sum((y * g).sum() for y, g in pairs)  # type: ignore

    arguments = tuple(range(len(stacked)))
    grads = torch.vmap(torch.func.grad(loss, arguments))(*stacked)
    values = torch.vmap(lambda *tensors: outputs_of(operator.call, tensors))(*stacked)
    for i, case in enumerate(cases):
        found = [y[i] for y in (*values, *grads)]
        names = [f"result {number}" for number, _ in enumerate(found)]
        check_close(found, case.exact, case.allowed, case.what, names)


@every
def test_no_gradient_is_asked_of_frozen_tensors(backend: str, operator: Operator) -> None:
    tensors = operator.tensors()
    case = operator.case(tensors)
    for i, leaf in enumerate(tensors):
        frozen = [t if t is leaf else t.detach() for t in tensors]
        outputs = outputs_of(operator.call, frozen)
        upstream = [upstream_of(y) for y in outputs]
        (alone,) = torch.autograd.grad(outputs, leaf, upstream)
        which = len(operator.outputs) + i
        exact, allowed = case.exact[which], case.allowed[which]
        check_close([alone], [exact], [allowed], case.what, [f"gradient of input {i} alone"])


@every
def test_nothing_warns(backend: str, operator: Operator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as torch's about a result that it has to resize
        for dtype in (torch.float32, torch.bfloat16):
            step(operator.call, operator.tensors(dtype))


@every
def test_inference_mode(backend: str, operator: Operator) -> None:
    tensors = [t.detach() for t in operator.tensors()]
    with torch.inference_mode():
        found = outputs_of(operator.call, tensors)
    assert_equal(found, outputs_of(operator.call, tensors))


@every
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    excitations=st.integers(1, 4),
    channels=st.integers(1, 20),
    hidden=st.integers(1, 9),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    seed=st.integers(0, 9),
)
def test_any_shape(  # type: ignore[no-untyped-def]
    operator: Operator, batch, excitations, channels, hidden, height, width, seed
) -> None:
    sizes = {"B": batch, "P": excitations, "D": channels, "R": hidden, "H": height, "W": width}
    tensors = operator.tensors(torch.float64, seed, **sizes)
    found, wanted = step(operator.call, tensors), step(operator.reference, tensors)
    for y, y64 in zip(found, wanted, strict=True):
        difference = (y - y64).norm().item()
        assert difference <= 1e-9 * y64.norm().item() + 1e-12, f"{operator} {sizes}"
