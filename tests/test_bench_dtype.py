"""CCDN_BENCH_DTYPE: the operators' rows of 16 bits against the same rows of float32."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

import ccdn_ops
from ccdn_ops import reference

Load = Callable[[str], ModuleType]


@pytest.fixture
def cases(load: Load, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = load("cases")
    monkeypatch.setattr(found, "DTYPE", torch.bfloat16)
    monkeypatch.setattr(found, "NARROW", True)
    monkeypatch.setattr(found, "interleaved", lambda functions, **_: timed(found, functions))
    monkeypatch.setattr(found.roofline, "bandwidth", lambda *_: 1e9)
    monkeypatch.setattr(found.roofline, "matrix_rate", lambda *_: 1e9)
    return found


def timed(cases: ModuleType, functions: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Runs each function once; what it takes is made up: a second, two, ..."""
    for function in functions.values():
        function()
    return {name: cases.Timing(1.0 + i, 1.0 + i, 2) for i, name in enumerate(functions)}


def excite(cases: ModuleType, **given: Any) -> Any:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 4, generator=random)
    gates = torch.rand(2, 2, 3, generator=random)
    return cases.Case(
        "multi_excite",
        {"B": 2},
        [x.contiguous(memory_format=torch.channels_last).requires_grad_(), gates],
        **{"ours": ccdn_ops.multi_excite, "reference": reference.multi_excite, **given},
        best_eager=None,
        work=(100, 100),
    )


def test_a_row_has_itself_in_float32_as_its_baseline(cases: ModuleType, load: Load) -> None:
    seen = []

    def ours(x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        seen.append((x.dtype, gates.dtype, x.requires_grad, gates.requires_grad, channels_last))
        return ccdn_ops.multi_excite(x, gates)

    row = cases.measure(excite(cases, ours=ours))
    assert set(seen) == {
        (dtype, dtype, True, False, True) for dtype in (torch.float32, torch.bfloat16)
    }
    assert row.ratios == {"float32": 2.0}
    assert 1e-4 < row.error < 2**-7
    titles, line = load("tables").table([row])
    assert (titles[0], line[0]) == ("x float32", "2.00")
    assert "float32 ms" in titles
    assert not [title for title in titles if "reference" in title or "eager" in title]


def test_a_wrong_result_has_no_speed(cases: ModuleType) -> None:
    with pytest.raises(AssertionError, match="ours is wrong"):
        cases.measure(excite(cases, ours=lambda x, gates: 1.2 * ccdn_ops.multi_excite(x, gates)))


def test_a_round_that_took_no_time_does_not_count(load: Load) -> None:
    """The clock of a thread may stand still; the fastest round would be a division by zero."""
    taken = iter([3.0, 0.0, 2.0, 4.0])

    def clock(*_: object) -> float:
        return next(taken)

    found = load("timing").interleaved({"ours": int}, clock=clock, seconds=0, min_rounds=3)
    assert (found["ours"].best, found["ours"].rounds) == (2.0, 2)
