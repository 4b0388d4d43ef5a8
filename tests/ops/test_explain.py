"""explain(): which kernel and algorithm serve a call, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import ccdn_ops
from ccdn_ops import explain, reference, report, use_backend
from ccdn_ops.backends import native, registry
from ccdn_ops.newton_schulz_plan import products
from ccdn_ops.ops.operator import OPERATORS

# Sizes that are multiples of 32, so that what the matrix operators save has no padding.
B, P, R, D, H, W = 2, 3, 5, 64, 4, 8
SIZES = {"B": B, "P": P, "O": 2, "D": D, "R": R, "H": H, "W": W}
# Those with a raw operator of their own.
RECORDS = {record.name: record for record in OPERATORS.values() if record.schema}


def raw_inputs(operator: str, orders: int = 2, **changed: Any) -> tuple[list, list]:
    """The tensors and the options of the operator's raw forward operator, for SIZES."""
    record = RECORDS[operator]
    random = torch.Generator().manual_seed(0)
    tensors = [
        None
        if orders == 1 and name in record.second_order
        else torch.randn([{**SIZES, "O": orders}[s] for s in letters], generator=random)
        for name, letters in record.tensors.items()
    ]
    return record.raw(tensors, **changed)


def both_passes(operator: str, inputs: list, options: list) -> tuple[list[Tensor], ...]:
    """Of the raw operator: the outputs, those of them that are saved, and the gradients."""
    found = getattr(torch.ops.ccdn, operator)(*inputs, *options)
    found = [found] if isinstance(found, Tensor) else list(found)
    public = RECORDS[operator].outputs
    grads, saved = [torch.ones_like(out) for out in found[:public]], found[public:]
    results = getattr(torch.ops.ccdn, f"{operator}_backward")(*grads, *inputs, *saved, *options)
    return found, saved, [results] if isinstance(results, Tensor) else list(results)


def first_of(inputs: list) -> Tensor:
    """The first tensor, which is one level where the operator takes several."""
    return inputs[0][0] if isinstance(inputs[0], list) else inputs[0]


SHAPES = {name: tuple(first_of(raw_inputs(name)[0]).shape) for name in RECORDS}


def test_every_operator_has_an_explanation() -> None:
    public = {name for name in reference.__all__ if hasattr(ccdn_ops, name)}
    assert set(OPERATORS) == public


@pytest.mark.parametrize("operator", SHAPES)
def test_each_operator(operator: str) -> None:
    found = explain(operator, *SHAPES[operator])
    native_kernels = native.module() and RECORDS[operator].has("cpu")
    assert found.backend == ("cpu" if native_kernels else "reference")
    assert set(found.rejected) == set(registry.BACKENDS) - {found.backend}
    assert found.kernel.endswith(f".{found.backend}")
    assert found.algorithm in str(found)
    with pytest.raises(ValueError, match=f"{operator}: .* has shape .*expected"):
        explain(operator, 2)
    with pytest.raises(ValueError, match=f"{operator}: .* has shape .*expected"):
        explain(operator, *SHAPES[operator][:-1], 0)


def nbytes(tensors: Sequence[Tensor | None]) -> int:
    return sum(0 if t is None else t.numel() * t.element_size() for t in tensors)


CASES: list[tuple[str, dict]] = [(operator, {}) for operator in SHAPES]
CASES += [(name, dict(changed)) for name, record in RECORDS.items() for changed in record.variants]


@pytest.mark.parametrize(("operator", "arguments"), CASES, ids=str)
def test_bytes_are_those_of_the_tensors(operator: str, arguments: dict) -> None:
    """Against what the raw operators are given and return; of one level where there are several."""
    inputs, options = raw_inputs(operator, **arguments)
    inputs = [[x[0]] if isinstance(x, list) else x for x in inputs]
    found, saved, results = both_passes(operator, inputs, options)
    given, public = torch.utils._pytree.tree_leaves(inputs), found[: RECORDS[operator].outputs]
    expected = (
        nbytes(given) + nbytes(found),
        nbytes(public) + nbytes(given) + nbytes(saved) + nbytes(results),
    )
    explained = explain(operator, *SHAPES[operator], excitations=P, hidden=R, **arguments)
    assert explained.bytes == expected


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize(
    "operator",
    ["newton_schulz_sqrt", "newton_schulz_roots", "isqrt_cov", "dual_squeeze", "excitation_gates"],
)
def test_literal_operations_are_those_of_the_reference(operator: str, iterations: int) -> None:
    """Against torch's count of its matrix products."""
    inputs, _ = raw_inputs(operator)
    options = [] if operator == "excitation_gates" else [iterations]
    with FlopCounterMode(display=False) as counter:
        getattr(reference, operator)(*inputs, *options)
    with use_backend("reference"):
        found = explain(operator, *SHAPES[operator], iterations=iterations, excitations=P, hidden=R)
    assert found.operations[0] == counter.get_total_flops()


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize(
    "operator",
    [
        "newton_schulz_sqrt",
        "newton_schulz_roots",
        "isqrt_cov",
        "dual_squeeze",
        "excitation_gates",
        "covariance_pool",
    ],
)
def test_literal_operations_are_those_of_the_references_gradient(
    operator: str, iterations: int
) -> None:
    """Against torch's count of the matrix products in the reference's backward pass."""
    inputs, options = raw_inputs(operator)
    given = [inputs[0].flatten(2) if inputs[0].dim() == 4 else inputs[0], *inputs[1:]]
    options = [iterations, *options[1:]] if options else []
    implementation = registry.load(operator, "reference")
    assert implementation is not None
    outputs = implementation.forward(*given, *options)
    public = RECORDS[operator].outputs
    grads = [torch.ones_like(y) for y in outputs[:public]]
    with FlopCounterMode(display=False) as counter:
        implementation.backward(*grads, *given, *outputs[public:], *options)
    with use_backend("reference"):
        found = explain(operator, *SHAPES[operator], iterations=iterations, excitations=P, hidden=R)
    assert found.operations[1] == counter.get_total_flops()


