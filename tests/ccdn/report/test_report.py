"""`ccdn report`: one page that needs no other file, as text and in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ccdn.checkpoint.state import Checkpoint
from ccdn.checkpoint.torch_file import save_checkpoint
from ccdn.cli import evaluate, report
from ccdn.config import config_to_yaml, load_config
from ccdn.evaluation.landmark_files import read_predictions
from ccdn.evaluation.metrics import ced, nme
from ccdn.models import build_model
from ccdn.training.metrics_log import MetricsLog, read_log

NASTY = "</script><b>&'\""


def make_run(folder: Path, face_folder: Path, small: list[str], *overrides: str) -> Path:
    """A run's folder as training and evaluation leave it, of a network that learnt nothing."""
    more = ["train.epochs=2", f"data.root={face_folder}", "data.kind=folder", *overrides]
    config = load_config("tiny", [*small, *more])
    torch.manual_seed(1)
    model = build_model(config.model)
    shape = torch.rand(68, 2) * 0.8 + 0.1
    model.set_mean_shape(shape)
    state = Checkpoint(config, model.state_dict(), shape, data={"name": NASTY}, epoch=2, step=8)
    save_checkpoint(folder / "last.pt", state)
    (folder / "config.yaml").write_text(config_to_yaml(config))
    log = MetricsLog(folder / "metrics.jsonl")
    for step in range(1, 9):
        terms = {"loss": 8 / step, "landmarks": 7 / step, "lr": 1e-3, "cocs_t": 1.0, "cocs_t1": 0.5}
        record = {"kind": "step", "step": step, "at": step / 4, "images_per_second": 50.0, **terms}
        log.write({**record, "cocs_g": None})
        if step % 4 == 0:
            epoch = {"kind": "epoch", "step": step, "at": step / 4, "nme": 20.0 / step}
            log.write({**epoch, "seconds": 3.0})
    log.close()
    assert evaluate.main(["--weights", str(folder / "last.pt")]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, face_folder: Path, small: list[str]) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "a", face_folder, small)


def page_of(*arguments: str | Path) -> str:
    assert report.main([str(argument) for argument in arguments]) == 0
    out = arguments[arguments.index("--out") + 1] if "--out" in arguments else None
    return Path(out or Path(arguments[0]) / "report.html").read_text()


def embedded(page: str) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', page, re.S)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def test_the_page_needs_no_other_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = page_of(run)
    assert str(run / "report.html") in capsys.readouterr().out
    outside = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert outside
    assert all(link.startswith(("#", "data:")) for link in outside)
    addresses = set(re.findall(r"https?://[\w./]+", page)) - {"http://www.w3.org/2000/svg"}
    assert not addresses
    assert len(page) < 10e6
    assert NASTY not in page  # names come out escaped
    for anchor in ("scores", "ced", "gallery", "activations", "training", "throughput"):
        assert f'<section id="{anchor}">' in page
    assert 'id="published"' not in page  # no protocol, no published rows


def test_what_is_embedded_is_what_was_measured(run: Path) -> None:
    content = embedded(page_of(run))
    (one,) = content["runs"]
    file = read_predictions(run / "predictions.npz")
    assert file.truth is not None
    expected = nme(file.predicted, file.truth)
    errors = np.array(one["sets"][0]["errors"]["inter_ocular"]["model"]) / content["scale"]
    assert np.abs(errors - expected).max() <= 0.5 / content["scale"]
    assert np.allclose(ced(errors, np.array([0.2])), ced(expected, np.array([0.2])), atol=0.05)
    assert len(one["gallery"]) == one["faces"] == 20
    face = next(f for f in one["gallery"] if f["name"] == (file.names or [])[3])
    assert face["error"] == pytest.approx(expected[3], abs=1e-6)
    # The crop holds the landmark box with a margin: the truth lies inside, centred.
    truth = np.array(face["truth"])
    assert truth.min() >= 0
    assert truth.max() <= 1000
    middle = (truth.min(0) + truth.max(0)) / 2
    assert np.abs(middle - 500).max() < 2
    assert [epoch["nme"] for epoch in one["curves"]["epochs"]] == [5, 2.5]


