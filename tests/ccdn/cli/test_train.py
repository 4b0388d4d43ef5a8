"""`ccdn train` from a user's point of view."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from locked import held_by_another

from ccdn.checkpoint.load import load_checkpoint
from ccdn.cli import train
from ccdn.cli.train import RUN_FILES, main
from ccdn.config import load_config


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.check
def test_a_run_from_start_to_end_and_again(
    face_folder: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    arguments = ["--config", "tiny", "--data", str(face_folder), "--out", out, *small]
    code, _, err = run(capsys, *arguments, "train.schedule=constant")
    assert code == 0, err
    assert "20 training faces" in err
    assert "epoch 3/3" in err
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == set(RUN_FILES) - {"best.pt"}
    (start,) = json.loads((tmp_path / "run/run.json").read_text())["starts"]
    assert (start["step"], start["seed"], start["box"], start["processes"]) == (0, 0, "gt", 1)
    assert start["versions"]["torch"]
    assert load_checkpoint(tmp_path / "run/weights.safetensors").step == 15
    saved = load_checkpoint(tmp_path / "run/last.pt")
    assert load_config(tmp_path / "run/config.yaml") == saved.config
    assert (saved.config.data.kind, saved.data["faces"]) == ("folder", 20)

    code, _, err = run(capsys, *arguments, "train.schedule=constant")
    assert code == 2
    assert "holds a run's files already" in err
    assert "--resume" in err
    code, _, err = run(capsys, "--resume", "--out", out)
    assert code == 0
    assert "the run is complete, 3 epochs" in err
    code, _, err = run(capsys, "--resume", "--out", out, "train.epochs=4")
    assert code == 0, err
    assert "resuming after step 15 (epoch 4)" in err
    assert load_checkpoint(tmp_path / "run/last.pt").step == 20
    code, _, err = run(capsys, "--resume", "--out", out, "train.epochs=5", "train.lr=1")
    assert code == 2
    assert "train.lr was 0.003, now 1.0" in err
    older = tmp_path / "run/epoch-0004.pt"
    older.touch()
    code, _, err = run(capsys, *arguments, "train.epochs=1", "--overwrite")
    assert code == 0, err
    assert load_checkpoint(tmp_path / "run/last.pt").step == 5
    assert not older.exists()


def test_print_config_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--config", "small", "train.lr=3e-4", "--print-config")
    assert code == 0
    (tmp_path / "a.yaml").write_text(out)
    assert load_config(tmp_path / "a.yaml") == load_config("small", ["train.lr=3e-4"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is required"),
        (["--config", "tyny"], "presets finetune"),
        (["--config", "tiny"], "--data DIR"),
        (["--config", "tiny", "--data", "/nowhere/faces"], "/nowhere/faces"),
        (["--config", "tiny", "train.lrr=1"], "did you mean train.lr?"),
        (
            ["--config", "tiny", "--data", "FACES", "model.points=5"],
            "have 68 points, the model has 5",
        ),
        (["--config", "tiny", "--data", "FACES", "data.box=provided"], "provide no box"),
        (["--config", "tiny", "--data", "FACES", "data.augmentation=wild"], "augmentation"),
        (["--config", "tiny", "--data", "FACES", "data.augmentation_fields.spin=1"], "spin"),
        (["--config", "tiny", "--data", "FACES", "train.device=cuda:99"], "CUDA devices"),
        (["--config", "tiny", "--data", "FACES", "train.device=abacus"], "train.device"),
        (["--config", "tiny", "--data", "FACES", "data.holdout=0.01"], "holds out 0"),
        (["--config", "tiny", "--data", "FACES", "model.input_size=50"], "multiple of"),
        (["--config", "tiny", "--data", "FACES", "model.iterations=11"], "1 to 10, found 11"),
        (["--config", "tiny", "--data", "FACES", "model.stage_channels=[0,8]"], "[0]: expected at"),
        (["--config", "tiny", "--data", "FACES", "train.betas=[0.5,1.5]"], "found 1.5"),
        (["--config", "tiny", "--data", "FACES", "train.momentum=-1"], "found -1"),
        (["--config", "tiny", "--data", "FACES", "train.device=meta"], "found 'meta'"),
        (["--config", "tiny", "--data", "FACES", "data.margin=1e9"], "less than 10"),
        (["--resume", "--out", "nothing"], "expected the checkpoint of a run"),
        (["--resume"], "--resume needs --out DIR"),
        (["--config", "tiny", "--resume", "--overwrite"], "mutually exclusive"),
        (["--config", "tiny", "--data", "synthetic", "data.synthetic.size=16"], "synthetic faces"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str],
    message: str,
    face_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *[str(face_folder) if a == "FACES" else a for a in arguments])
    assert code == 2
    assert message in err
    assert err.count("\n") == 1, err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_says_how_to_resume(face_folder: Path, small: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "ccdn.train", "--config", "tiny", "--data", str(face_folder)]
    command += ["--out", str(out), *small, "train.epochs=100000", "train.workers=1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130, rest
    assert f"ccdn train --resume --out {out}" in rest
    assert "Traceback" not in rest
    assert load_checkpoint(out / "last.pt").epoch >= 2


def test_weights_that_a_killed_run_did_not_write(
    face_folder: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing, or from an earlier end, because the run was continued to more epochs."""
    out = tmp_path / "run"
    weights = out / "weights.safetensors"
    given = ["--config", "tiny", "--data", str(face_folder), "--out", str(out), *small]
    given += ["train.schedule=constant", "--resume"]
    assert run(capsys, *given, "train.epochs=1")[0] == 0
    earlier = weights.read_bytes()
    assert run(capsys, *given, "train.epochs=2")[0] == 0
    step = load_checkpoint(out / "last.pt").step
    weights.unlink()
    assert (
        "weights.safetensors was missing or older" in run(capsys, "--resume", "--out", str(out))[2]
    )
    assert load_checkpoint(weights).step == step
    weights.write_bytes(earlier)
    assert load_checkpoint(weights).step < step
    assert run(capsys, "--resume", "--out", str(out), "--dry-run")[0] == 0
    assert weights.read_bytes() == earlier
    assert (
        "weights.safetensors was missing or older" in run(capsys, "--resume", "--out", str(out))[2]
    )
    assert load_checkpoint(weights).step == step
    assert "missing or older" not in run(capsys, "--resume", "--out", str(out))[2]


