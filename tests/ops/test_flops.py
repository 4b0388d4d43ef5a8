"""FlopCounterMode counts our operators: the numbers by hand, and no operator without a formula."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from test_explain import CASES, SHAPES, both_passes, raw_inputs
from test_explain import P as EXCITATIONS
from test_explain import R as HIDDEN
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import ccdn_ops
from ccdn_ops import decompositions, explain, reference
from ccdn_ops.backends import native
from ccdn_ops.nn import CTM
from ccdn_ops.ops.raw import register

B, P, R, D, H, W = 2, 3, 5, 48, 4, 25
N = H * W


def counts(call: Callable[[], object]) -> dict[str, int]:
    """By operator, without their namespace."""
    with FlopCounterMode(display=False) as counter:
        call()
    found = counter.get_flop_counts().get("Global", {})
    return {str(operator).rpartition(".")[2]: count for operator, count in found.items()}


def step(call: Callable[..., object], *tensors: Tensor) -> dict[str, int]:
    """Counts of a forward pass and of the backward pass through all that it returns."""

    def run() -> None:
        found = call(*(t.detach().requires_grad_() for t in tensors))
        outputs = [found] if isinstance(found, Tensor) else list(found)  # type: ignore[call-overload]
        torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])

    return counts(run)


def networks(channels: int = D) -> list[Tensor]:
    shapes = [(P, 2, R, channels), (P, 2, R), (P, 2, channels, R), (P, 2, channels)]
    return [torch.randn(shape) for shape in shapes]


# By hand: a multiplication and an addition are two. The product of two matrices, of which one is
# the other's transpose, makes n (n + 1) / 2 numbers; 28 products with the matrix give 29 terms.
GATES = 4 * B * P * 2 * D * R
MAPS = P * B * D * N
SQUEEZE = (  # with D < N; the gradient is of rank 8, each with four products of a vector
    B * (D * (D + 1) * N + 2 * 28 * D * D + 2 * D * N),
    B * (4 * 28 * D * D + 8 * 8 * D * N + 4 * D * N),
)
BY_HAND: dict[str, tuple[Callable[..., object], Sequence[Tensor], tuple[int, int]]] = {
    "dual_squeeze": (ccdn_ops.dual_squeeze, [torch.randn(B, D, H, W)], SQUEEZE),
    "excitation_gates": (
        ccdn_ops.excitation_gates,
        [torch.rand(B, D), torch.rand(B, D), *networks()],
        (GATES, 2 * GATES),
    ),
    "multi_excite": (
        ccdn_ops.multi_excite,
        [torch.randn(B, D, H, W), torch.rand(B, P, D)],
        (MAPS, 4 * MAPS),
    ),
    "ctm": (
        lambda x, *weights: ccdn_ops.ctm(x, weights),
        [torch.randn(B, D, H, W), *networks()],
        (SQUEEZE[0] + GATES + MAPS, SQUEEZE[1] + 2 * GATES + 4 * MAPS),
    ),
    "cocs_loss": (  # of two levels
        lambda *levels: ccdn_ops.cocs_loss(levels),
        [torch.randn(B, P, D), torch.randn(B, 2, R)],
        (
            4 * B * (P * D + 2 * R) + 2 * (P * P * D + 4 * R),
            7 * B * (P * D + 2 * R) + 4 * (P * P * D + 4 * R),
        ),
    ),
    "covariance_pool": (
        ccdn_ops.covariance_pool,
        [torch.randn(B, D, N)],
        (B * (2 * D * N + D * (D + 1) * N), 2 * B * D * D * N),
    ),
    "newton_schulz_sqrt": (
        ccdn_ops.newton_schulz_sqrt,
        [torch.eye(D).repeat(B, 1, 1)],
        (10 * B * D * D * (D + 1), 20 * B * D * D * (D + 1)),
    ),
    "isqrt_cov": (
        ccdn_ops.isqrt_cov,
        [torch.randn(B, D, N)],
        (
            B * (D * (D + 1) * N + 10 * D * D * (D + 1)),
            B * (20 * D * D * (D + 1) + 2 * D * D * N),
        ),
    ),
    "dual_squeeze, D > N": (
        ccdn_ops.dual_squeeze,
        [torch.randn(B, N, D)],
        (
            B * (D * (D + 1) * N + 2 * 28 * D * D + 4 * D * N),
            B * (4 * 28 * D * D + 8 * 9 * D * N + 8 * D * N),
        ),
    ),
    "isqrt_cov, D > N": (
        ccdn_ops.isqrt_cov,
        [torch.randn(B, N, D)],
        (
            B * (D * (D + 1) * N + 10 * D * D * (D + 1) + 2 * D * D * N + N * (N + 1) * D),
            B * (2 * N * N * D + D * (D + 1) * N + 20 * D * D * (D + 1) + 4 * D * D * N),
        ),
    ),
    # 32 channels and fewer are iterated in double, and again in the backward pass.
    "newton_schulz_sqrt, small": (
        ccdn_ops.newton_schulz_sqrt,
        [torch.eye(R).repeat(B, 1, 1)],
        (10 * B * R * R * (R + 1), 30 * B * R * R * (R + 1)),
    ),
}
COVARIANCE = 2 * B * D * D * N
ITERATION = 12 * 2 * B * D**3  # 12 products in K = 5 steps
# Of the references: their backward pass computes the forward pass again and then two products for
# each of its products.
LITERALLY = {
    "dual_squeeze": (COVARIANCE + ITERATION, 3 * (COVARIANCE + ITERATION)),
    "excitation_gates": (GATES, 3 * GATES),
    "multi_excite": (MAPS, 4 * MAPS),
    "ctm": (
        COVARIANCE + ITERATION + GATES + MAPS,
        3 * (COVARIANCE + ITERATION + GATES) + 4 * MAPS,
    ),
    "cocs_loss": BY_HAND["cocs_loss"][2],  # the raw operator's goes by the sums, too
    "covariance_pool": (2 * B * D * N + COVARIANCE, 3 * COVARIANCE),
    "newton_schulz_sqrt": (ITERATION, 3 * ITERATION),
    "isqrt_cov": (COVARIANCE + ITERATION, 3 * (COVARIANCE + ITERATION)),
}

# An operator may have its count in its own tests: COUNT = (call, tensors, kernels', reference's).
for own in sorted(set(SHAPES) - set(LITERALLY)):
    found = getattr(importlib.import_module(f"test_{own}"), "COUNT", None)
    if found is not None:
        BY_HAND[own], LITERALLY[own] = found[:3], found[3]


def named(case: str, pair: tuple[int, int]) -> dict[str, int]:
    operator = case.partition(",")[0]
    return {operator: pair[0], f"{operator}_backward": pair[1]}


@pytest.mark.parametrize("case", BY_HAND)
def test_counts_of_the_kernels(case: str) -> None:
    if native.module() is None:
        pytest.skip(f"the native kernels are not used here: {native.why_missing()}")
    call, tensors, expected = BY_HAND[case]
    assert step(call, *tensors) == named(case, expected)


@pytest.mark.parametrize("case", LITERALLY)
def test_counts_of_the_references(case: str) -> None:
    """The products of a reference inside an operator are not counted twice."""
    call, tensors, _ = BY_HAND[case]
    with ccdn_ops.use_backend("reference"):
        assert step(call, *tensors) == named(case, LITERALLY[case])


def test_every_raw_operator_has_a_formula() -> None:
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeExplicitAutograd")
    raw = {name.removeprefix("ccdn::") for name in names if name.startswith("ccdn::")}
    assert len(raw) == 2 * len(SHAPES)
    assert {name for name in raw if getattr(torch.ops.ccdn, name) in flop_registry} == raw


def test_every_operator_has_a_count_by_hand() -> None:
    own = {case.partition(",")[0] for case in BY_HAND}
    assert own == set(LITERALLY) == set(SHAPES)


def test_an_operator_cannot_be_defined_without_a_formula() -> None:
    with pytest.raises(TypeError, match="operations"):
        register(  # type: ignore[call-arg]
            "nameless(Tensor x) -> Tensor", kernel=torch.relu, fake=torch.relu, vmap=torch.relu
        )


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize(("operator", "arguments"), CASES, ids=str)
def test_counts_are_those_of_explain(
    operator: str, arguments: dict[str, int], backend: str | None
) -> None:
    inputs, options = raw_inputs(operator, **arguments)
    inputs = [[x[0]] if isinstance(x, list) else x for x in inputs]  # explain takes one level

    def run() -> None:
        both_passes(operator, inputs, options)

    with ccdn_ops.use_backend(backend):
        expected = explain(
            operator, *SHAPES[operator], excitations=EXCITATIONS, hidden=HIDDEN, **arguments
        )
        assert counts(run) == named(operator, expected.operations)


# Whatever the tensors are ------------------------------------------------------------------------


@pytest.mark.parametrize("case", BY_HAND)
def test_tensors_without_data(case: str) -> None:
    call, tensors, _ = BY_HAND[case]
    wanted = step(call, *tensors)
    assert step(call, *(t.to("meta") for t in tensors)) == wanted
    with FakeTensorMode() as mode:
        assert step(call, *(mode.from_tensor(t) for t in tensors)) == wanted


@pytest.mark.parametrize("case", BY_HAND)
def test_sizes_that_are_symbols(case: str) -> None:
    call, tensors, _ = BY_HAND[case]
    found: list[int] = []

    def counting(*tensors: Tensor) -> object:
        with FlopCounterMode(display=False) as counter:
            outputs = call(*tensors)
        found.append(int(counter.get_total_flops()))
        return outputs

    graph = make_fx(counting, tracing_mode="symbolic")(*tensors)
    assert found == [sum(counts(lambda: call(*tensors)).values())]
    ours = [n for n in graph.graph.nodes if n.op == "call_function" and "ccdn" in str(n.target)]
    assert len(ours) == 1


def test_batches_of_calls() -> None:
    x = torch.randn(4, B, D, H, W)
    once = counts(lambda: ccdn_ops.covariance_pool(x[0]))
    many = counts(lambda: torch.vmap(ccdn_ops.covariance_pool)(x))
    assert many == {name: 4 * count for name, count in once.items()}
    empty = counts(lambda: ccdn_ops.covariance_pool(x[0, :0]))
    assert empty == {"covariance_pool": 0}


def test_what_is_not_computed_is_not_counted() -> None:
    x, *weights = BY_HAND["ctm"][1]
    found = step(lambda x: ccdn_ops.ctm(x, weights)[1], x)  # the excited maps have no gradient
    assert found == named("ctm", (SQUEEZE[0] + GATES + MAPS, SQUEEZE[1] + 2 * GATES))


def test_iterates_that_were_not_saved_are_computed_again() -> None:
    a = torch.eye(D).repeat(B, 1, 1)

    def run() -> None:
        root, *saved = torch.ops.ccdn.newton_schulz_sqrt(a, 5, False)
        torch.ops.ccdn.newton_schulz_sqrt_backward(root, a, *saved, 5, False)

    product = B * D * D * (D + 1)
    assert counts(run) == named("newton_schulz_sqrt", (10 * product, 30 * product))


def test_a_compiled_function() -> None:
    """PyTorch runs it uncompiled while a counter is active."""
    x = BY_HAND["isqrt_cov"][1][0]
    compiled = torch.compile(ccdn_ops.isqrt_cov, backend="aot_eager")
    assert step(compiled, x) == step(ccdn_ops.isqrt_cov, x)


def test_an_exported_program() -> None:
    x = torch.randn(B, D, H, W)
    module = CTM(D, P).eval()
    program = torch.export.export(module, (x,))
    assert counts(lambda: program.module()(x)) == counts(lambda: module(x))
    program = program.run_decompositions(decompositions.table())
    found = counts(lambda: program.module()(x))  # by PyTorch's own products, and none of ours
    assert found
    assert set(found) <= {"mm", "bmm", "addmm", "baddbmm"}


def test_of_each_module() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, D, 1), CTM(D, P))
    with FlopCounterMode(display=False) as counter:
        excited, pooled = network(torch.randn(B, 3, H, W))
        (excited.sum() + pooled.sum()).backward()
    found = counter.get_flop_counts()
    own = {torch.ops.ccdn.ctm, torch.ops.ccdn.ctm_backward}
    assert set(found["Sequential.1"]) == own
    assert own < set(found["Sequential"])
    assert not own & set(found["Sequential.0"])
    assert found["Sequential.1"] == {name: found["Global"][name] for name in own}


def test_references_are_counted_by_their_products() -> None:
    x = torch.randn(B, D, H, W)
    assert counts(lambda: reference.isqrt_cov(x)) == {"bmm": COVARIANCE + ITERATION}


# In any order of imports -------------------------------------------------------------------------

COUNT = (
    "with FlopCounterMode(display=False) as counter:\n"
    "    ccdn_ops.multi_excite(torch.ones(1, 2, 3, 4), torch.ones(1, 5, 2))\n"
    "assert counter.get_total_flops() == 120, counter.get_flop_counts()\n"
)
ORDERS = {
    "operators first": (
        "import sys, torch, ccdn_ops\n"
        "assert 'torch.utils.flop_counter' not in sys.modules\n"
        "from torch.utils.flop_counter import FlopCounterMode\n" + COUNT
    ),
    "counter first": (
        "import torch\n"
        "from torch.utils.flop_counter import FlopCounterMode\n"
        "import ccdn_ops\n" + COUNT
    ),
    "loaded anew": (
        "import importlib, torch, ccdn_ops\n"
        "import torch.utils.flop_counter\n"
        "importlib.reload(torch.utils.flop_counter)\n"
        "FlopCounterMode = torch.utils.flop_counter.FlopCounterMode\n" + COUNT
    ),
    "a formula of one's own": (
        "import torch, ccdn_ops.ops\n"
        "from torch.utils.flop_counter import FlopCounterMode, flop_registry\n"
        "formula = lambda *arguments, out_val: 7\n"
        "flop_registry[torch.ops.ccdn.multi_excite] = formula\n"
        "import ccdn_ops.flops\n"
        "ccdn_ops.flops.count_our_operators()\n"
        "assert flop_registry[torch.ops.ccdn.multi_excite] is formula\n"
    ),
}


@pytest.mark.parametrize("order", ORDERS)
def test_imports_in_any_order(order: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORDERS[order]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
