"""The static gate: the built CUDA kernels against their record, and that the gate sees faults."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cuda_emulation import Emulation
from test_cuda_build import find_nvcc

from ccdn_ops.backends import native

Load = Callable[[str], Any]
ARCHS = ["90", "80", *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("100", "120"))]
QUICK = " (float|bf16)|^[a-z_]+( \\d+)*$"  # what is compared where all would take long


@pytest.fixture
def record(load: Load) -> ModuleType:
    """static_record, where the disassembler is installed."""
    cubin = load("cubin")
    for name in ("cuobjdump", "nvdisasm"):
        try:
            cubin.tool(name)
        except cubin.NoDisassemblerError as reason:
            pytest.skip(str(reason))
    module: ModuleType = load("static_record")
    return module


@pytest.mark.parametrize("arch", ARCHS)
def test_no_kernel_falls_behind_its_record(record: ModuleType, arch: str) -> None:
    """`python benchmarks/gpu_static.py --update` records a change that is meant."""
    module = native.module()
    if module is None or not module.cuda_archs:
        pytest.skip("the native module was built without CUDA kernels")
    if arch not in module.cuda_archs:
        pytest.skip(f"this build has no kernels for sm_{arch}")
    recorded = record.Static.read()
    if arch not in recorded.kernels:
        pytest.skip(f"sm_{arch} is not on record")
    found = record.measure(Path(module.__file__), [arch], QUICK)
    assert len(found.kernels[arch]) > 50
    assert record.behind(recorded, found, QUICK) == []


def test_no_call_launches_more_than_on_record(
    emulation: Emulation, load: Load, record: ModuleType
) -> None:
    gpu_launches = load("gpu_launches")
    found = gpu_launches.launches(emulation, gpu_launches.calls())
    recorded = record.Static.read().launches
    as_recorded = {str(call): [list(one) for one in each] for call, each in found.items()}
    assert record.more_launches(recorded, as_recorded) == []
    assert as_recorded == recorded, "run python benchmarks/gpu_static.py --update"
    for call in found:
        assert gpu_launches.Call.of(str(call)) == call


# That it sees faults -----------------------------------------------------------------------------

# What a kernel should look like, and how it may fall behind.
SOURCE = """
namespace ccdn::cuda {
template <int kFault>
__global__ void __launch_bounds__(256) add(int n, int pick, const float4* x, float* out) {
  __shared__ float shared[kFault == 6 ? 11000 : 256];
  float many[kFault == 2 ? 64 : 1];
  float4 sum = {};
#pragma unroll 1
  for (int i = threadIdx.x; i < n; i += 1024) {
    float4 value[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (kFault == 1) {  // narrowed
        const auto one = reinterpret_cast<const volatile float*>(x + i + k * 256);
        value[k] = {one[0], one[1], one[2], one[3]};
      } else if (kFault == 3) {  // each load waits for the one before
        value[k] = x[i + k * 256 + (k > 0 ? __float_as_int(value[k - 1].x) & 1 : 0)];
      } else {
        value[k] = x[i + k * 256];
      }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      sum.x += value[k].x, sum.y += value[k].y, sum.z += value[k].z, sum.w += value[k].w;
    }
    if (kFault == 2) many[(i + pick) % 64] = sum.x;  // an array that cannot be in registers
    if (kFault == 4) __syncthreads();
    if (kFault == 5) __threadfence();
    if (kFault == 7) sum.x = __fsqrt_rn(sum.x) / (sum.y + 3.f);  // more instructions
    if (kFault == 8) sum.x = float(double(sum.x) * 1.0000001);
  }
  shared[threadIdx.x] = sum.x + sum.y + sum.z + sum.w + (kFault == 2 ? many[pick] : 0.f);
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x ^ pick];
}
template __global__ void add<0>(int, int, const float4*, float*);
template __global__ void add<1>(int, int, const float4*, float*);
template __global__ void add<2>(int, int, const float4*, float*);
template __global__ void add<3>(int, int, const float4*, float*);
template __global__ void add<4>(int, int, const float4*, float*);
template __global__ void add<5>(int, int, const float4*, float*);
template __global__ void add<6>(int, int, const float4*, float*);
template __global__ void add<7>(int, int, const float4*, float*);
template __global__ void add<8>(int, int, const float4*, float*);
}  // namespace ccdn::cuda
"""
FAULTS = {
    1: "the main loop loads 16x4, expected 4x16",
    2: "bytes of stack",
    3: "the main loop has 4 trips, expected 1",
    4: "the main loop has 1 barriers, expected 0",
    5: "fences, expected 0",
    6: "leave room for 5 blocks, expected 8",
    7: "instructions a turn, expected",
    8: "float64, expected 0",
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SOURCE as a cubin for sm_90."""
    folder = tmp_path_factory.mktemp("static")
    (folder / "add.cu").write_text(SOURCE)
    command = [
        find_nvcc(),
        "-std=c++17",
        "-O3",
        "-arch=sm_90",
        "-cubin",
        "add.cu",
        "-o",
        "add.cubin",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "add.cubin"


def test_it_sees_planted_faults(record: ModuleType, compiled: Path) -> None:
    """Narrowed loads, a spill, loads one after another, barriers, ... each makes it fail."""
    found = record.measure(compiled, ["90"])
    kernels = found.kernels["90"]
    assert set(kernels) == {f"add {fault}" for fault in range(9)}
    good = kernels["add 0"]
    assert (good.loop.loads, good.loop.trips, good.stack) == (((16, 4),), 1, 0)

    def of(name: str, compiler: str) -> Any:
        return record.Static({"90": compiler}, {"90": {"add": kernels[name]}})

    release = found.compiler["90"]
    recorded = of("add 0", release)
    assert record.behind(recorded, of("add 0", release)) == []
    for fault, said in FAULTS.items():
        sentences = record.behind(recorded, of(f"add {fault}", release))
        assert any(said in sentence for sentence in sentences), (fault, sentences)
        assert all(sentence.startswith("sm_90 add: ") for sentence in sentences)
        # In the opposite direction the kernel has become better, or stayed as good.
        better = record.behind(of(f"add {fault}", release), recorded)
        assert not any(said.partition(",")[0] in sentence for sentence in better)
    # Another compiler may need a few instructions more, and may not spill.
    few = replace(good.loop, instructions=good.loop.instructions + 2)
    slightly = replace(good, loop=few, narrow=few)
    other = record.Static({"90": "99.0"}, {"90": {"add": slightly}})
    assert record.behind(recorded, other) == []
    assert record.behind(recorded, replace(other, compiler={"90": release})) != []
    assert record.behind(recorded, of("add 2", "99.0")) != []


def test_what_is_new_and_what_is_gone(record: ModuleType) -> None:
    recorded = record.Static.read()
    name = "gram float 3 0"
    part = {"90": {name: recorded.kernels["90"][name]}}
    found = record.Static({"90": recorded.compiler["90"]}, part)
    [gone] = record.behind(recorded, found, "^(gram float 3 0|probe)$")
    assert gone == "sm_90 probe: on record, and no longer there"
    found.kernels["90"] = {"other": part["90"][name]}
    assert "sm_90 other: not on record" in record.behind(recorded, found, "other")
    found.kernels = {"77": {}}
    assert record.behind(recorded, found) == ["sm_77 is not on record"]
    launches = {"a": [["k", 1, 1, 1, 0]]}
    assert record.more_launches(launches, {"a": [], "b": []}) == ["b: not on record"]
    more = record.more_launches(launches, {"a": launches["a"] * 2})
    assert more == ["a: 2 launches, expected 1 (k k)"]


def test_the_record_is_read_as_it_was_written(record: ModuleType, tmp_path: Path) -> None:
    recorded = record.Static.read()
    assert recorded.text() == record.RECORD.read_text(encoding="utf-8")
    path = tmp_path / "again.json"
    path.write_text(recorded.text(), encoding="utf-8")
    assert record.Static.read(path) == recorded
    assert json.loads(recorded.text())["columns"][0] == "registers"
    path.write_text(recorded.text().replace('"threads"', '"others"', 1), encoding="utf-8")
    with pytest.raises(ValueError, match="has other columns"):
        record.Static.read(path)


@pytest.mark.parametrize(
    ("arch", "registers", "threads", "shared", "blocks"),
    [
        # From NVIDIA's occupancy calculator.
        ("90", 32, 256, 0, 8),
        ("90", 255, 128, 37888, 2),
        ("90", 40, 256, 4096, 6),
        ("90", 128, 1024, 0, 0),
        ("90", 32, 128, 100 << 10, 2),
        ("80", 64, 256, 0, 4),
        ("120", 32, 256, 0, 6),
    ],
)
def test_the_blocks_of_a_multiprocessor(
    record: ModuleType, arch: str, registers: int, threads: int, shared: int, blocks: int
) -> None:
    assert record.MULTIPROCESSORS[arch].resident(registers, threads, shared) == blocks


# The command -------------------------------------------------------------------------------------


def test_the_command(
    record: ModuleType,
    load: Load,
    compiled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = load("gpu_static")
    path = tmp_path / "record.json"
    for module in (command, record):
        monkeypatch.setattr(module, "RECORD", path)
    monkeypatch.setattr(record.Static.read.__func__, "__defaults__", (path,))
    options = ["--module", str(compiled), "--arch", "90"]
    assert command.main([*options, "--check", "--no-launches"]) == 1
    assert "sm_90 is not on record" in capsys.readouterr().out
    assert command.main([*options, "--update", "--no-launches"]) == 0
    assert command.main([*options, "--check", "--no-launches"]) == 0
    assert "no kernel fell behind" in capsys.readouterr().out
    data = json.loads(path.read_text())
    data["kernels"]["90"]["add 1"] = data["kernels"]["90"]["add 0"]
    path.write_text(json.dumps(data))
    assert command.main([*options, "--check", "--no-launches"]) == 1
    assert "sm_90 add 1: the main loop loads 16x4, expected 4x16" in capsys.readouterr().out
    assert command.main([*options, "--kernel", "add [02]"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sm_90, nvcc ")
    assert lines[1].split()[:5] == ["kernel", "regs", "threads", "shared", "blocks"]
    assert " none " in lines[2]
    assert " B, " in lines[3]
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "benchmarks/gpu_static.py --update" in capsys.readouterr().out


def test_the_command_lists_launches(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("gpu_static").main(["--launches", "^cocs_loss 64x4x256 .*forward"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cocs_loss 64x4x256 float32 forward: ")
    assert any("unit_sums float: " in line for line in lines[1:])


def test_without_kernels_the_command_says_so(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "module", lambda: None)
    monkeypatch.setattr(native, "why_missing", lambda: "there is no native module")
    assert load("gpu_static").main(["--check"]) == 4
    assert "there is no native module" in capsys.readouterr().err
