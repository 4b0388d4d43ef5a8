"""Several processes do what one does: the same faces, losses and scores."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchruns import finish, one_node, steps, train_module

from ccdn.checkpoint.load import load_checkpoint
from ccdn.cli.train import main
from ccdn.plan.batching import Place, Share, batch_keys, usable_batch
from ccdn.runtime.processes import Processes

# In float64 with frozen statistics every sum but its order is the same.
EXACT = [
    "train.precision=fp64",
    "train.batch_norm=frozen",
    "train.log_steps=1",
    "train.checkpoint_steps=4",
    "data.augmentation=mild",
    "train.schedule=constant",
]
TERMS = ("loss", "landmarks", "cocs_t", "cocs_t1", "cocs_g", "gradient", "nme")
STEPS = 50


@pytest.mark.parametrize(("size", "parts"), [(1, 1), (2, 1), (4, 1), (2, 2), (1, 4)])
def test_the_processes_batches_are_the_one_of_a_single_process(size: int, parts: int) -> None:
    def keys(share: Share) -> list[tuple[Place, list[int]]]:
        return list(batch_keys(21, 8, 3, Place(0, 1), 3, share))

    whole = keys(Share())
    shares = [keys(Share(rank, size, parts)) for rank in range(size)]
    for number, (place, indices) in enumerate(whole):
        found = [share[number] for share in shares]
        assert all(at == place and len(own) == 8 // size for at, own in found)
        # Part after part, all processes together do the batch in its order.
        pieces = np.array([own for _, own in found]).reshape(size, parts, -1)
        assert pieces.transpose(1, 0, 2).reshape(-1).tolist() == indices


def test_a_batch_that_cannot_be_shared() -> None:
    assert usable_batch(7, 16, Share(0, 2, 1)) == 6
    with pytest.raises(ValueError, match="batch of 9 cannot be shared equally by 2 processes"):
        usable_batch(100, 9, Share(0, 2, 1))
    with pytest.raises(ValueError, match="3 training faces are too few for 2 processes x 2"):
        usable_batch(3, 8, Share(0, 2, 2))


@pytest.mark.parametrize("count", [1, 5, 6])
def test_every_process_evaluates_as_many_faces(count: int) -> None:
    shares = [Processes(rank, 3).share(count) for rank in range(3)]
    assert len({len(share) for share in shares}) == 1
    assert set().union(*shares) == set(range(count))


def test_the_age_of_the_process_that_started_this_one() -> None:
    """As torchrun's agent, which starts its processes anew."""
    asks = "from ccdn.runtime.processes import agent_age; print(agent_age())"
    agent = f"""
import subprocess, sys, time
start = time.monotonic()
time.sleep(2)
for _ in range(2):
    print(subprocess.check_output([sys.executable, "-c", {asks!r}], text=True), end="")
    print(time.monotonic() - start)
"""
    output = subprocess.check_output([sys.executable, "-c", agent], text=True)
    ages = [float(line) for line in output.splitlines()]
    if Path("/proc/self/stat").exists():
        for age, passed in (ages[:2], ages[2:]):
            assert 2 <= age < passed + 2
        assert ages[2] > ages[0]


def largest_difference(one: Path, other: Path, terms: tuple[str, ...] = TERMS) -> float:
    ours, theirs = steps(one), steps(other)
    assert ours.keys() == theirs.keys()
    return max(
        abs(ours[step][term] - theirs[step][term])
        / max(1.0, abs(ours[step][term]) if term == "gradient" else 0.0)
        for step in ours
        for term in terms
    )


def arguments(folder: Path, small: list[str], out: Path, *more: str) -> list[str]:
    data = ["--config", "tiny", "--data", str(folder), "--out", str(out)]
    return train_module(*data, *small, *EXACT, *more)


def test_two_processes_and_one(face_folder: Path, small: list[str], tmp_path: Path) -> None:
    more = ("data.holdout=0.25", "train.eval_epochs=1", "train.epochs=2", "train.ema=0.9")
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(arguments(face_folder, small, one, *more)[2:]) == 0
    output = finish(one_node(2) + arguments(face_folder, small, two, *more))
    assert "cpu in 2 processes" in output
    assert largest_difference(one, two) < 1e-9
    saved = load_checkpoint(two / "last.pt")
    assert saved.processes == 2
    single = load_checkpoint(one / "last.pt")
    assert saved.best["holdout_nme"] == pytest.approx(single.best["holdout_nme"], abs=1e-4)
    for name, value in single.model.items():
        torch.testing.assert_close(saved.model[name], value, rtol=0, atol=1e-9)


