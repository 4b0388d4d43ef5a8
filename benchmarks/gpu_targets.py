"""What the GPU kernels should reach, and the shapes that show whether they do.

    python benchmarks/gpu_targets.py SUITE [SUITE ...] [--backend triton] [--first] [--shapes JSON]

prints one line `row {...}` for each shape: milliseconds of our operator and of its baseline, queued
on a stream and replayed from a CUDA graph, the time of each kernel, the memory, the clocks, and the
error against the float64 reference. A wrong result gets no time, and a shape that fails costs only
itself: where it broke the device's context, the command ends with BROKEN and gpu_check.py starts it
again for the shapes that are left.

Times are forward and backward unless the suite says otherwise; gpu_measure.py takes them. `device`
is "cuda"; tests pass "cpu" and small shapes to see that every suite can be measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # from a bare checkout, where nothing is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from gpu_measure import SECONDS, Row, measured
from timing import interleaved
from torch import Tensor

import ccdn_ops
from ccdn_ops import reference
from ccdn_ops.ops.operator import OPERATORS

Shape = tuple[int, ...]
BROKEN = 10  # exit code: the device's context is lost, the rest needs a new process


# Inputs ------------------------------------------------------------------------------------------


def features(
    shape: Shape, device: str, dtype: torch.dtype = torch.float32, *, grad: bool = True
) -> Tensor:
    """(B, D, ...) with one dominant direction, as networks make them."""
    random = torch.Generator().manual_seed(0)
    b, d, *positions = shape
    n = math.prod(positions)
    x = 3 * torch.randn(b, d, 1, generator=random) * torch.randn(b, 1, n, generator=random)
    x = x + torch.randn(b, d, n, generator=random)
    return x.view(shape).to(device, dtype).requires_grad_(grad)


def covariances(shape: Shape, device: str) -> Tensor:
    """(B, D, D), of twice as many positions as channels."""
    batch, size = shape
    x = features((batch, size, 2 * size), device, grad=False)
    return reference.covariance_pool(x).requires_grad_()


def weights(p: int, d: int, device: str) -> list[Tensor]:
    random = torch.Generator().manual_seed(2)
    r = max(1, d // 4)
    shapes = ((p, 2, r, d), (p, 2, r), (p, 2, d, r), (p, 2, d))
    scales = (d**-0.5, 0.1, r**-0.5, 0.1)
    return [
        (scale * torch.randn(shape, generator=random)).to(device)
        for shape, scale in zip(shapes, scales, strict=True)
    ]


# What is measured of each operator ---------------------------------------------------------------


def dual_squeeze(shape: Shape, device: str, baseline: str = "reference") -> Row:
    ours, literal = ccdn_ops.dual_squeeze, reference.dual_squeeze
    return measured(ours, literal, [features(shape, device)], device, baseline=baseline)


def excitation_gates(shape: Shape, device: str) -> Row:
    b, p, d = shape
    random = torch.Generator().manual_seed(4)
    squeezes = [torch.randn(b, d, generator=random).to(device) for _ in range(2)]
    inputs = [x.requires_grad_() for x in (*squeezes, *weights(p, d, device))]
    return measured(ccdn_ops.excitation_gates, reference.excitation_gates, inputs, device)


def multi_excite(shape: Shape, device: str) -> Row:
    b, p, d, *_ = shape
    x = features((b, d, *shape[3:]), device)
    gates = torch.rand(b, p, d, generator=torch.Generator().manual_seed(3))
    inputs = [x, gates.to(device).requires_grad_()]
    # x and P maps; then x, the P gradients and the gradient of x.
    floor = x.nbytes * (1 + p + 2 + p)
    ours, literal = ccdn_ops.multi_excite, reference.multi_excite
    return measured(ours, literal, inputs, device, floor_bytes=floor)


def ctm(shape: Shape, device: str) -> Row:
    """Forward alone: a backward pass has no single byte floor."""
    b, p, d, *_ = shape
    x = features((b, d, *shape[3:]), device, grad=False)
    return measured(
        lambda x, *w: ccdn_ops.ctm(x, w),
        lambda x, *w: reference.ctm(x, w),
        [x, *weights(p, d, device)],
        device,
        floor_bytes=x.nbytes * (1 + p),
    )


def cocs_loss(shape: Shape, device: str) -> Row:
    random = torch.Generator().manual_seed(0)
    inputs = [(torch.randn(shape, generator=random) + 0.5).to(device).requires_grad_()]
    return measured(ccdn_ops.cocs_loss, reference.cocs_loss, inputs, device)


def isqrt_cov(shape: Shape, device: str) -> Row:
    inputs = [features(shape, device)]
    return measured(ccdn_ops.isqrt_cov, reference.isqrt_cov, inputs, device)


def newton_schulz_sqrt(shape: Shape, device: str) -> Row:
    ours, literal = ccdn_ops.newton_schulz_sqrt, reference.newton_schulz_sqrt
    return measured(ours, literal, [covariances(shape, device)], device)


def newton_schulz_roots(shape: Shape, device: str) -> Row:
    ours, literal = ccdn_ops.newton_schulz_roots, reference.newton_schulz_roots
    return measured(ours, literal, [covariances(shape, device)], device)


def covariance_pool(shape: Shape, device: str, matrix: int = 4096) -> Row:
    """Forward alone, in bfloat16, compared with the rate of a large matrix product in bfloat16."""
    x = features(shape, device, torch.bfloat16, grad=False)
    b, d, n = shape
    random = torch.Generator().manual_seed(5)
    left = torch.randn(matrix, matrix, generator=random).to(device, torch.bfloat16)
    product = interleaved({"product": lambda: left @ left}, device=device, seconds=SECONDS)
    return measured(
        ccdn_ops.covariance_pool,
        reference.covariance_pool,
        [x],
        device,
        floor_bytes=x.nbytes + 2 * b * d * d,
        floor_operations=b * d * (d + 1) * n,
        product_rate=2 * matrix**3 / product["product"].best,
    )


# Suites ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Suite:
    """Shapes of one operator that are measured alike; the most telling shape comes first."""

    operator: str
    measure: Callable[[Shape, str], Row]
    shapes: tuple[Shape, ...]
    predicted: float = 1.6  # seconds a shape on a large device


# The shapes of the design's cells first: small side, large side, and the two that fill a device.
_TELLING = [(8, 256, 256), (32, 256, 64), (32, 64, 1024), (32, 512, 49), (128, 256, 256)]
_GRID = itertools.product((8, 32, 128), (64, 128, 256, 512), (49, 64, 256, 1024))
GRID = tuple(dict.fromkeys([*_TELLING, *_GRID]))
# Compiling the reference takes many times as long as measuring it.
FEW = tuple(itertools.product((32,), (64, 256, 512), (49, 256, 1024)))
WIDE = ((32, 256, 256), (32, 64, 1024), (128, 256, 256), (32, 512, 1024))
NARROW = ((32, 512, 49), (32, 256, 64), (128, 512, 49), (32, 512, 196))

SUITES: dict[str, Suite] = {
    "dual_squeeze": Suite("dual_squeeze", dual_squeeze, GRID),
    "multi_excite": Suite("multi_excite", multi_excite, ((64, 4, 256, 32, 32), (16, 4, 256, 8, 8))),
    "ctm": Suite("ctm", ctm, ((128, 4, 256, 16, 16), (64, 4, 256, 32, 32))),
    "cocs_loss": Suite("cocs_loss", cocs_loss, ((64, 4, 256), (16, 4, 512))),
    "excitation_gates": Suite("excitation_gates", excitation_gates, ((128, 4, 256), (16, 4, 512))),
    "covariance_pool": Suite("covariance_pool", covariance_pool, ((64, 512, 1024), (32, 256, 256))),
    "isqrt_cov": Suite("isqrt_cov", isqrt_cov, WIDE),
    "isqrt_cov_narrow": Suite("isqrt_cov", isqrt_cov, NARROW),
    "newton_schulz_sqrt": Suite(
        "newton_schulz_sqrt", newton_schulz_sqrt, ((32, 256), (32, 64), (128, 256), (32, 512))
    ),
    "newton_schulz_roots": Suite(
        "newton_schulz_roots", newton_schulz_roots, ((32, 256), (32, 64), (1, 576))
    ),
    "dual_squeeze_compiled": Suite(
        "dual_squeeze",
        lambda shape, device: dual_squeeze(shape, device, "compiled"),
        FEW,
        predicted=9.0,
    ),
}


def by_record(operator: str) -> Suite:
    """The example of an operator that has no suite above; shapes are values of SIZES' letters."""
    record = OPERATORS[operator]
    letters = "".join(dict.fromkeys("".join(record.tensors.values())))

    def measure(shape: Shape, device: str) -> Row:
        sizes, random = dict(zip(letters, shape, strict=True)), torch.Generator().manual_seed(0)
        inputs = [
            torch.randn([sizes[letter] for letter in of], generator=random).to(device)
            for of in record.tensors.values()
        ]
        return measured(
            lambda *tensors: record.call(record.function, tensors),
            lambda *tensors: record.call(record.reference, tensors),
            [x.requires_grad_() for x in inputs],
            device,
        )

    return Suite(operator, measure, (tuple(SIZES[letter] for letter in letters),))


