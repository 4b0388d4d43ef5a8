"""How setup.py handles compilers, toolkits and variables; nothing is compiled."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from setuptools import Distribution

from ccdn_ops.names import direct_module

ROOT = Path(__file__).resolve().parents[1]
BUILD_VARIABLES = ("CXX", "NVCC", "CUDA_HOME", "CUDA_PATH", "CCDN_CUDA", "CCDN_CUDA_ARCHS")


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
    """A wrapper named nvcc for a toolkit elsewhere, as found on real machines."""
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
    text = setup_py.ninja_file(["c++"], None, ["csrc/cpu/ops/some_kernels.cpp"], tmp_path / "_C.so")
    levels = {"4", "3", "0"} if setup_py.targets_x86_64(["c++"]) else {"0"}
    assert set(re.findall(r"extra = -DCCDN_ISA_LEVEL=(\d)", text)) == levels


def test_a_killed_build_leaves_the_earlier_module(setup_py: ModuleType, tmp_path: Path) -> None:
    cxx, output = tmp_path / "c++", tmp_path / "a b" / "_C.so"
    cxx.write_text(
        "#!/bin/sh\n"
        'for word; do test "$before" = -o && out=$word; before=$word; done\n'
        'case "$out" in "");;\n'  # asked for its target, in this process's folder
        '*.o) echo "$out:" > "$out.d"; touch "$out";;\n'
        '*) printf half > "$out"; test -e killed || { touch killed; kill -9 $$; };; esac\n'
    )
    cxx.chmod(0o755)
    output.parent.mkdir()
    output.write_text("whole")
    text = setup_py.ninja_file([str(cxx)], None, ["setup.py"], output)
    (tmp_path / "build.ninja").write_text(text)
    command = [setup_py.find_ninja(), "-C", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode
    assert output.read_text() == "whole"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert output.read_text() == "half"
    assert [path.name for path in output.parent.iterdir()] == ["_C.so"]


def test_a_build_has_no_module_of_an_earlier_one(
    setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("ccdn/kept.py", "lib/ccdn/gone.py", "lib/others/kept.py"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    monkeypatch.chdir(tmp_path)
    build = setup_py.FreshPackages(Distribution({"packages": ["ccdn"], "script_name": "setup.py"}))
    build.build_lib = "lib"
    build.ensure_finalized()
    build.run()
    found = {str(path.relative_to("lib")) for path in Path("lib").rglob("*.py")}
    assert found == {"ccdn/kept.py", "others/kept.py"}


def test_an_editable_installation_reuses_earlier_objects(
    setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)

    def folder(build_temp: Path | None, editable: bool) -> Path:
        build = setup_py.NinjaBuild(Distribution())
        build.build_temp, build.editable_mode = build_temp and str(build_temp), editable
        build.ensure_finalized()
        return build.folder()

    kept = folder(None, editable=False)  # of `build_ext --inplace`
    assert kept.is_relative_to(ROOT / "build")
    assert folder(tmp_path, editable=True) == kept  # setuptools gives it an empty folder
    assert folder(tmp_path, editable=False) == tmp_path


def test_the_module_of_direct_calls_is_asked_for(
    setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("CCDN_NATIVE", raising=False)
    direct = f"ccdn_ops.{direct_module(torch.__version__)}"
    for value, expected in {
        "": ["ccdn_ops._C"],
        "off": ["ccdn_ops._C"],
        "on": ["ccdn_ops._C", direct],
        "only": [direct],
    }.items():
        monkeypatch.setenv("CCDN_TORCH", value)
        if not value:
            monkeypatch.delenv("CCDN_TORCH")
        assert [extension.name for extension in setup_py.native_modules()] == expected
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="this Python has no torch, as in every isolated build"):
        setup_py.native_modules()
    monkeypatch.setenv("CCDN_TORCH", "yes")
    with pytest.raises(SystemExit, match="CCDN_TORCH is 'yes'; expected one of off, on, only"):
        setup_py.native_modules()


def test_wrong_compiler_name(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit, match="CXX is 'no-such-compiler', which is not an executable"):
        setup_py.find_cxx()
