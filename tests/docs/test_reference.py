"""Every public name is on a page of the reference, and pages say what the code says."""

from __future__ import annotations

import importlib
import re
from types import ModuleType

import pytest
from pages import ROOT, text_of

import ccdn_ops
import ccdn_ops.nn
import ccdn_ops.swap
from ccdn_ops.chebyshev import TERMS

DIRECTIVE = re.compile(r"^\.\. auto(\w+):: (\S+)\n((?:   :.*\n)*)", re.MULTILINE)


def documented(package: str) -> set[str]:
    """The full names of a package that docs/api shows."""
    found: set[str] = set()
    for page in sorted((ROOT / "docs" / "api").glob("*.rst")):
        for kind, name, options in DIRECTIVE.findall(text_of(page) + "\n"):
            if name.partition(".")[0] != package:
                continue
            found.add(name)
            members = re.search(r":members:(.*)", options)
            if kind != "module" or members is None or ":no-members:" in options:
                continue
            listed = members[1].replace(" ", "").split(",") if members[1].strip() else None
            if listed is None:
                listed = getattr(importlib.import_module(name), "__all__", [])
            found |= {f"{name}.{member}" for member in listed}
    return found


def public(module: ModuleType) -> set[str]:
    return {f"{module.__name__}.{name}" for name in module.__all__ if not name.startswith("__")}


@pytest.mark.parametrize("module", [ccdn_ops, ccdn_ops.nn, ccdn_ops.swap, ccdn_ops.reference])
def test_every_public_name_is_on_a_page(module: ModuleType) -> None:
    names = public(module)
    # The swaps are functions of the package, ccdn_ops.swap_...
    names = {re.sub(r"ccdn_ops\.swap\.(swap_\w+)", r"ccdn_ops.\1", name) for name in names}
    assert names - documented(module.__name__.partition(".")[0]) == set()


@pytest.mark.parametrize("name", ["ccdn", "ccdn.data", "ccdn.models", "ccdn.synthetic_faces"])
def test_every_public_name_of_ccdn_is_on_a_page(name: str) -> None:
    pytest.importorskip("omegaconf", reason="ccdn is not installed, only ccdn_ops")
    assert public(importlib.import_module(name)) - documented(name.partition(".")[0]) == set()


def test_every_kind_of_data_is_on_the_page_of_formats() -> None:
    data = pytest.importorskip("ccdn.data", reason="ccdn is not installed, only ccdn_ops")
    page = text_of(ROOT / "docs" / "formats.md")
    _, read, rest = re.split(r"^## Faces, read|^### Pictures with", page, flags=re.MULTILINE)
    orientations = rest.partition("\n###")[0]
    assert re.findall(r"^\| `(\w+)` \|", read, re.MULTILINE) == list(data.BENCHMARKS)
    named = " ".join(re.findall(r"^\| (`.+?) \|", orientations, re.MULTILINE))
    kinds = {name for name, one in data.BENCHMARKS.items() if one.read is not None}
    assert kinds <= set(re.findall(r"`(\w+)`", named))


def test_the_numbers_of_chebyshev_terms() -> None:
    page = text_of(ROOT / "docs" / "operators.md")
    for precision in ("float32", "float64"):
        (row,) = re.findall(rf"^\| \$m\$ for {precision} \|(.*)\|$", page, re.MULTILINE)
        assert tuple(int(cell) for cell in row.split("|")) == TERMS[precision]
    (row,) = re.findall(r"^\| degree of \$q_K\$ \|(.*)\|$", page, re.MULTILINE)
    assert [int(cell) for cell in row.split("|")] == [(3**k - 1) // 2 for k in range(1, 11)]


def test_every_result_of_the_benchmarks_is_on_a_page() -> None:
    page = text_of(ROOT / "docs" / "benchmarks.md")
    shown = re.findall(r"^```\{include\} \.\./benchmarks/results/(\S+)$", page, re.MULTILINE)
    results = (ROOT / "benchmarks" / "results").glob("*.md")
    assert sorted(shown) == sorted(path.name for path in results)