SIZES = {"B": 64, "P": 4, "O": 2, "D": 256, "R": 64, "H": 16, "W": 16}
_NAMED = {suite.operator for suite in SUITES.values()}
SUITES |= {
    name: by_record(name)
    for name, record in OPERATORS.items()
    if record.schema and name not in _NAMED
}


# Figures -----------------------------------------------------------------------------------------


def ratio(ours: str, other: str) -> Callable[[Row], float]:
    return lambda row: row["ms"][other] / row["ms"][ours]


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


@dataclass(frozen=True)
class Target:
    """A figure made of a suite's rows, against a goal: `at_least`, or at most."""

    suite: str
    what: str
    unit: str
    goal: float
    at_least: bool
    of_row: Callable[[Row], float]
    first: bool = False  # of the first shape, or the geometric mean of all

    @property
    def operator(self) -> str:
        return SUITES[self.suite].operator

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return SUITES[self.suite].shapes[:1] if self.first else SUITES[self.suite].shapes

    def figure(self, rows: Iterable[Row]) -> tuple[float, int] | None:
        """The figure and of how many shapes it is; None where none was measured."""
        wanted = set(self.shapes)
        found = [
            self.of_row(row)
            for row in rows
            if row["suite"] == self.suite and tuple(row["shape"]) in wanted and "ms" in row
        ]
        return (geometric_mean(found), len(found)) if found else None

    def met(self, found: float) -> bool:
        return found >= self.goal if self.at_least else found <= self.goal

    @property
    def wanted(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.goal:g} {self.unit}"


