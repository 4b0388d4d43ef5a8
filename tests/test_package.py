"""What an installation consists of: imports, version, the native module, sdist and wheels."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import pytest

import ccdn_ops
from ccdn_ops.backends import native

ROOT = Path(__file__).resolve().parents[1]


def run(
    *command: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in BUILD_VARIABLES}
    return subprocess.run(
        command,
        env={**env, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,  # a build on a crowded machine
    )


BUILD_VARIABLES = {"CXX", "NVCC", "CUDA_HOME", "CUDA_PATH", "CCDN_NATIVE", "CCDN_CUDA"}
BUILD_VARIABLES |= {"CCDN_CUDA_ARCHS", "CCDN_OPS_BACKEND", "PIP_CONSTRAINT"}


def test_import_brings_nothing_heavy() -> None:
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import ccdn_ops\n"
        "heavy = {'triton', 'cv2', 'matplotlib', 'scipy', 'omegaconf', 'yaml', 'tqdm', 'ccdn'}\n"
        "heavy.add('torch._dynamo')  # the compiler\n"
        "print(sorted(heavy & (set(sys.modules) - before)))\n"
        "x = torch.ones(2, 3, 4, requires_grad=True)\n"
        "ccdn_ops.dual_squeeze(x)[1].sum().backward()\n"
        "print(sorted((heavy - {'yaml', 'tqdm'}) & set(sys.modules)))\n"
    )
    done = run(sys.executable, "-c", code)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"], done.stdout + done.stderr


def test_version_is_the_installed_one() -> None:
    try:
        installed = version("ccdn")
    except PackageNotFoundError:
        pytest.skip("ccdn is not installed; the tests run from the source tree")
    assert ccdn_ops.__version__ == installed


def test_native_module_is_built_where_there_is_a_compiler() -> None:
    if os.environ.get("CCDN_NATIVE") == "off":
        pytest.skip("CCDN_NATIVE=off")
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler on PATH")
    module = native.module()
    assert module is not None, native.why_missing()
    assert module.has_parallel_for() or sys.platform != "linux"


def test_report() -> None:
    done = run(sys.executable, "-m", "ccdn_ops")
    assert done.returncode == 0, done.stderr
    assert f"ccdn {ccdn_ops.__version__}" in done.stdout
    for text in ("native module:", "triton", "CUDA device:", "torch.float32 on cuda"):
        assert text in done.stdout


def test_a_module_from_other_sources_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "ccdn_ops", tmp_path / "ccdn_ops", ignore=shutil.ignore_patterns("*.so"))
    stale = tmp_path / "ccdn_ops" / "_C.py"
    stale.write_text("interface = 0\ncuda_archs = ()\n")
    code = (
        "from ccdn_ops.backends import native\n"
        "import ccdn_ops, torch\n"
        "print(native.why_missing())\n"
        "print(ccdn_ops.dual_squeeze(torch.ones(1, 2, 3))[0].shape)\n"
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"_C.py has interface 0, expected {native.interface()}" in done.stdout
    assert "torch.Size([1, 2])" in done.stdout


def test_a_module_from_other_sources_makes_room_for_the_installed_one(tmp_path: Path) -> None:
    """In a clone that was built in place, updated, and then installed."""
    clone, site = tmp_path / "clone", tmp_path / "site"
    shutil.copytree(ROOT / "ccdn_ops", clone / "ccdn_ops", ignore=shutil.ignore_patterns("*.so"))
    (clone / "ccdn_ops" / "_C.py").write_text("interface = 0\n")
    (site / "ccdn_ops").mkdir(parents=True)
    (site / "ccdn_ops" / "_C.py").write_text(
        f"interface = {native.interface()!r}\ndef set_parallel_for(address): pass\n"
    )
    about = site / f"ccdn-{ccdn_ops.__version__}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: ccdn\nVersion: {ccdn_ops.__version__}\n")
    (about / "RECORD").write_text("ccdn_ops/_C.py,,\n")
    code = "from ccdn_ops.backends import native; print(native.module().__file__)"
    path = os.pathsep.join([str(clone), str(site), sysconfig.get_path("purelib")])
    done = run(sys.executable, "-S", "-c", code, cwd=clone, PYTHONPATH=path)
    assert done.stdout.strip() == str(site / "ccdn_ops" / "_C.py"), done.stdout + done.stderr


def test_a_module_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    """As an interrupted installation leaves it; loading it would raise SIGBUS."""
    module = native.module()
    if module is None or module.__file__ is None or sys.platform != "linux":
        pytest.skip("no native module of Linux's format here")
    shutil.copytree(ROOT / "ccdn_ops", tmp_path / "ccdn_ops", ignore=shutil.ignore_patterns("*.so"))
    with open(module.__file__, "rb") as file:
        head = file.read(200_000)
    (tmp_path / "ccdn_ops" / Path(module.__file__).name).write_bytes(head)
    code = "from ccdn_ops.backends import native; print(native.why_missing())"
    path = os.pathsep.join([str(tmp_path), sysconfig.get_path("purelib")])
    done = run(sys.executable, "-S", "-c", code, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "is cut short: found 200000 bytes, expected" in done.stdout
    assert "Run `pip install .` again" in done.stdout


def source_tree(folder: Path) -> Path:
    """A copy of what a build reads, so that no build leaves anything in the working tree."""
    folder.mkdir()
    for name in ("ccdn", "ccdn_ops", "csrc", "tests", "benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.pyc")
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    return folder


def wheel(source: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    pip = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-v")
    return run(*pip, "--no-index", "-w", str(out), str(source), **environment)


def run_installed(
    folder: Path, *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Python in `cwd` with the wheel unpacked in `folder` and this environment's dependencies.

    Without `site`, so that an editable installation of the working tree does not step in.
    """
    path = os.pathsep.join([str(folder), sysconfig.get_path("purelib")])
    return run(sys.executable, "-S", *arguments, cwd=cwd or folder, PYTHONPATH=path)


