"""The table of backends in docs/benchmarks.md, generated from the tree.

    python benchmarks/backend_table.py            prints it
    python benchmarks/backend_table.py --write    puts it between that page's two markers

A backend has an operator if the operator's folder has a module with the backend's name. Every such
module is tested: the CPU's directly, Triton's in its interpreter, and the CUDA kernels compiled for
the CPU (tests/ops). The files in benchmarks/results say what ran on a GPU and what was measured:
<device>.json of `make gpu-check`, and the summaries of `make bench`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from ccdn_ops.ops.operator import OPERATORS as RECORDS

ROOT = Path(__file__).resolve().parents[1]
OPERATORS = ROOT / "ccdn_ops" / "ops"
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- benchmarks/backend_table.py begins -->"
END = "<!-- benchmarks/backend_table.py ends -->"
BACKENDS = {"cpu": "C++ on the CPU", "triton": "Triton", "cuda": "CUDA C++"}


def operators() -> list[str]:
    """Every public operator, as listed by the references."""
    return sorted(path.parent.name for path in OPERATORS.glob("*/reference.py"))


def built(operator: str, backend: str) -> str:
    """ "yes", "by its parts" or "no"."""
    if (OPERATORS / operator / f"{backend}.py").exists():
        return "yes"
    parts = RECORDS[operator].parts
    if parts and all((OPERATORS / part / f"{backend}.py").exists() for part in parts):
        return "by its parts"
    return "no"


def gpu_records() -> list[dict[str, object]]:
    return [json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))]


def cpu_measured() -> set[str]:
    """The operators that a summary of `make bench` has a section for."""
    found: set[str] = set()
    for path in RESULTS.glob("*.md"):
        if not path.with_suffix(".json").exists():
            found |= set(re.findall(r"^## (\w+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
    return found


def cell(operator: str, backend: str) -> str:
    how = built(operator, backend)
    if how == "no":
        return "no"
    emulated = {"cpu": "tested", "triton": "interpreted", "cuda": "emulated"}[backend]
    words = [how, emulated]
    if backend == "cpu":
        return ", ".join([*words, *(["measured"] if operator in cpu_measured() else [])])
    records = gpu_records()
    devices = [str(r["device"]) for r in records if backend in r["tested"].get(operator, ())]  # type: ignore[attr-defined]
    words.append(f"tested on {', '.join(devices)}" if devices else "not run on a GPU")
    if any(backend in r["measured"].get(operator, ()) for r in records):  # type: ignore[attr-defined]
        words.append("measured")
    return ", ".join(words)


def table() -> str:
    titles = ["operator", *BACKENDS.values()]
    lines = [titles, ["---"] * len(titles)]
    lines += [[f"`{op}`", *(cell(op, backend) for backend in BACKENDS)] for op in operators()]
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = (
        "Every operator has a reference in plain PyTorch. *interpreted*: its tests pass in "
        "Triton's interpreter and in the kernels' compiled form on the CPU; *emulated*: its "
        "kernels, compiled for the CPU, pass the tests. CUDA kernels "
        "compile for sm_80, sm_90, sm_100 and sm_120, Triton's for the first three. "
    )
    if gpu_records():
        notes += "Figures of a GPU are in benchmarks/results."
    else:
        notes += (
            "No kernel has run on a GPU yet, so there is no figure of one here: `make gpu-check` "
            "tests and measures them where there is a device."
        )
    return f"{BEGIN}\n{rows}\n\n{notes}\n{END}"


def replaced(page: str) -> str:
    """The page with the current table between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"docs/benchmarks.md has no {BEGIN} ... {END}")
    return before + table() + after


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())
