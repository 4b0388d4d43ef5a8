"""The CUDA files compile for every architecture, without spills, into the kernels listed here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from cubin import demangled

from ccdn_ops.backends import native
from ccdn_ops.backends.native import why_no_cuda_kernels

ROOT = Path(__file__).parents[2]
ARCHS = ("80", "90", "100", "120")
FEATURES = ("float", "double", "bf16", "half")
ACCUMULATORS = ("float", "double")
# `make test` has built the module from these files and looks at what is in it. Compiling them again
# takes minutes and adds the compiler's warnings: slow tests.

# (elements a pack, channels_last) for each element type: packs of 16 bytes, and single elements.
MAPS = tuple(
    f"{element} {pack} {channels_last}"
    for element, most in zip(FEATURES, (4, 2, 8, 8), strict=True)
    for pack in (1, most)
    for channels_last in (0, 1)
)

# How the operands of a product are multiplied (csrc/cuda/product.cuh): double in double, float32 in
# three terms of TF32, float16 in one, bfloat16 as it is; 16-bit types where float32 is needed too.
OWN_PRODUCTS = ("float 3", "double 0", "bf16 16", "half 1")
EXACT_PRODUCTS = ("float 3", "double 0", "bf16 3", "half 3")
# From or to matrices of the accumulation type: whether that is double.
MATRICES = ("float 0", "double 1", "bf16 0", "half 0")

# And of both matrix roots, where float32 may be computed in double too.
ROOT_PRODUCTS = (*EXACT_PRODUCTS, "float 0")
ROOT_MATRICES = (*MATRICES, "float 1")
MATRIX_ROOT = {
    "symmetrise": ROOT_MATRICES,
    "write_rows": ROOT_MATRICES,
    "scale_and_shift": ACCUMULATORS,
    "inner_product": ACCUMULATORS,
    "sample_factors": ACCUMULATORS,
    "symmetric_product": ("0", "3"),
    "symmetric_chain": ("0", "3"),
}

# csrc/cuda/cluster_recurrence.cuh: the accumulation type, the type of the entries, the largest
# matrix, blocks of a cluster, threads, and entries of a lane.
WIDE_FORMS = ("double 64 1 256 4", "double 128 2 256 8", "double 256 8 256 8")
FORMS = (
    *(f"{acc} {form}" for acc in ACCUMULATORS for form in WIDE_FORMS),
    *(f"float float {form}" for form in ("128 1 256 16", "256 4 256 16", "512 8 512 16")),
)

# Every kernel of csrc/cuda and its instances: the element type and the numbers of its template.
EXPECTED = {
    "dual_squeeze": {
        "channel_means": FEATURES,
        "gram_matrix": FEATURES,
        "weighted_sums": FEATURES,
        "add_gram_parts": ACCUMULATORS,
        "cluster_squeeze": FORMS,
        "cluster_gradient": FORMS,
        "chebyshev_squeeze": ACCUMULATORS,
        "squeeze_positions": FEATURES,
        "chebyshev_gradient": ACCUMULATORS,
        "store_numbers": ("",),
        "pair_matrix": ACCUMULATORS,
        "pair_projection": FEATURES,
        "expand_dense": FEATURES,
        "expand_low_rank": FEATURES,
    },
    "cocs_loss": {
        "unit_sums": FEATURES,
        "level_losses": tuple(f"{element} {backward}" for element in FEATURES for backward in "01"),
        "unit_gradients": FEATURES,
    },
    "covariance_pool": {
        "channel_means": FEATURES,
        "covariance_traces": FEATURES,
        "sample_factors": ACCUMULATORS,
        "gram": tuple(f"{product} 0" for product in OWN_PRODUCTS),
        # Of channels by positions, of positions by channels.
        "covariance_tiles": ("0", "1"),
        "finish_covariances": ("",),
        "symmetrise": MATRICES,
        "multiply": tuple(f"{product} 0" for product in EXACT_PRODUCTS),
    },
    "ctm": {
        "pool_gates": FEATURES,
        "pool_gates_backward": FEATURES,
        "pool_mean_backward": FEATURES,
    },
    "excitation_gates": {
        "gates_reduce": ACCUMULATORS,
        "gates_expand": ACCUMULATORS,
        "gates_expand_backward": ACCUMULATORS,
        "gates_reduce_backward": ACCUMULATORS,
    },
    "isqrt_cov": {
        "channel_means": FEATURES,
        "covariance_traces": FEATURES,
        "gram": tuple(f"{product} {expanded}" for product in ROOT_PRODUCTS for expanded in "01"),
        "multiply": tuple(f"{product} {form}" for product in ROOT_PRODUCTS for form in "012"),
        **MATRIX_ROOT,
    },
    "newton_schulz_roots": {
        "matrix_traces": FEATURES,
        "matrix_norms": FEATURES,
        "scale_and_add": ACCUMULATORS,
        **MATRIX_ROOT,
    },
    "newton_schulz_sqrt": {"matrix_traces": FEATURES, **MATRIX_ROOT},
    "multi_excite": {
        "excite": MAPS,
        "excite_backward": MAPS,
        "add_chunks": ACCUMULATORS,
    },
    "probe": {"probe": ("",)},
}


class Usage(NamedTuple):
    kernel: str
    instance: str
    arch: str
    stack: int
    spills: int
    registers: int
    shared: int


def named(symbol: str) -> tuple[str, str]:
    """ccdn::cuda::NAME<TYPE, NUMBERS...> as ("NAME", "TYPE NUMBERS...")."""
    assert symbol.startswith("_ZN4ccdn4cuda"), f"{symbol} is not in ccdn::cuda"
    kernel, _, instance = demangled(symbol).partition(" ")
    return kernel, instance


def usage(report: str) -> list[Usage]:
    """What `ptxas -v` says of each kernel."""
    found = []
    for part in report.split("Compiling entry function '")[1:]:
        symbol, arch = re.match(r"(\w+)' for 'sm_(\w+)'", part).groups()  # type: ignore[union-attr]
        kernel, instance = named(symbol)
        stack, stores, loads = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        ).groups()  # type: ignore[union-attr]
        registers = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        assert registers is not None
        found.append(
            Usage(
                kernel,
                instance,
                arch,
                int(stack),
                int(stores) + int(loads),
                int(registers[1]),
                int(shared[1]) if shared else 0,
            )
        )
    return found


def compile_for(nvcc: str, source: Path, arch: str, folder: Path) -> list[Usage]:
    flags = ["-std=c++17", "-O3", "-lineinfo", "-cubin", "-Xptxas", "-v", f"-I{ROOT / 'csrc'}"]
    done = subprocess.run(
        [nvcc, *flags, f"-arch=sm_{arch}", str(source), "-o", str(folder / f"{arch}.cubin")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return usage(done.stderr)


def find_nvcc() -> str:
    """As setup.py finds it, so that a test never passes over what a build would use."""
    import importlib.util
    from unittest import mock

    spec = importlib.util.spec_from_file_location("ccdn_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch("setuptools.setup"):
        spec.loader.exec_module(module)
    found = module.find_nvcc()
    if found is None:
        pytest.skip("nvcc is not installed")
    return found


def test_every_file_is_listed() -> None:
    assert {path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu")} == set(EXPECTED)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("arch", ARCHS)
def test_compiles_without_spills(name: str, arch: str, tmp_path: Path) -> None:
    found = compile_for(find_nvcc(), ROOT / "csrc" / "cuda" / f"{name}.cu", arch, tmp_path)
    expected = {
        (kernel, instance) for kernel, instances in EXPECTED[name].items() for instance in instances
    }
    assert {(u.kernel, u.instance) for u in found} == expected
    spilled = [u for u in found if u.stack or u.spills]
    assert not spilled, "\n".join(map(str, spilled))
    # What a block gets without asking for more.
    assert max(u.shared for u in found) <= 48 << 10


def stacks(report: str) -> dict[tuple[str, str, str], int]:
    """Bytes of stack, spills among them, by (architecture, kernel, instance)."""
    found = {}
    for part in report.split("arch = sm_")[1:]:
        arch = part.split(maxsplit=1)[0]
        for symbol, stack in re.findall(r"Function (\w+):\s+REG:\d+ STACK:(\d+)", part):
            found[(arch, *named(symbol))] = int(stack)
    return found


def test_the_built_module_has_every_instance_without_stack() -> None:
    """All architectures of this build, from what is in it."""
    if why_no_cuda_kernels() is not None:
        pytest.skip(str(why_no_cuda_kernels()))
    triton = pytest.importorskip("triton", reason="cuobjdump comes with triton")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip(f"{tool} is not there")
    module = native.require()
    command = [tool, "-res-usage", module.__file__]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = stacks(report)
    expected = {
        (arch, kernel, instance)
        for arch in module.cuda_archs
        for kernels in EXPECTED.values()
        for kernel, instances in kernels.items()
        for instance in instances
    }
    assert set(found) == expected
    assert not {key: stack for key, stack in found.items() if stack}
    # What a block gets without asking for more.
    assert max(int(size) for size in re.findall(r" SHARED:(\d+)", report)) <= 48 << 10


def test_the_stacks_are_read_right() -> None:
    report = (
        "Fatbin elf code:\n================\narch = sm_90\ncode version = [1,8]\n"
        " Function _ZN4ccdn4cuda6exciteIdLi2ELb1EEEvNS0_:\n"
        "  REG:32 STACK:16 SHARED:0 LOCAL:0 CONSTANT[0]:432\n"
    )
    assert stacks(report) == {("90", "excite", "double 2 1"): 16}


def test_the_report_is_read_right() -> None:
    report = (
        "ptxas info    : Compiling entry function "
        "'_ZN4ccdn4cuda13channel_meansI6__halfEEvNS0_13MeanArgumentsIT_EE' for 'sm_90'\n"
        "ptxas info    : Function properties for _ZN4ccdn\n"
        "    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 48 registers, used 1 barriers, 5120 bytes smem\n"
    )
    assert usage(report) == [Usage("channel_means", "half", "90", 8, 16, 48, 5120)]


@pytest.mark.gpu
@pytest.mark.skipif(why_no_cuda_kernels() is not None, reason=str(why_no_cuda_kernels()))
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize(("channels", "positions"), [(65, 49), (129, 81), (65, 1000)])
def test_on_the_device(channels: int, positions: int, dtype: str) -> None:
    import torch
    from harness import check_exact

    import ccdn_ops

    with ccdn_ops.use_backend("cuda"):
        kind = "dominant" if dtype != "float64" else "noise"
        check_exact(kind, channels, positions, dtype=getattr(torch, dtype), device="cuda")
