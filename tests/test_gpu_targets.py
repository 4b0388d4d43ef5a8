"""The suites of benchmarks/gpu_targets.py, measured on the CPU with small shapes."""

from __future__ import annotations

import dataclasses
import json
from types import ModuleType
from typing import Any

import pytest
import torch


@pytest.fixture
def quick(load: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Suites that take no time: the figures mean nothing on a CPU, but they come out."""
    measure, targets = load("gpu_measure"), load("gpu_targets")
    interleaved = load("timing").interleaved

    def at_once(functions: Any, **rest: Any) -> Any:
        return interleaved(functions, **{**rest, "seconds": 0.0})

    monkeypatch.setattr(measure, "interleaved", at_once)
    monkeypatch.setattr(targets, "interleaved", at_once)
    monkeypatch.setattr(measure.roofline, "bandwidth", lambda moved, device: 1e9)
    monkeypatch.setattr(measure, "compiled", measure.step)
    small = targets.covariance_pool
    suites = targets.SUITES
    monkeypatch.setitem(
        suites,
        "covariance_pool",
        dataclasses.replace(
            suites["covariance_pool"], measure=lambda shape, device: small(shape, device, 16)
        ),
    )
    return targets


# Shapes whose sizes must fit together; a suite made of an operator's record takes any.
SMALL = {
    "dual_squeeze": [(2, 8, 6), (2, 6, 9)],
    "dual_squeeze_compiled": [(2, 8, 6)],
    "multi_excite": [(2, 2, 4, 3, 3)],
    "ctm": [(2, 2, 4, 3, 3)],
    "cocs_loss": [(3, 2, 5)],
    "excitation_gates": [(3, 2, 8)],
    "covariance_pool": [(2, 6, 9)],
    "isqrt_cov": [(2, 8, 6)],
    "isqrt_cov_narrow": [(2, 6, 9)],
    "newton_schulz_sqrt": [(2, 6), (1, 9)],
    "newton_schulz_roots": [(2, 6), (1, 9)],
}


def test_every_suite_can_be_measured(quick: ModuleType) -> None:
    assert set(SMALL) <= set(quick.SUITES)
    for name, suite in quick.SUITES.items():
        shapes = SMALL.get(name, [tuple(range(2, 2 + len(suite.shapes[0])))])
        for row in quick.rows([name], "cpu", shapes=shapes):
            assert "failed" not in row, row
            assert min(row["ms"].values()) > 0
            assert row["error"] < 1e-2
            json.dumps(row)
    for target in quick.TARGETS:
        shape = target.shapes[0]
        row = next(iter(quick.rows([target.suite], "cpu", shapes=SMALL[target.suite][:1])))
        figure, count = target.figure([{**row, "shape": list(shape)}])
        assert figure > 0
        assert count == 1


def test_the_command_of_suites(
    quick: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["dual_squeeze", "--backend", "cpu", "--shapes", "[[2, 8, 6], [2, 6, 9]]"]
    assert quick.main(options, device="cpu") == 0
    rows = [json.loads(line[4:]) for line in capsys.readouterr().out.splitlines()]
    assert [row["shape"] for row in rows] == [[2, 8, 6], [2, 6, 9]]
    assert {row["backend"] for row in rows} == {"cpu"}
    # A result that is wrong fails its shape; a device that is lost ends the process.
    wrong = dataclasses.replace(
        quick.SUITES["dual_squeeze"],
        measure=lambda shape, device: quick.measured(
            lambda x: x * 1.001, lambda x: x, [torch.ones(3, requires_grad=True)], device
        ),
    )
    monkeypatch.setitem(quick.SUITES, "dual_squeeze", wrong)
    assert quick.main(options, device="cpu") == 0
    rows = [json.loads(x[4:]) for x in capsys.readouterr().out.splitlines() if x.startswith("row")]
    assert len(rows) == 2
    assert "no speed is measured" in rows[1]["failed"]
    assert "ms" not in rows[1]
    monkeypatch.setattr(quick, "intact", lambda device: False)
    assert quick.main(options, device="cpu") == quick.BROKEN
    assert capsys.readouterr().out.count("row {") == 1


def test_the_clock_of_a_device(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cold caches and an event on either side of every call, seconds from milliseconds."""
    timing = load("timing")
    said: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            said.append("event")

        def elapsed_time(self, end: Event) -> float:
            return 2.0

    class Buffer:
        def zero_(self) -> None:
            said.append("flush")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: said.append("wait"))
    monkeypatch.setattr(timing, "_flush", [Buffer()])
    assert timing.CLOCKS["cuda"](lambda: said.append("call"), 2) == pytest.approx(2e-3)
    assert said == [*(["flush", "event", "call", "event"] * 2), "wait"]
