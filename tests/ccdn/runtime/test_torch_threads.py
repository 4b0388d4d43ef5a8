"""A block's number of torch's threads leaves no trace, whoever else is in such a block."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

import ccdn
from ccdn.runtime import torch_threads as module
from ccdn.runtime.torch_threads import SMALL_BATCH, threads_for, torch_threads

SECONDS = 60.0


@pytest.fixture(autouse=True)
def three() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["of this thread", "of the process"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which the number is set."""
    if request.param == "of the process":
        monkeypatch.setattr(module, "_setters", lambda: None)
    elif module._setters() is None:
        pytest.skip("torch's OpenMP cannot be asked here")


@pytest.fixture
def local() -> None:
    if module._setters() is None:
        pytest.skip("torch's OpenMP cannot be asked here")


def in_a_thread(work: Callable[[], int]) -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(SECONDS)
    return found[0]


@pytest.mark.usefixtures("either")
def test_a_block_and_what_comes_after() -> None:
    with torch_threads(2):
        assert torch.get_num_threads() == 2
        with torch_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with torch_threads(None):
            assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 3
    with pytest.raises(KeyError), torch_threads(1):
        raise KeyError
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("either")
def test_a_thread_that_begins_in_the_block_of_another() -> None:
    def late() -> int:
        with torch_threads(1):
            assert torch.get_num_threads() == 1
        return torch.get_num_threads()

    with torch_threads(1):
        assert in_a_thread(late) == 3
    assert torch.get_num_threads() == 3
    assert in_a_thread(torch.get_num_threads) == 3


@pytest.mark.usefixtures("local")
def test_other_threads_do_not_notice() -> None:
    """Neither one that begins with torch during a block, nor one that sets the number then."""

    def setting() -> int:
        torch.set_num_threads(2)
        return torch.get_num_threads()

    with torch_threads(1):
        assert in_a_thread(torch.get_num_threads) == 3
        assert in_a_thread(setting) == 2
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    assert in_a_thread(torch.get_num_threads) == 2  # the process has what was set last


@pytest.mark.usefixtures("local")
def test_mkl_has_the_number_too() -> None:
    """Which torch tells only in a text."""

    def of_mkl() -> int:
        (found,) = re.findall(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
        return int(found)

    if "mkl_get_max_threads" not in torch.__config__.parallel_info():
        pytest.skip("torch is built without MKL")
    assert of_mkl() == 3
    with torch_threads(2):
        assert of_mkl() == 2
        with torch_threads(1):
            assert of_mkl() == 1
        assert of_mkl() == 2
    assert of_mkl() == 3


def test_small_batches_have_one() -> None:
    assert threads_for(1) == threads_for(SMALL_BATCH) == 1
    assert threads_for(SMALL_BATCH + 1) is None
    assert threads_for(1, 4) == threads_for(100, 4) == 4


@pytest.mark.parametrize(("threads", "expected"), [(None, 1), (2, 2)])
def test_a_predictor_has_its_own(threads: int | None, expected: int) -> None:
    predictor = ccdn.Predictor(device="cpu", threads=threads)
    seen: list[int] = []
    hook = predictor.model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    predictor(np.zeros((64, 64, 3), np.uint8), [8, 8, 56, 56])
    hook.remove()
    assert seen
    assert set(seen) == {expected}
    assert torch.get_num_threads() == 3


def test_no_threads_are_too_few() -> None:
    with pytest.raises(ValueError, match="threads: expected at least 1, found 0"):
        ccdn.Predictor(threads=0)