def only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    assert len(found) == 1, found
    return found[0]


class Built(NamedTuple):
    """What `make wheel` makes, from a copy of the tree; `unpacked` is the wheel as it is installed.

    Without CUDA kernels, which are compiled by their own test.
    """

    tree: Path
    sdist: Path
    wheel: Path
    unpacked: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("with a space, é")
    tree = source_tree(folder / "tree")
    command = (sys.executable, "-m", "build", "--no-isolation", "-o", str(folder / "dist"))
    done = run(*command, str(tree), CCDN_CUDA="off")
    assert done.returncode == 0, done.stdout + done.stderr
    sdist, wheel = only(folder / "dist", "*.tar.gz"), only(folder / "dist", "*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return Built(tree, sdist, wheel, folder / "unpacked")


@pytest.mark.slow
def test_the_sdist_holds_what_a_build_and_the_tests_need(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    sources = {p.relative_to(built.tree).as_posix() for p in (built.tree / "csrc").rglob("*.*")}
    assert sources <= names
    assert {"tests/conftest.py", "constraints.txt", "ccdn/config/presets/tiny.yaml"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_the_manifest_has_every_folder_and_file() -> None:
    """setuptools finds the rest by itself: the packages, and what it reads."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a clone, or no git")
    tracked = run(git, "ls-files", cwd=ROOT).stdout.split("\n")
    listed = re.findall(r"^(?:graft|include) (.*)$", (ROOT / "MANIFEST.in").read_text(), re.M)
    known = {name for line in listed for name in line.split()} | {"", "ccdn", "ccdn_ops"}
    known |= {"MANIFEST.in", "pyproject.toml", "setup.py", ".gitignore"}
    assert {path.split("/")[0] for path in tracked} <= known


@pytest.mark.slow
def test_the_wheel_holds_the_packages_alone(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    assert any(name.startswith("ccdn_ops/_C.") and name.endswith(".so") for name in names)
    expected = [
        path.relative_to(ROOT).as_posix()
        for package in ("ccdn", "ccdn_ops")
        for path in (ROOT / package).rglob("*")
        if path.suffix not in (".so", ".pyc") and path.is_file()
    ]
    assert {"ccdn/py.typed", "ccdn_ops/py.typed", "ccdn/config/grids/table7.yaml"} <= {*expected}
    assert {"ccdn/evaluation/published.yaml", "ccdn/report/page/page.js"} <= {*expected}
    assert set(expected) <= names
    others = {name.split("/")[0] for name in names} - {"ccdn", "ccdn_ops"}
    assert others == {f"ccdn-{ccdn_ops.__version__}.dist-info"}


@pytest.mark.slow
def test_the_wheel_needs_libraries_of_the_system_alone(built: Built) -> None:
    """Of Linux itself, as manylinux lists them: no torch, no CUDA, no Python."""
    if sys.platform != "linux":
        pytest.skip("auditwheel knows Linux's libraries")
    done = run(sys.executable, "-m", "auditwheel", "show", "--json", str(built.wheel))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["external_libs"], found
    assert found["overall_tag"].startswith("manylinux"), found


@pytest.mark.slow
def test_an_installed_wheel_works_without_a_compiler(built: Built, tmp_path: Path) -> None:
    """A part of every kind of test, in an environment that has the wheel, far from the sources."""
    done = run(sys.executable, "-m", "venv", str(tmp_path / "fresh"))
    assert done.returncode == 0, done.stderr
    python = str(tmp_path / "fresh/bin/python")
    pip = (python, "-m", "pip", "install", "--no-index", "--no-deps", "-q", str(built.wheel))
    done = run(*pip)
    assert done.returncode == 0, done.stderr
    # The dependencies are those of this environment, behind what was installed.
    site = only(tmp_path / "fresh/lib", "python*") / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    far, bare = tmp_path / "far away", tmp_path / "no programs"
    bare.mkdir()
    far_from_all = {"PATH": str(bare), "PYTHONPATH": ""}
    shutil.copytree(built.tree / "tests", far / "tests")
    shutil.copy(built.tree / "pyproject.toml", far)
    places = "import ccdn, ccdn_ops; print(ccdn.__file__, ccdn_ops.__file__)"
    done = run(python, "-c", places, cwd=far, **far_from_all)
    assert done.stdout.split() == [str(site / f"{name}/__init__.py") for name in PACKAGES]
    done = run(python, "-m", "ccdn_ops", cwd=far, **far_from_all)
    assert "on cpu: cpu" in done.stdout, done.stdout + done.stderr
    assert "built without CUDA kernels" in done.stdout
    tests = (python, "-m", "pytest", "-q", "-x", "-m", "not slow and not gpu", *REPRESENTATIVE)
    done = run(*tests, cwd=far, OMP_NUM_THREADS="1", **far_from_all)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d\d+ passed", done.stdout, re.M), done.stdout


PACKAGES = ("ccdn", "ccdn_ops")
REPRESENTATIVE = ("tests/ops/test_dual_squeeze.py", "tests/ops/test_registry.py")
REPRESENTATIVE += ("tests/ops/test_nn.py", "tests/ops/test_explain.py")
REPRESENTATIVE += (
    "tests/ccdn/cli/test_train.py",
    "tests/ccdn/config/test_config.py",
    "tests/ccdn/cli/test_predict.py",
)
REPRESENTATIVE += ("tests/ccdn/report/test_report.py", "tests/ccdn/cli/test_ablate.py")


@pytest.mark.slow
def test_the_sources_find_what_was_installed(built: Built) -> None:
    """Started in the clone, the sources come first on the path."""
    done = run_installed(built.unpacked, "-m", "ccdn_ops", cwd=built.tree)
    assert f"native module: {built.unpacked}" in done.stdout, done.stdout + done.stderr
    assert "on cpu: cpu" in done.stdout


@pytest.mark.slow
def test_without_a_compiler(tmp_path: Path) -> None:
    tree = source_tree(tmp_path / "tree")
    (tmp_path / "bin").mkdir()
    done = wheel(tree, tmp_path, PATH=str(tmp_path / "bin"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pure Python: no C++ compiler was found" in done.stdout + done.stderr
    built = only(tmp_path, "*-py3-none-any.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path / "installed")
    done = run_installed(tmp_path / "installed", "-m", "ccdn_ops")
    assert "native module: none. ccdn_ops._C is not built" in done.stdout, done.stderr
    assert "Install g++ or clang++ and run `pip install .` again" in done.stdout
    code = (
        "import torch, ccdn_ops\n"
        "x = torch.randn(2, 3, 4, requires_grad=True)\n"
        "ccdn_ops.dual_squeeze(x)[1].sum().backward()\n"
        "with ccdn_ops.use_backend('cpu'): ccdn_ops.dual_squeeze(x)\n"
    )
    done = run_installed(tmp_path / "installed", "-c", code)
    assert done.returncode == 1
    assert "asked to use the backend 'cpu'" in done.stderr
    assert "ccdn_ops._C is not built" in done.stderr


@pytest.mark.slow
def test_a_compiler_that_fails_fails_the_build(tmp_path: Path) -> None:
    tree = source_tree(tmp_path / "tree")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho this compiler is broken >&2\nexit 3\n")
    broken.chmod(0o755)
    done = wheel(tree, tmp_path, CXX=str(broken), CCDN_CUDA="off")
    assert done.returncode != 0
    assert "this compiler is broken" in done.stdout + done.stderr
    assert "building ccdn_ops._C failed" in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.whl"))


@pytest.mark.slow
def test_native_off(tmp_path: Path) -> None:
    tree = source_tree(tmp_path / "tree")
    gone = tree / "build" / "lib" / "ccdn_ops" / "gone.py"  # of a build before
    gone.parent.mkdir(parents=True)
    gone.touch()
    done = wheel(tree, tmp_path, CCDN_NATIVE="off")
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(only(tmp_path, "*-py3-none-any.whl")) as archive:
        assert "ccdn_ops/__init__.py" in archive.namelist()
        assert "ccdn_ops/gone.py" not in archive.namelist()
