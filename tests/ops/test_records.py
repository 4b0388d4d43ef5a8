"""An operator is declared once: tests name what its record or its folder lacks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_cuda_build import EXPECTED

import ccdn_ops
from ccdn_ops import reference
from ccdn_ops.ops.operator import OPERATORS, Operator, define

ROOT = Path(__file__).parents[2]

# The fields of a record that every operator needs, each with an empty value.
WITHOUT: list[tuple[str, object]] = [
    ("name", ""),
    ("first", ""),
    ("work", None),
    ("tensors", {}),
    ("results", ()),
    ("samples", None),
    ("schema", ""),
    ("fake", None),
    ("vmap", None),
    ("kernel", None),
    ("backward", None),
    ("backward_fake", None),
    ("options", {}),
]
# What a record may leave out, each with a default that docs/extending.md states.
OPTIONAL = {"outputs", "parts", "asked", "backward_operations", "arrange", "second_order"}
OPTIONAL |= {"variants", "maps", "calls"}


def test_a_record_has_no_other_fields() -> None:
    assert {field.name for field in fields(Operator)} == {name for name, _ in WITHOUT} | OPTIONAL


@pytest.mark.parametrize(("piece", "nothing"), WITHOUT, ids=[name for name, _ in WITHOUT])
def test_a_missing_piece_is_named(piece: str, nothing: object) -> None:
    whole = replace(
        OPERATORS["multi_excite"],
        name="nameless",
        schema="(Tensor x, Tensor gates, int iterations) -> Tensor out",
        options={"iterations": 5},
    )
    with pytest.raises(ValueError, match=f"the operator '.*' lacks {piece}"):
        define(replace(whole, **{piece: nothing}))  # type: ignore[arg-type]
    assert "nameless" not in OPERATORS


@pytest.mark.parametrize(
    ("changes", "lacks"),
    [
        ({"results": ["BD", "BD"]}, r"results of 1 outputs: .* expected the sizes of \['out'\]"),
        ({"schema": "(Tensor x, Tensor gates) -> Tensor"}, "names of what the schema returns"),
        (
            {"schema": "(Tensor x, float slope) -> Tensor out", "options": {"slope": 1.0}},
            "asked, because Call has no 'slope'",
        ),
    ],
)
def test_what_does_not_fit_is_named(changes: dict, lacks: str) -> None:
    with pytest.raises(ValueError, match=f"'nameless' lacks {lacks}"):
        define(replace(OPERATORS["multi_excite"], name="nameless", **changes))


def test_every_folder_has_a_record() -> None:
    folders = {path.parent.name for path in (ROOT / "ccdn_ops" / "ops").glob("*/__init__.py")}
    assert folders == set(OPERATORS)


def text(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


# What of an operator is not in its folder, and how to see that it is there.
ELSEWHERE: dict[str, Callable[[str], bool]] = {
    "ccdn_ops/__init__.py": lambda name: name in ccdn_ops.__all__,
    "tests/ops/test_NAME.py": lambda name: (ROOT / f"tests/ops/test_{name}.py").exists(),
    "docs/operators.md": lambda name: f"`{name}(" in text("docs/operators.md"),
    "docs/benchmarks.md": lambda name: f"| `{name}` |" in text("docs/benchmarks.md"),
}


def missing(name: str) -> list[str]:
    return [place for place, has in ELSEWHERE.items() if not has(name)]


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_not_in_its_folder_is_there(name: str) -> None:
    assert missing(name) == []


def test_what_is_missing_elsewhere_is_named() -> None:
    assert missing("nameless") == list(ELSEWHERE)


def unlisted(
    operators: set[str], instances: Mapping[str, Iterable[str]], work: Container[str]
) -> list[str]:
    """What the tables of CUDA kernels lack of these operators and of their kernels."""
    found = [
        f"EXPECTED of tests/ops/test_cuda_build.py: {name}" for name in operators - {*instances}
    ]
    kernels = sorted({kernel for name in operators & {*instances} for kernel in instances[name]})
    return found + [f"WORK of benchmarks/gpu_work.py: {k}" for k in kernels if k not in work]


def test_cuda_kernels_are_listed(load: Callable[[str], ModuleType]) -> None:
    served = {name for name, record in OPERATORS.items() if record.schema and record.has("cuda")}
    assert unlisted(served, EXPECTED, load("gpu_work").WORK) == []


def test_cuda_kernels_that_are_not_listed_are_named() -> None:
    assert unlisted({"nameless", "peaks"}, {"peaks": ["peak"]}, {}) == [
        "EXPECTED of tests/ops/test_cuda_build.py: nameless",
        "WORK of benchmarks/gpu_work.py: peak",
    ]


@pytest.mark.parametrize("name", OPERATORS)
def test_the_reference_has_every_operator(name: str) -> None:
    assert OPERATORS[name].has("reference")
    assert getattr(ccdn_ops, name) is OPERATORS[name].function
    assert getattr(reference, name) is OPERATORS[name].reference


def test_benchmarks_have_every_operator(load: Callable[[str], ModuleType]) -> None:
    """Those without a file or a suite of their own have the example of their record."""
    raw = {name for name, record in OPERATORS.items() if record.schema}
    bench, targets = load("bench_operators"), load("gpu_targets")
    assert raw <= bench.OWN | set(bench.OTHERS)
    assert raw <= {suite.operator for suite in targets.SUITES.values()}
    sizes = {"B": 2, "P": 2, "O": 2, "D": 8, "R": 2, "H": 3, "W": 3}
    for name in ("multi_excite", "cocs_loss"):
        case = bench.case_of(name, sizes)
        ours, literal = case.ours(*case.inputs), case.reference(*case.inputs)
        torch.testing.assert_close(ours, literal)
        suite = targets.by_record(name)
        small = tuple(sizes[letter] for letter in case.size)
        assert suite.measure(small, "cpu")["ms"]["ours"] > 0


# A folder of an operator with a reference alone ---------------------------------------------------

FILES = {
    "spec.py": """