def test_generated_faces_need_no_folder(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["data.synthetic.train=8", "data.synthetic.size=64", "train.epochs=1"]
    out = ["--out", str(tmp_path / "run")]
    code, _, err = run(capsys, "--config", "tiny", "--data", "synthetic", *out, *small, *more)
    assert code == 0, err
    made = load_checkpoint(tmp_path / "run/last.pt").data["generator"]
    assert (made["seed"], made["pose_degrees"]) == (0, 30.0)
    assert made["version"]


def test_a_folder_with_files_of_these_names_is_spared(
    face_folder: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "config.yaml"
    own.write_text("base: tiny\n")
    arguments = ["--config", str(own), "--data", str(face_folder), "--out", str(tmp_path), *small]
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "config.yaml" in err
    assert "--resume" not in err  # there is nothing to resume from
    assert own.read_text() == "base: tiny\n"


def test_what_torchrun_restarts_resumes_its_own_run_only(
    face_folder: Path,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    arguments = ["--config", "tiny", "--data", str(face_folder), "--out", str(out), *small]
    arguments += ["train.epochs=1"]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setattr(train, "CLOCKS", -0.001)
    agent = "ccdn.runtime.processes.agent_age"
    assert run(capsys, *arguments)[0] == 0
    # Its agent was there before the run started: it resumes, whatever the first command requested.
    monkeypatch.setattr(agent, lambda: 1000.0)
    for more in ((), ("--overwrite",)):
        code, _, err = run(capsys, *arguments, *more)
        assert code == 0
        assert "the run is complete" in err
    # Another torchrun with the same --rdzv-id, and one with another that counts a restart.
    monkeypatch.setattr(agent, lambda: 0.0)
    assert "--overwrite replaces them" in run(capsys, *arguments)[2]
    code, _, err = run(capsys, *arguments, "--overwrite", "train.seed=5")
    assert code == 0, err
    assert load_checkpoint(out / "last.pt").config.train.seed == 5
    monkeypatch.setattr(agent, lambda: 1000.0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "b")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "holds a run's files already" in err


def test_a_folder_in_which_another_process_trains_is_spared(
    face_folder: Path,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train, "PATIENCE", 0.2)
    out = tmp_path / "run"
    arguments = ["--config", "tiny", "--data", str(face_folder), "--out", str(out), *small]
    assert run(capsys, *arguments, "train.schedule=constant")[0] == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    longer = ["--resume", "--out", str(out), "train.epochs=4"]
    with held_by_another(out / train.LOCK) as other:
        for ours in (longer, [*arguments, "--overwrite"]):
            code, _, err = run(capsys, *ours)
            assert code == 2
            waits, refused = err.splitlines()
            assert waits.endswith("waiting 0.2 s for it to end")
            assert f"run: folder is in use by process {other.pid} on " in refused
        assert {path: path.read_bytes() for path in before} == before
        # What writes nothing is free.
        assert run(capsys, *longer, "--dry-run")[0] == 0
        assert run(capsys, *longer, "--print-config")[0] == 0
    code, _, err = run(capsys, *longer)
    assert code == 0, err
    assert not (out / train.LOCK).exists()


def test_resume_without_a_checkpoint_says_that_it_begins(
    face_folder: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run"), "--resume"]
    code, _, err = run(capsys, "--config", "tiny", "--data", str(face_folder), *out, *small)
    assert code == 0, err
    assert "last.pt is not there: a new run begins" in err