def test_accumulated_parts_are_one_batch(
    face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    """Except COCS, whose Q is that of a part."""
    for name, parts in (("whole", 1), ("parts", 2)):
        own = (f"train.accumulate={parts}", "train.cocs.t=0", "train.cocs.t1=0", "train.cocs.g=0")
        assert main(arguments(face_folder, small, tmp_path / name, *own)[2:]) == 0
    kept = ("loss", "landmarks", "gradient", "nme")
    assert largest_difference(tmp_path / "whole", tmp_path / "parts", kept) < 1e-9


KILL = """
import os, signal, sys, time
from pathlib import Path
import ccdn.training.trainer as trainer

first = Path(sys.argv[1])
step = trainer.Trainer._one_step
def killed(self, batch):
    step(self, batch)
    if self.processes.rank == 1 and self.step == int(sys.argv[2]) and not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
trainer.Trainer._one_step = killed
if first.exists() and os.environ["RANK"] == "0":
    time.sleep(3)  # the other one is early, and must not find what was there before
from ccdn.cli.train import main
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.slow
def test_a_killed_process_changes_nothing(
    face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    """One process, two, and two of which one dies and torchrun starts them again."""
    more = ("train.epochs=10", "data.limit=20")  # 5 steps an epoch
    one, two, hurt = (tmp_path / name for name in ("one", "two", "hurt"))
    finish([sys.executable, *arguments(face_folder, small, one, *more)])
    finish(one_node(2) + arguments(face_folder, small, two, *more))
    script = tmp_path / "kill.py"
    script.write_text(KILL)
    own = [str(tmp_path / "killed"), "23", *arguments(face_folder, small, hurt, *more)[2:]]
    output = finish([*one_node(2, "--max-restarts=2"), str(script), *own])
    assert (tmp_path / "killed").exists()
    assert f"exitcode: {-signal.SIGKILL}" in output.replace("exitcode  :", "exitcode:")
    assert "resuming after step 20" in output
    assert len(steps(one)) == STEPS
    assert largest_difference(one, two) < 1e-9
    assert largest_difference(one, hurt) < 1e-9


@pytest.mark.slow
def test_evaluation_is_shared(face_folder: Path, small: list[str], tmp_path: Path) -> None:
    """By three processes, of which one does a face again to come out even."""
    from ccdn.cli import evaluate

    out = tmp_path / "run"
    assert main(arguments(face_folder, small, out, "train.epochs=1")[2:]) == 0
    own = ["--weights", str(out / "last.pt"), "--split", "train", "--device", "cpu"]
    assert evaluate.main([*own, "--out", str(tmp_path / "one")]) == 0
    finish([*one_node(3), "-m", "ccdn", "evaluate", *own, "--out", str(tmp_path / "three")])
    one, three = (
        json.loads((tmp_path / name / "results.json").read_text())["splits"]["train"]
        for name in ("one", "three")
    )
    assert one["faces"] == three["faces"] == 20
    for norm, scores in one["model"].items():
        assert three["model"][norm] == pytest.approx(scores, abs=1e-4)


FINDS_A_FACE = """
import sys
import numpy as np
from ccdn.cli import predict
from ccdn.data.detection import CallableDetector, choice
choice._named = lambda name: CallableDetector(lambda image: [np.array([10.0, 10, 80, 90])])
sys.exit(predict.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_prediction_is_shared(mean_shape_weights: Path, face_folder: Path, tmp_path: Path) -> None:
    """Two processes write what one writes, and the table of all is in the order of the inputs."""
    script = tmp_path / "predict.py"
    script.write_text(FINDS_A_FACE)
    pictures = [str(path) for path in sorted(face_folder.glob("*.png"))[:5]]
    own = [str(script), *pictures, "--weights", str(mean_shape_weights), "--device", "cpu"]
    own += ["--write", "json,csv,pts", "--out"]
    finish([sys.executable, *own, str(tmp_path / "one")])
    finish([*one_node(2), *own, str(tmp_path / "two")])
    one, two = (
        {path.name: path.read_text() for path in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert len(one) == 11
    assert two == one
    lines = one["landmarks.csv"].splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == pictures
