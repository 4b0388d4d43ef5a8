"""Every Python block of the README and of docs/ runs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import PAGES, Block, blocks, text_of
from torch import nn

from ccdn_ops import multi_excite, reference, use_backend
from ccdn_ops.backends import registry
from ccdn_ops.nn import CTM, SqueezeExcite

BLOCKS = blocks("python")
# The README shows lines out of a reader's own program; these are its names.
README = [block for block in BLOCKS if block.page.name == "README.md"]
# tests/ccdn/inference/test_onnx.py runs those that need an ONNX file.
ONNX = [block for block in BLOCKS if "import onnxruntime" in block.text]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages' reader has: a run, its exported weights, a photograph, a film."""
    pytest.importorskip("omegaconf", reason="ccdn is not installed, only ccdn_ops")
    import cv2

    from ccdn.checkpoint.safetensors_file import save_portable
    from ccdn.checkpoint.state import Checkpoint
    from ccdn.checkpoint.torch_file import save_checkpoint
    from ccdn.config import load_config
    from ccdn.models import build_model
    from ccdn.synthetic_faces import SyntheticFaces

    here = tmp_path_factory.mktemp("reader")
    torch.manual_seed(0)
    config = load_config("tiny")
    model = build_model(config.model)
    checkpoint = Checkpoint(config, model.state_dict(), torch.rand(68, 2))
    for run in ("a", "b"):
        (here / "runs" / run).mkdir(parents=True)
        save_checkpoint(here / "runs" / run / "last.pt", checkpoint)
    save_portable(here / "face.safetensors", checkpoint)
    step = {"kind": "step", "step": 10, "at": 0.1, "loss": 1.5}
    (here / "runs" / "a" / "metrics.jsonl").write_text(json.dumps(step) + "\n", encoding="utf-8")
    photo = SyntheticFaces(1, seed=3, size=160, pose=10, occlusion=0).image(0)
    cv2.imwrite(str(here / "photo.jpg"), photo[:, :, ::-1])
    code = cv2.VideoWriter.fourcc(*"mp4v")
    film = cv2.VideoWriter(str(here / "film.mp4"), code, 25.0, photo.shape[1::-1])
    for _ in range(2):
        film.write(photo[:, :, ::-1])
    film.release()
    return here


def run(block: Block, names: dict[str, Any]) -> None:
    exec(compile(block.text, str(block), "exec"), names)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b not in README + ONNX], ids=str)
def test_a_block(
    block: Block, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "import timm" in block.text and not importlib.util.find_spec("timm"):
        pytest.skip("timm is not installed; `make test-swap` has an environment with it")
    if re.search(r"^import ccdn$|^import json$", block.text, re.MULTILINE):
        monkeypatch.chdir(request.getfixturevalue("folder"))
    if 'backend="numpy"' not in block.text:
        run(block, {"__name__": "page"})
        return
    monkeypatch.setattr(registry, "BACKENDS", (*registry.BACKENDS, "numpy"))
    try:
        run(block, {"__name__": "page"})
        check_multi_excite("numpy")
    finally:
        del registry._implementations["multi_excite", "numpy"]


def check_multi_excite(backend: str) -> None:
    """Values and gradients of the backend that docs/extending.md writes."""
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64).to(memory_format=torch.channels_last)
    gates = torch.randn(2, 3, 5, dtype=torch.float64)
    found = []
    for function in (multi_excite, reference.multi_excite):
        leaves = [t.clone().requires_grad_() for t in (x, gates)]
        with use_backend(backend):
            out = function(*leaves)
            out.square().sum().backward()
        found.append((out.detach(), *(leaf.grad for leaf in leaves)))
    torch.testing.assert_close(*found)


def test_the_blocks_of_the_readme(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader would type them."""
    monkeypatch.chdir(folder)
    ctm = CTM(8, excitations=2, reduction=2)
    weights = [ctm.reduce_weight, ctm.reduce_bias, ctm.expand_weight, ctm.expand_bias]
    names = {
        "__name__": "page",
        "x": torch.randn(2, 8, 6, 6),
        "weights": weights,
        "model": nn.Sequential(nn.Conv2d(3, 16, 3), SqueezeExcite(16)),
        **{f"f_{name}": torch.randn(2, 2, 8) for name in ("coarse", "fine", "fused")},
    }
    assert len(README) >= 2
    for block in README:
        run(block, names)
    assert names["loss"].shape == (3,)
    assert names["face"].landmarks.shape == (68, 2)


def test_the_first_lines_of_the_readme_alone(tmp_path: Path) -> None:
    """As a program of their own, on a large photograph that the reader has."""
    pytest.importorskip("omegaconf", reason="ccdn is not installed, only ccdn_ops")
    import cv2

    from ccdn.synthetic_faces import SyntheticFaces

    (first, *_) = README
    assert "ccdn.Predictor()" in first.text
    photo = SyntheticFaces(1, seed=3, size=900, pose=10, occlusion=0)
    cv2.imwrite(str(tmp_path / "photo.jpg"), photo.image(0)[:, :, ::-1])
    more = "\nimport numpy\nnumpy.save('landmarks.npy', face.landmarks)\n"
    (tmp_path / "first.py").write_text(first.text + more, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "first.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert 0.5 <= float(done.stdout.split()[0]) <= 1
    found, truth = np.load(tmp_path / "landmarks.npy"), photo.face(0).landmarks
    assert np.linalg.norm(found - truth, axis=1).mean() < 0.05 * np.ptp(truth[:, 0])


def test_the_inline_python_of_the_first_pages(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expressions in `ccdn...`, with the files and names that stand around them."""
    import ccdn
    import ccdn_ops

    monkeypatch.chdir(folder)
    pages = [page for page in PAGES if page.name in ("README.md", "quickstart.md")]
    text = "".join(map(text_of, pages))
    found = re.findall(r"`((?:\w+, \w+ = )?ccdn(?:_ops)?\.\w+\([^`]*\))`", text)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), SqueezeExcite(16))
    names = {"ccdn": ccdn, "ccdn_ops": ccdn_ops, "model": model}
    assert found
    for text in found:
        exec(text, names)


def test_no_block_is_missed() -> None:
    fences = sum(len(re.findall(r"^```python", text_of(page), re.MULTILINE)) for page in PAGES)
    assert fences == len(BLOCKS) >= 20
    indented = [page.name for page in PAGES if re.search(r"\n\n    (python|make) ", text_of(page))]
    assert not indented, f"commands without a fence, which no test sees: {indented}"