def test_two_runs_on_one_page(
    run: Path, face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    other = make_run(tmp_path / "b", face_folder, small, "model.excitations=3")
    page = page_of(f"first={run}", other, "--out", tmp_path / "both.html", "--title", "Two <runs>")
    assert "<h1>Two &lt;runs&gt;</h1>" in page
    assert [one["name"] for one in embedded(page)["runs"]] == ["first", "b"]
    differing = page[page.index("What differs") : page.index("<details")]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", differing)
    assert cells == ["model.excitations", "2", "3"]


def test_a_part_of_a_run(run: Path, tmp_path: Path) -> None:
    """A run that was not yet evaluated, and predictions without a run."""
    training = tmp_path / "training"
    training.mkdir()
    shutil.copy(run / "metrics.jsonl", training)
    page = page_of(training)
    assert 'id="training"' in page
    assert 'id="scores"' not in page
    rival = tmp_path / "rival"
    given = ["--predictions", str(run / "predictions.npz"), "--out", str(rival)]
    assert evaluate.main(given) == 0
    page = page_of(rival)
    assert 'id="ced"' in page
    assert 'id="gallery"' not in page


def test_a_table_of_the_paper_holds_the_rows_of_every_run(tmp_path: Path) -> None:
    def table(nme: float, own: str) -> dict[str, Any]:
        printed = {"cells": ["CCDN (paper)", 2.75, "the paper's"], "ours": False, "notes": [1]}
        ours = {"cells": ["model", nme, "measured here"], "ours": True, "notes": [3, 2]}
        notes = ["as printed", "partial", own]
        columns = ["method", "full", "source"]
        return {"name": "table2", "title": "T", "columns": columns} | {
            "rows": [printed, ours],
            "notes": notes,
        }

    for name, nme_, own in (("a", 3.5, "box gt"), ("b", 4.5, "box provided")):
        (tmp_path / name).mkdir()
        results = {"date": "2020-01-01", "splits": {}}
        (tmp_path / name / "results.json").write_text(json.dumps(results))
        (tmp_path / name / "tables.json").write_text(json.dumps([table(nme_, own)]))
    page = page_of(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "both.html")
    part = page[page.index('id="published"') :]
    part = part[: part.index("</section>")]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", part)
    rows = [cells[i : i + 3] for i in range(0, len(cells), 3)]
    assert rows == [
        ["CCDN (paper)<sup>1</sup>", "2.75", "the paper&#39;s"],
        ["a: model<sup>2,3</sup>", "3.50", "measured here"],
        ["b: model<sup>2,4</sup>", "4.50", "measured here"],
    ]
    notes = re.findall(r"<li>(.*?)</li>", part)
    assert notes == ["as printed", "partial", "box gt", "box provided"]


def test_files_of_an_evaluation_before_are_not_of_this_one(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ["--weights", str(run / "last.pt"), "--out", str(out)]
    assert evaluate.main([*given, "--split", "train,test"]) == 0
    assert [len(one["sets"]) for one in embedded(page_of(out))["runs"]] == [2]
    assert evaluate.main([*given, "--split", "test"]) == 0
    assert len(list(out.glob("predictions*.npz"))) == 3
    (one,) = embedded(page_of(out))["runs"]
    assert len(one["sets"]) == 1
    assert one["faces"] == len(read_predictions(out / "predictions.npz").predicted)
    rival = ["--predictions", str(run / "predictions.npz"), "--out", str(out)]
    assert evaluate.main(rival) == 0
    page = page_of(out)  # no faces and no maps of the network measured before
    assert 'id="ced"' in page
    assert 'id="gallery"' not in page
    assert 'id="activations"' not in page


def test_scores_older_than_the_training_are_said(run: Path, tmp_path: Path) -> None:
    said = "the scores are of an earlier state of this training"
    folder = tmp_path / "a"
    shutil.copytree(run, folder)
    results = json.loads((folder / "results.json").read_text())
    results["weights"] = str(folder / "last.pt")
    (folder / "results.json").write_text(json.dumps(results))

    def started(date: str) -> None:
        (folder / "run.json").write_text(json.dumps({"starts": [{"date": date, "step": 0}]}))

    started("2020-01-01T00:00:00+00:00")
    assert said not in page_of(folder)
    started("2999-01-01T00:00:00+00:00")  # started again
    assert said in page_of(folder)
    started("2020-01-01T00:00:00+00:00")
    log = MetricsLog(folder / "metrics.jsonl", 8)
    log.write({"kind": "epoch", "step": 12, "at": 3.0, "nme": 1.0, "seconds": 3.0})  # continued
    log.close()
    assert said in page_of(folder)


def test_what_is_wrong_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (broken / "gallery.npz").write_bytes(b"no archive")
    cases = [
        ([tmp_path / "gone"], "gone: expected the folder of a run"),
        ([tmp_path / "empty"], "expected results.json of ccdn evaluate or metrics.jsonl"),
        ([run, run], "two runs are called 'a'"),
        ([broken], "gallery.npz: not a gallery"),
    ]
    for arguments, message in cases:
        assert report.main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.json", b"", "not a readable JSON file"),
        ("results.json", b"[1]", "expected a dict in JSON, found a list"),
        ("results.json", b"{}", "found no date"),
        ("results.json", b"[" * 99999, "not a readable JSON file"),
        ("results.json", b'{"date": "", "splits": {}, "written": 1}', "should be a list"),
        ("tables.json", b'[{"name": "scores"}]', "expected tables with name, title"),
        ("tables.json", b"{}", "expected a list in JSON, found a dict"),
        ("config.yaml", b"a: [\n", "not a readable YAML file"),
        ("config.yaml", b"- 1\n", "expected the sections of a configuration"),
        ("config.yaml", b"\xff\xfe", "not a readable YAML file"),
        ("predictions.npz", b"PK", "not a readable .npz file"),
        ("activations.png", b"\x89PNG", "not a readable picture"),
    ],
)
def test_a_damaged_file_is_named(
    name: str,
    content: bytes,
    message: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for file in run.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes(content)
    assert report.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"{name}: " in error
    assert message in error
    assert error.count("\n") == 1, error


def test_a_log_counts_up_to_its_first_damaged_line(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "a")
    whole = (run / "metrics.jsonl").read_bytes()
    for damage in (b"\xff\xfe", b'{"kind": "step"}', b'{"step": "1"}', b"[" * 9999):
        (tmp_path / "a/metrics.jsonl").write_bytes(whole + damage + b"\n")
        assert page_of(tmp_path / "a")
    assert len(read_log(tmp_path / "a/metrics.jsonl")) == len(whole.splitlines())


PROBE = (Path(__file__).parent / "report_probe.js").read_text()
# A window of Chromium is no narrower than 500 pixels; a frame in it is.
FRAME = """<!doctype html><iframe src="page.html" width="WIDTH" height="2400"></iframe>
<pre id="probe"></pre>
<script>
addEventListener("message", (e) => { document.getElementById("probe").textContent = e.data; });
</script>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[str, list[str]]]:
    """browser(page, *options) opens a page and gives its document and console messages."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((path for name in names if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here (Debian's package chromium)")
    profile = tmp_path_factory.mktemp("profile")

    def show(page: Path, *options: str) -> tuple[str, list[str]]:
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0"]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=4000"]
        command += ["--window-size=1400,2500", *options, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return show


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
def test_in_a_browser(
    width: int, run: Path, browser: Callable[..., tuple[str, list[str]]], tmp_path: Path
) -> None:
    page = page_of(run)
    errors = sorted(face["error"] * 100 for face in embedded(page)["runs"][0]["gallery"])
    limit = round((errors[9] + errors[10]) / 2, 2)
    probing = f"<script>{PROBE.replace('LIMIT;', f'{limit};')}</script></body>"
    (tmp_path / "page.html").write_text(page.replace("</body>", probing))
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    document, console = browser(frame, "--dump-dom")
    assert console == []
    probe = re.search(r'<pre id="probe">(.*?)</pre>', document, re.S)
    assert probe is not None
    found = json.loads(probe[1])
    assert found["width"] == width
    assert found["overflow"] <= 0
    assert found["hidden"] <= 0 or width < 1200  # the scores are read without scrolling
    shown = [float(cell) for cell in found["up"]]
    assert shown == sorted(shown)
    assert found["down"] == found["up"][::-1]
    file = read_predictions(run / "predictions.npz")
    assert file.truth is not None
    exact = nme(file.predicted, file.truth)
    assert found["read"] == "NME 20.00 %"
    assert found["lines"] == 2
    name, share = found["ced"][0]
    assert name == "model"
    assert float(share) == pytest.approx(100 * ced(exact, np.array([0.2]))[0], abs=0.01)
    assert found["pointed"] not in ("", found["read"])
    assert found["worst"] == sorted(found["worst"], reverse=True)
    assert found["best"] == sorted(found["best"])
    assert found["above"] == [e for e in found["best"] if e > limit]
    assert len(found["above"]) == 10
    assert found["truth"] == 0
    assert found["pred"] > 0
    assert found["curves"] == 6  # two of the objective, one NME, two COCS, the learning rate


@pytest.mark.slow
def test_a_console_message_would_be_seen(
    browser: Callable[..., tuple[str, list[str]]], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text("<script>undefinedFunction()</script>")
    _, console = browser(page, "--dump-dom")
    assert len(console) == 1
    assert "undefinedFunction is not defined" in console[0]
