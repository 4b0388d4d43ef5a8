"""The predictions of benchmarks/gpu_model.py and gpu_eager.py: their arithmetic, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

Load = Callable[[str], Any]


@pytest.fixture
def model(load: Load) -> Any:
    return load("gpu_model")


def static(load: Load, turn: Any, once: Any, launches: list[list[Any]]) -> Any:
    """A record of one kernel, in one call."""
    turns, record = load("turns"), load("static_record")
    figures = turns.Figures(32, 256, 0, 0, 0, turn.loads, ((16, 4),), turn, turn, once)
    kernels = {"excite float 4 0": figures}
    call = "multi_excite 64x4x256x32x32 float32 forward"
    return record.Static({"90": "13.0"}, {"90": kernels}, {call: launches})


def test_every_kernel_is_known(model: Any, load: Load) -> None:
    """Of every call on record: what it moves, its turns, and its static figures."""
    recorded = load("static_record").Static.read()
    launched = {one[0] for each in recorded.launches.values() for one in each}
    assert launched <= set(recorded.kernels["90"])
    assert {kernel.split()[0] for kernel in launched} <= set(model.WORK)
    for text in recorded.launches:
        [prediction] = model.predict(recorded, [load("gpu_launches").Call.of(text)])
        assert 1e-6 < prediction.device < 0.1, text


def test_a_launch_that_memory_bounds(model: Any, load: Load) -> None:
    """x in and four maps out: 336 MB at seven eighths of 4.8 TB/s, and one launch."""
    turns = load("turns")
    turn = turns.Turn(instructions=10, clocks=10, loads=((16, 1),))
    recorded = static(load, turn, turn, [["excite float 4 0", 16384, 256, 1, 0]])
    call = load("gpu_launches").Call("multi_excite", (64, 4, 256, 32, 32), "float32", False)
    [prediction] = model.predict(recorded, [call])
    x = 64 * 256 * 32 * 32 * 4
    gates = 64 * 4 * 256 * 4
    moved = (5 * x + gates) / (4.8e12 * 0.875)
    assert prediction.bound.bound == "memory"
    assert prediction.device == pytest.approx(moved + 2.2e-6, rel=1e-3)
    floor, _ = model.floors(call)
    assert floor == pytest.approx((5 * x + gates) / 4.8e12, rel=1e-2)
    # A launch that overlaps the one before costs less.
    recorded.launches[str(call)][0].append(1)
    [overlapping] = model.predict(recorded, [call])
    assert prediction.device - overlapping.device == pytest.approx(1e-6)
    # Again at once: nothing of 336 MB is left in the cache.
    assert model.predict(recorded, [call] * 2)[1].device == overlapping.device


def test_a_launch_that_latency_bounds(model: Any, load: Load) -> None:
    """Two waves of blocks: once through, and a turn of two trips to the cache."""
    turns = load("turns")
    turn = turns.Turn(instructions=100, clocks=200, waits=2, trips=2, covered=140, barriers=1)
    once = replace(turn, clocks=700)
    recorded = static(load, turn, once, [["excite float 4 0", 2 * 132 * 8, 256, 1, 0]])
    call = load("gpu_launches").Call("multi_excite", (64, 4, 256, 32, 32), "float32", False)
    machine = replace(model.H200, bandwidth=1e18)
    [prediction] = model.predict(recorded, [call], machine)
    [part] = prediction.parts
    # 16 warps a scheduler issue 1600 instructions in a turn; one warp waits 200 + 60 + 30 + 400.
    of_turn, of_once = 16 * 100, 16 * 100
    assert max(of_turn, 200 + 60 + 30 + 2 * 270 - 140) == of_turn
    once_alone = 700 + 60 + 30 + 400
    first = max(of_once, once_alone) - of_turn + (800 - 270)
    assert part.bound == "instructions"
    assert part.seconds == pytest.approx(2 * (first + of_turn) / 1.755e9)
    # A block alone on its multiprocessor: what a warp waits for.
    recorded.launches[str(call)] = [["excite float 4 0", 10, 128, 1, 0]]
    [part] = model.predict(recorded, [call], machine)[0].parts
    assert part.bound == "latency"
    assert part.seconds == pytest.approx((1190 - 690 + 530 + 690) / 1.755e9)


def test_a_kernel_without_a_description(model: Any, load: Load) -> None:
    turns = load("turns")
    recorded = static(load, turns.Turn(), turns.Turn(), [["unknown float", 1, 256, 1, 0]])
    call = load("gpu_launches").Call("multi_excite", (64, 4, 256, 32, 32), "float32", False)
    with pytest.raises(KeyError, match="WORK says nothing of the kernel unknown"):
        model.predict(recorded, [call])


def test_the_cache_holds_the_latest(model: Any) -> None:
    cache = model.Cache(100)
    assert not cache.touch("a", 60)
    assert cache.touch("a", 60)
    assert not cache.touch("b", 30)
    assert cache.touch("a", 60)  # the latest now
    assert not cache.touch("c", 40)  # b goes
    assert cache.touch("a", 60)
    assert not cache.touch("b", 30)
    assert not cache.touch("large", 200)
    assert not cache.touch("large", 200)


def test_the_operations_of_eager_pytorch(load: Load) -> None:
    """A product, a sum and a broadcast; views do not count, and broadcast inputs are read once."""
    eager = load("gpu_eager")

    def literal(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y).transpose(1, 2) + x[:1, :1, :8]

    tensors = [torch.empty(4, 8, 16), torch.empty(4, 16, 32)]
    product, add = eager.operations(literal, tensors, backward=False)
    assert (product.name, product.product) == ("bmm", True)
    assert product.operations == 2 * 4 * 8 * 16 * 32
    assert product.bytes == 4 * (4 * 8 * 16 + 4 * 16 * 32 + 4 * 8 * 32)
    assert (add.name, add.product, add.operations) == ("add", False, 0)
    assert add.bytes == 4 * (2 * 4 * 8 * 32 + 8)


def test_the_time_of_eager_pytorch(load: Load, model: Any) -> None:
    """The host where operations are small, else the device."""
    predict, eager = load("gpu_predict"), load("gpu_eager")
    small = [eager.Operation("add", 4096, 0, False)] * 10
    stream, graph = predict.eager_seconds(small, model.H200, "float32")
    assert stream == pytest.approx(10 * 5e-6)
    assert graph == pytest.approx(10 * 2.2e-6, rel=1e-3)
    large = [eager.Operation("bmm", 1, int(67e12 * 0.7 * 1e-3), True)]
    stream, graph = predict.eager_seconds(large, model.H200, "float32")
    assert stream == graph == pytest.approx(1e-3 + 2.2e-6)
    assert predict.compiled_seconds(large, model.H200, "float32") == pytest.approx(1e-3 + 4.4e-6)
