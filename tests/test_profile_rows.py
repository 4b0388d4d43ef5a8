"""benchmarks/profile_rows.py: what holds a row is said in parts, and no time is without one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ccdn_ops
from ccdn_ops.backends import native

ROOT = Path(__file__).resolve().parents[1]
Load = Callable[[str], ModuleType]
MODULE = "/site-packages/ccdn_ops/_C.cpython-311-x86_64-linux-gnu.so"


def test_every_function_of_the_module_is_in_a_part(load: Load) -> None:
    """Of the module that is built here, for all of its instruction sets."""
    module = native.module()
    if module is None or shutil.which("nm") is None:
        pytest.skip("needs the native module and nm")
    parts = load("parts")
    found = subprocess.run(
        ["nm", "--demangle", "--defined-only", module.__file__],
        capture_output=True,
        text=True,
        check=True,
    )
    symbols = [
        symbol
        for _, kind, symbol in (line.split(" ", 2) for line in found.stdout.splitlines())
        if kind in "tTwW" and parts.name_of(symbol).startswith("ccdn::")
    ]
    if any("ccdn::cuda::" in symbol for symbol in symbols):
        # What surrounds the CUDA kernels never runs in a profile, and looks like ours.
        symbols = [symbol for symbol in symbols if "ccdn::isa_" in parts.name_of(symbol)]
    symbols = [symbol for symbol in symbols if not symbol.endswith("_cuda")]
    if not symbols:
        pytest.skip("the native module was stripped")
    for symbol in symbols:
        assert parts.part_of(symbol, MODULE) in (*parts.PARTS, parts.CALLS)


def test_every_function_of_the_sources_is_in_a_part(load: Load) -> None:
    """Those that a compiler may leave as they are, CCDN_TARGET: others inline other ones."""
    parts = load("parts")
    declared = re.compile(r"CCDN_TARGET [\w:<>,\s*&]*?\b(\w+)\(")
    named = {name.partition("<")[0] for names in parts.PARTS.values() for name in names.split()}
    found: dict[str, str] = {}
    for path in sorted((ROOT / "csrc" / "cpu").rglob("*")):
        if path.suffix in (".h", ".cpp"):
            names = declared.findall(path.read_text(encoding="utf-8"))
            found.update(dict.fromkeys(names, path.name))
    assert len(found) > 60
    missing = {name: file for name, file in found.items() if name not in named}
    missing.pop("__attribute__", None)  # of a function within another
    assert not missing, "add them to benchmarks/parts.py"


def test_a_function_without_a_part_is_an_error(load: Load) -> None:
    parts = load("parts")
    for symbol in ("void ccdn::isa_base::something_new<float>(long)", "[unknown]"):
        with pytest.raises(parts.UnknownFunctionError, match=r"something_new|stripped"):
            parts.part_of(symbol, MODULE)


@pytest.mark.parametrize(
    ("symbol", "name", "part"),
    [
        ("ccdn::isa_base::block_product<float>", "block_product", "matrix products"),
        (
            "ccdn::isa_base::Panels<float const> ccdn::isa_base::pack<float>(ccdn::Team&, bool)",
            "pack",
            "reading and centring",
        ),
        (
            "void ccdn::isa_x86_64_v3::(anonymous namespace)::root_block<double>(long, int) "
            "[clone .isra.0]",
            "root_block",
            "matrix products",
        ),
        (
            "auto ccdn::isa_base::backward_positions<ccdn::Half, float, 2>(long)::{lambda(auto:1)"
            "#1}::operator()<int>(int) const [clone .constprop.0]",
            "backward_positions",
            "excited maps' gradient",
        ),
        ("ccdn::isa_base::backward<ccdn::Half, float>", "backward", "excited maps' gradient"),
        ("ccdn::isa_base::backward<float>", "backward", "vectors and scalings"),
        (
            "ccdn::Status ccdn::(anonymous namespace)::backward<float>",
            "backward",
            "between ctm's parts",
        ),
    ],
)
def test_functions_are_known_with_and_without_arguments(
    load: Load, symbol: str, name: str, part: str
) -> None:
    parts = load("parts")
    assert parts.name_of(symbol).rpartition("::")[2] == name
    assert parts.part_of(symbol, MODULE) == part


def test_what_is_not_ours(load: Load) -> None:
    parts = load("parts")
    assert parts.part_of("clear_page_erms", "[kernel.kallsyms]") == parts.SYSTEM
    assert parts.part_of("[unknown]", "/torch/lib/libgomp-98df74fd.so.1.0.0") == parts.WAITING
    assert parts.part_of("at::native::add", "/torch/lib/libtorch_cpu.so") == parts.CALLS
    assert parts.part_of("pybind11::call<int, ccdn::Status>(ccdn::Status)", MODULE) == parts.CALLS
    assert parts.part_of("ccdn::for_samples", MODULE) == parts.CALLS
    each = "ccdn::Team::each<ccdn::isa_base::PackWork<float> >(long)::{lambda(long)#1}::_FUN(long)"
    assert parts.part_of(each, MODULE) == parts.CALLS
    assert parts.part_of("ccdn::ctm_forward_cpu", MODULE) == parts.BETWEEN


def test_numbers_of_panels_by_hand(load: Load) -> None:
    """64 columns are 2 panels of 32; the lower left quarter of a block on the diagonal is left out.

    49 are one panel and 17 columns, for which the second panel is whole, with 24 rows.
    """
    panels = load("panels")
    block, diagonal = 32 * 32, 32 * 32 - 16 * 16
    assert panels.symmetric(64) == (2 * diagonal + block, 64 * 65 // 2)
    assert panels.symmetric(49) == (diagonal + block + 16 * 32 + 8 * 16, 49 * 50 // 2)
    assert panels.rectangle(49, 40) == (56 * (32 + 16), 49 * 40)
    squeeze = panels.rounding("dual_squeeze", {"B": 32, "D": 512, "N": 49})
    assert squeeze == {"matrix products": 2432 / 1225, "gradient": 64 / 49}
    assert panels.rounding("ctm", {"B": 16, "D": 512, "H": 7, "W": 7, "P": 4}) == squeeze
    assert panels.rounding("multi_excite", {"B": 16, "D": 512, "memory": "NCHW"}) == {}


def test_the_rounding_counts_what_explain_counts(load: Load) -> None:
    """What panels.py calls needed are the products in the operations of ccdn_ops.explain."""
    if native.module() is None:
        pytest.skip(native.why_missing())
    panels = load("panels")
    for channels, positions in ((256, 49), (512, 64), (64, 256), (128, 1024)):
        needed = sum(depth * few for depth, (_, few) in panels.isqrt_cov(channels, positions))
        counted = sum(ccdn_ops.explain("isqrt_cov", 1, channels, positions).operations)
        assert counted == pytest.approx(2 * needed, rel=0.02)


def test_samples_belong_to_rows_by_their_times(load: Load) -> None:
    profile, parts = load("profile_rows"), load("parts")
    times = [
        ("ctm", 3, 1_000_000_000, 1_400_000_000, 0.1),
        ("ctm", 5, 1_500_000_000, 2_000_000_000, 0.1),
    ]
    lines = [
        "     0.999999999:     7f2ab11cb62a main (/usr/bin/python3.11)",
        f"     1.000000000:     7f2ab11cb62a ccdn::isa_base::block_product<float> ({MODULE})",
        "     1.450000000:     7f2ab11cb62a between (/usr/bin/python3.11)",
        "     1.999999999: ffffffff82 exc_page_fault ([kernel.kallsyms])",
        "     2.000000000:     7f2ab11cb62a at::(anonymous namespace)::f (/torch/libtorch_cpu.so)",
        "     2.000000001:     7f2ab11cb62a after (/usr/bin/python3.11)",
    ]
    found = profile.split(lines, times)
    assert found["ctm", 3] == {"matrix products": 1}
    assert found["ctm", 5] == {parts.SYSTEM: 1, parts.CALLS: 1}
    with pytest.raises(ValueError, match="perf script printed 'nonsense'"):
        profile.split(["nonsense"], times)


def test_shares_and_what_they_are_called(load: Load) -> None:
    """Half of the products are rounding; the parts add up to the whole."""
    profile, parts = load("profile_rows"), load("parts")
    samples = Counter({"matrix products": 400, "sums": 100, parts.CALLS: 500})
    found = profile.shares(samples, {"matrix products": 2.0, "gradient": 1.5})
    expected = {"matrix products": 0.2, "sums": 0.1, parts.CALLS: 0.5, parts.PADDING: 0.2}
    assert found == pytest.approx(expected)
    assert profile.held_by(found) == parts.CALLS
    many = {"writing": 0.2, "sums": 0.3, "gradient": 0.25, parts.CALLS: 0.25}
    assert profile.held_by(many) == "sums, gradient"


def test_the_file(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    profile, parts, tables = load("profile_rows"), load("parts"), load("tables")
    monkeypatch.setattr(tables, "conditions", lambda: {"commit": "abc"})
    size = {"B": 8, "D": 64, "N": 49}
    row = profile.Slow("dual_squeeze", 1, size, 2e-4, 0.25, "arithmetic")
    samples = {("dual_squeeze", 1): Counter({"gradient": 600, parts.CALLS: 400})}
    counts = Counter({"dual_squeeze": 7, "ctm": 4})
    repeated, calls = {("dual_squeeze", 1): 3e-4}, {"dual_squeeze": 5e-5}
    text = profile.summary([row], counts, samples, repeated, calls, ["a doubt"])
    assert "- commit: abc" in text
    assert "- **warning**: a doubt" in text
    assert "Below half of their roofline: 1 of 7 rows." in text
    assert "Below half of their roofline: 0 of 4 rows." in text
    titles, _, line = [line for line in text.splitlines() if line.startswith("| ")]
    cells = dict(zip(titles.split(" | "), line.split(" | "), strict=True))
    assert cells["of roofline"] == "25 % (arithmetic)"
    assert cells["ms under perf"] == "0.300"
    assert cells["gradient"] == "46"  # of 64 columns 49 are needed
    assert cells[parts.PADDING] == "14"
    assert cells["one call"] == "25"
    assert "sums" not in cells


def test_a_machine_without_perf(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = load("profile_rows")
    monkeypatch.setattr(profile.shutil, "which", lambda _: None)
    with pytest.raises(SystemExit, match="perf was not found"):
        profile.perf("record")


def test_perf_that_fails(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "perf").write_text("#!/bin/sh\necho 'no permission' >&2\nexit 1\n")
    (tmp_path / "perf").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(SystemExit, match="perf record failed:\nno permission"):
        load("profile_rows").perf("record")


def test_a_system_that_perf_does_not_see(load: Load) -> None:
    profile, parts = load("profile_rows"), load("parts")
    seen = {("ctm", 0): Counter({parts.SYSTEM: 1})}
    assert profile.doubts_of(seen, 0.0) == []
    (line,) = profile.doubts_of({("ctm", 0): Counter({parts.CALLS: 1})}, 0.0)
    assert "perf_event_paranoid" in line


@pytest.mark.parametrize("name", ["dual_squeeze", "cocs_loss", "excitation_gates"])
def test_a_grid_without_pytest(load: Load, name: str) -> None:
    """Rows of a name with one parameter, and of several."""
    rows = load("grid").rows(name)
    assert name in load("grid").WITH_GRID
    assert len(rows) > 1
    case: Any = rows[-1]()
    assert case.operator == name
    assert case.size


@pytest.mark.slow
def test_a_profile(tmp_path: Path) -> None:
    """One operator, from the rows' times to the file; its samples, where perf may take some."""
    if native.module() is None:
        pytest.skip(str(native.why_missing()))
    if shutil.which("perf") is None:
        pytest.skip("needs perf")
    tried = ["perf", "record", "--event=cpu-clock", f"--output={tmp_path / 'data'}", "true"]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        pytest.skip("perf may not record here")
    command = [sys.executable, str(ROOT / "benchmarks" / "profile_rows.py"), "excitation_gates"]
    done = subprocess.run(
        [*command, "--seconds=0.2", f"--out={tmp_path}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    (path,) = tmp_path.glob("*-profile.md")
    assert path.read_text() in done.stdout
    assert "## excitation_gates" in done.stdout