def _share(row: Row) -> float:
    return 100 * row["floor ms"] / row["ms"]["ours"]


_EAGER = ratio("ours", "reference")

TARGETS = [
    Target("dual_squeeze", "x eager reference, geometric mean of the grid", "x", 20, True, _EAGER),
    Target(
        "dual_squeeze_compiled",
        "x torch.compile of the reference, nine shapes of the grid",
        "x",
        5,
        True,
        ratio("ours", "compiled"),
    ),
    Target(
        "dual_squeeze",
        "x CUDA graph of the reference, both in a graph",
        "x",
        5,
        True,
        ratio("ours, graph", "reference, graph"),
    ),
    Target(
        "multi_excite", "of copy bandwidth, (64, 256, 32 x 32), P = 4", "%", 85, True, _share, True
    ),
    Target(
        "ctm",
        "forward over its byte floor, (128, 256, 16 x 16)",
        "x",
        1.5,
        False,
        lambda row: row["ms"]["ours"] / row["floor ms"],
        True,
    ),
    Target(
        "cocs_loss",
        "in a graph replay, (64, 4, 256)",
        "us",
        20,
        False,
        lambda row: 1e3 * row["ms"]["ours, graph"],
        True,
    ),
    Target("isqrt_cov", "x eager reference", "x", 3, True, _EAGER),
    Target("isqrt_cov_narrow", "x eager reference, N < D / 2", "x", 10, True, _EAGER),
    Target("newton_schulz_sqrt", "x eager reference", "x", 3, True, _EAGER),
    Target("newton_schulz_roots", "x eager reference", "x", 3, True, _EAGER),
    Target(
        "covariance_pool",
        "forward, of its roofline in bf16, (64, 512, 1024)",
        "%",
        60,
        True,
        _share,
        True,
    ),
]


# The command -------------------------------------------------------------------------------------


def rows(
    names: Sequence[str],
    device: str,
    *,
    backend: str = "cuda",
    first: bool = False,
    shapes: Sequence[Shape] | None = None,
) -> Iterable[Row]:
    """A row for each shape as soon as it is known. One that failed says why in "failed"."""
    for name in names:
        suite = SUITES[name]
        for shape in shapes or (suite.shapes[:1] if first else suite.shapes):
            row: Row = {"suite": name, "operator": suite.operator, "backend": backend}
            row["shape"] = list(shape)
            try:
                row |= suite.measure(shape, device)
            except Exception as reason:
                traceback.print_exc()
                said = str(reason).strip().partition("\n")[0]
                row["failed"] = f"{type(reason).__name__}: {said}"[:200]
            yield row


def intact(device: str) -> bool:
    """Whether the device still answers: a kernel that read elsewhere takes its context along."""
    if device != "cuda":
        return True
    try:
        torch.cuda.synchronize()
        torch.ones(1, device=device).item()
    except RuntimeError:
        return False
    return True


def main(arguments: Sequence[str] | None = None, device: str = "cuda") -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("suites", nargs="+", choices=sorted(SUITES), metavar="SUITE")
    parser.add_argument("--backend", default="cuda", help="cuda (default) or triton")
    parser.add_argument("--first", action="store_true", help="the first shape of each suite only")
    parser.add_argument("--shapes", type=json.loads, help="these alone: [[8, 256, 256], ...]")
    options = parser.parse_args(arguments)
    shapes = [tuple(shape) for shape in options.shapes] if options.shapes else None
    chosen = {"backend": options.backend, "first": options.first, "shapes": shapes}
    with ccdn_ops.use_backend(options.backend):
        for row in rows(options.suites, device, **chosen):
            print("row " + json.dumps(row), flush=True)
            if "failed" in row and not intact(device):
                return BROKEN
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
