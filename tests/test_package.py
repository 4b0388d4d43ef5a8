"""What an installation consists of: imports, version, the native module, sdist and wheels."""

from __future__ import annotations

import importlib.util
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
from types import ModuleType

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
        timeout=560,
    )


BUILD_VARIABLES = {"CXX", "NVCC", "CUDA_HOME", "CUDA_PATH", "CCDN_NATIVE", "CCDN_CUDA"}
BUILD_VARIABLES |= {"CCDN_CUDA_ARCHS", "CCDN_OPS_BACKEND", "PIP_CONSTRAINT"}


def test_import_brings_nothing_heavy() -> None:
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import ccdn_ops\n"
        "heavy = {'triton', 'cv2', 'matplotlib', 'scipy', 'omegaconf', 'yaml', 'tqdm', 'ccdn'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))\n"
        "x = torch.ones(2, 3, 4, requires_grad=True)\n"
        "ccdn_ops.dual_squeeze(x)[1].sum().backward()\n"
        "print(sorted({'triton', 'cv2', 'matplotlib', 'scipy'} & set(sys.modules)))\n"
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


# The build ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setup_py() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ccdn_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wrapper named nvcc that speaks for a toolkit elsewhere, as it is met on real machines."""
    root = tmp_path / "tool kit"
    (root / "lib64").mkdir(parents=True)
    (root / "lib64" / "libcudart_static.a").touch()
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(
        "#!/bin/sh\n"
        f'case "$1" in --dryrun) echo "#$ TOP={root}" >&2;;\n'
        "*) printf 'compute_80\\ncompute_90\\ncompute_100\\n';; esac\n"
    )
    nvcc.chmod(0o755)
    for name in BUILD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NVCC", str(nvcc))
    return root


def test_cuda_is_found_through_a_wrapper(
    setup_py: ModuleType, toolkit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cuda = setup_py.find_cuda(["csrc/cuda/some.cu"])
    assert cuda.library_dirs == [str(toolkit / "lib64")]
    assert cuda.archs == ["80", "90", "100"]
    assert cuda.gencode[-1] == "-gencode=arch=compute_100,code=compute_100"
    assert "cannot build for 120; it knows 80, 90, 100" in capsys.readouterr().err


def test_cuda_choices(setup_py: ModuleType, toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = ["csrc/cuda/some.cu"]
    monkeypatch.setenv("CCDN_CUDA_ARCHS", "9.0")
    assert setup_py.find_cuda(sources).archs == ["90"]
    monkeypatch.setenv("CCDN_CUDA_ARCHS", "native")
    with pytest.raises(SystemExit, match="CCDN_CUDA_ARCHS is 'native'; expected something like"):
        setup_py.find_cuda(sources)
    monkeypatch.setenv("CCDN_CUDA_ARCHS", "70")
    assert setup_py.find_cuda(sources) is None
    monkeypatch.setenv("CCDN_CUDA", "on")
    with pytest.raises(SystemExit, match=r"CCDN_CUDA=on, but .* can build for none of 70"):
        setup_py.find_cuda(sources)
    monkeypatch.setenv("NVCC", "/nowhere/nvcc")
    with pytest.raises(SystemExit, match="NVCC is '/nowhere/nvcc', which is not an executable"):
        setup_py.find_cuda(sources)
    monkeypatch.setenv("CCDN_CUDA", "yes")
    with pytest.raises(SystemExit, match="CCDN_CUDA is 'yes'; expected one of auto, on, off"):
        setup_py.find_cuda(sources)


def test_jobs_are_capped(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAX_JOBS", raising=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert 1 <= setup_py.jobs() <= (cores or 1)
    monkeypatch.setattr(setup_py, "BYTES_PER_JOB", 1 << 60)
    if sys.platform == "linux":
        assert setup_py.jobs() == 1
    monkeypatch.setenv("MAX_JOBS", "7")
    assert setup_py.jobs() == 7
    monkeypatch.setenv("MAX_JOBS", "many")
    with pytest.raises(SystemExit, match="MAX_JOBS is 'many'; expected a number from 1 on"):
        setup_py.jobs()


def test_one_object_for_each_instruction_set(setup_py: ModuleType, tmp_path: Path) -> None:
    text = setup_py.ninja_file(["c++"], None, ["csrc/cpu/some_kernels.cpp"], tmp_path / "_C.so")
    levels = {"4", "3", "0"} if setup_py.targets_x86_64(["c++"]) else {"0"}
    assert set(re.findall(r"extra = -DCCDN_ISA_LEVEL=(\d)", text)) == levels


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
    assert f"_C.py has interface 0, expected {native.INTERFACE}" in done.stdout
    assert "torch.Size([1, 2])" in done.stdout


def test_wrong_compiler_name(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit, match="CXX is 'no-such-compiler', which is not an executable"):
        setup_py.find_cxx()


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


@pytest.mark.slow
def test_sdist_wheel_and_use(tmp_path: Path) -> None:
    tree = source_tree(tmp_path / "tree")
    done = run(
        sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", str(tmp_path), str(tree)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sdist = only(tmp_path, "*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    sources = {p.relative_to(tree).as_posix() for p in (tree / "csrc").rglob("*.*")}
    assert sources <= names
    assert {"tests/conftest.py", "constraints.txt", "ccdn/configs/tiny.yaml"} <= names

    # The CUDA kernels are compiled by their own test; here it is about what a wheel holds.
    done = wheel(sdist, tmp_path, CCDN_CUDA="off")
    assert done.returncode == 0, done.stdout + done.stderr
    built = only(tmp_path, "*.whl")
    with zipfile.ZipFile(built) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    assert any(name.startswith("ccdn_ops/_C.") for name in names)
    assert {"ccdn_ops/py.typed", "ccdn/configs/paper.yaml"} <= names
    page = {f"ccdn/evaluation/page/page.{suffix}" for suffix in ("html", "css", "js")}
    assert {"ccdn/evaluation/published.yaml", *page} <= names
    assert not any(name.startswith(("tests", "benchmarks", "csrc")) for name in names)
    done = run_installed(tmp_path / "installed", "-m", "ccdn_ops")
    assert "on cpu: cpu" in done.stdout, done.stdout + done.stderr
    assert "built without CUDA kernels" in done.stdout

    # Started in the clone, the sources come first on the path: they find what was installed.
    done = run_installed(tmp_path / "installed", "-m", "ccdn_ops", cwd=tree)
    assert f"native module: {tmp_path / 'installed'}" in done.stdout, done.stdout + done.stderr
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
    done = wheel(source_tree(tmp_path / "tree"), tmp_path, CCDN_NATIVE="off")
    assert done.returncode == 0, done.stdout + done.stderr
    assert only(tmp_path, "*-py3-none-any.whl")