def test_fewer_operations_than_literally() -> None:
    if native.module() is None:
        pytest.skip(f"the native kernels are not used here: {native.why_missing()}")
    for operator in ("dual_squeeze", "ctm", "covariance_pool", "newton_schulz_sqrt", "isqrt_cov"):
        ours = explain(operator, *SHAPES[operator])
        with use_backend("reference"):
            literal = explain(operator, *SHAPES[operator])
        assert sum(ours.operations) < sum(literal.operations), operator


def test_products_of_the_iteration() -> None:
    assert [products(k, False) for k in range(1, 7)] == [1, 3, 5, 7, 10, 12]
    assert [products(k, True) for k in range(1, 7)] == [0, 2, 5, 7, 10, 12]


def test_sides() -> None:
    assert explain("dual_squeeze", 8, 256, 16, 16).side == "channels"
    with use_backend("reference"):
        assert explain("dual_squeeze", 8, 256, 49).side == "channels"
        assert explain("isqrt_cov", 8, 256, 49).side == "channels"
    if native.module() is not None:
        assert "Chebyshev" in explain("dual_squeeze", 8, 256, 49).algorithm
        assert explain("dual_squeeze", 8, 256, 49).side == "positions"
        assert explain("isqrt_cov", 8, 256, 49).side == "positions"


def test_a_backend_chosen_by_name() -> None:
    with use_backend("reference"):
        text = str(explain("dual_squeeze", 8, 256, 49))
    assert "dual_squeeze 8 x 256 x 49 torch.float32 on cpu: reference" in text
    assert "not cpu: reference was asked for by name" in text


def test_another_device() -> None:
    found = explain("dual_squeeze", 8, 256, 49, dtype=torch.bfloat16, device="cuda")
    assert found.device.type == "cuda"
    assert "cpu" in found.rejected
    if not torch.cuda.is_available():
        assert found.backend == "reference"
        assert set(found.rejected) >= {"cuda", "triton"}
        # All parts of ctm have the same reason, which is given once.
        parts = explain("ctm", *SHAPES["ctm"], device="cuda")
        assert parts.rejected["cuda"] == found.rejected["cuda"]


def test_a_backend_that_has_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_no_cuda_kernels", lambda device=None: None)
    whole = explain("ctm", *SHAPES["ctm"], device="cuda")
    assert (whole.backend, whole.kernel) == ("cuda", "ccdn_ops.ops.ctm.cuda")
    parts = explain("ctm", *SHAPES["ctm"], device="cuda", orders=1)
    assert parts.backend == "cuda"
    assert "excitation_gates.cuda; ccdn_ops.ops.multi_excite.cuda" in parts.kernel
    assert "ctm.cuda" not in parts.kernel


def test_parts_with_reasons_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    why_not = registry.why_not

    def refuse(operator: str, backend: str, *arguments: object) -> str | None:
        if (operator, backend) == ("multi_excite", "triton"):
            return "too large"
        return why_not(operator, backend, *arguments)

    monkeypatch.setattr(registry, "why_not", refuse)
    reason = explain("ctm", *SHAPES["ctm"], device="cuda").rejected["triton"]
    assert "multi_excite: too large" in reason
    assert "dual_squeeze: " in reason


@pytest.mark.parametrize("operator", ["dual_squeeze", "ctm"])
def test_a_backend_that_cannot(operator: str) -> None:
    with use_backend("cuda"):
        found = explain(operator, 8, 256, 7, 7)
    assert found.backend == "none"
    assert "would raise" in str(found)


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="no operator 'squeeze'; expected one of cocs_loss"):
        explain("squeeze", 1, 2, 3)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\)"):
        explain("dual_squeeze", 2, 3)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\); expected \(B, D, D\)"):
        explain("newton_schulz_sqrt", 2, 3, 4)
    with pytest.raises(ValueError, match="iterations is 0"):
        explain("dual_squeeze", 2, 3, 4, iterations=0)


def test_report_lists_every_operator_on_both_devices() -> None:
    text = report.report()
    for operator in OPERATORS:
        assert f"\n{operator} 16 x" in text