from ccdn_ops.ops.operator import Operator, define
from ccdn_ops.ops.raw import folded
from ccdn_ops.work import Work


def outputs(x):
    return x.new_empty(x.shape[:2])


OPERATOR = define(
    Operator(
        name="peaks",
        first="(B, D, N) or (B, D, H, W)",
        schema="(Tensor x) -> Tensor peak",
        fake=outputs,
        vmap=folded,
        work=lambda x, call: Work("a look at every number", (0, 0), (x.numel(), 0)),
        tensors={"x": "BDHW"},
        results=["BD"],
        samples=1,
    )
)
""",
    "reference.py": """
import torch
from ccdn_ops.backends import registry
from ccdn_ops.backends.reference.autograd import gradients


def peaks(x):
    return x.flatten(2).amax(2)


def _backward(grad, x):
    (found,) = gradients(peaks, [x], [grad])
    return torch.empty_like(x).copy_(found)


registry.register("peaks", backend="reference", forward=peaks, backward=_backward)
""",
    "__init__.py": """
from ccdn_ops.ops.autograd import differentiable
from ccdn_ops.ops.checks import check_map
from ccdn_ops.ops.peaks.spec import OPERATOR


def peaks(x):
    check_map("peaks", "x", x)
    (peak,) = _peaks(x)
    return peak


_peaks = differentiable(OPERATOR)
""",
}
# Where nothing but its folder is known of it.
USE = """
import sys
import torch
import ccdn_ops.ops
ccdn_ops.ops.__path__.append(sys.argv[1])
from ccdn_ops.ops.peaks import peaks

found = ccdn_ops.explain("peaks", 2, 3, 4)
assert found.backend == "reference", found
assert found.rejected["cpu"] == "the cpu backend has no peaks", found

x = torch.tensor([[[1.0, 3.0, 2.0]]], requires_grad=True)
peak = peaks(x)
peak.sum().backward()
assert peak.item() == 3.0
assert x.grad.flatten().tolist() == [0.0, 1.0, 0.0]
assert torch.vmap(peaks)(x.detach()[None]).item() == 3.0
compiled = torch.compile(peaks, backend="aot_eager", fullgraph=True)
assert compiled(x).item() == 3.0

from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as counter:
    peaks(x)
assert counter.get_total_flops() == 3

class Module(torch.nn.Module):
    def forward(self, x):
        return peaks(x)

program = torch.export.export(Module(), (x.detach(),))
program = program.run_decompositions(ccdn_ops.decompositions.table())
assert "ccdn" not in program.graph_module.code
assert program.module()(x.detach()).item() == 3.0
"""


def test_an_operator_with_a_reference_alone(tmp_path: Path) -> None:
    folder = tmp_path / "peaks"
    folder.mkdir()
    for name, source in FILES.items():
        (folder / name).write_text(source)
    command = [sys.executable, "-c", f"import ccdn_ops.decompositions\n{USE}", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
