"""What the GPU kernels are meant to reach, and how each of these figures is measured.

Forward and backward unless it says otherwise, with cold caches (timing.py), against baselines that
are timed in turn with ours. Every result is checked against the float64 reference first: a wrong
one has no speed. `device` is "cuda"; tests pass "cpu" and small shapes to see that each figure can
be measured.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import roofline
import torch
from timing import interleaved
from torch import Tensor

import ccdn_ops
from ccdn_ops import reference

Step = Callable[[], "tuple[Tensor, ...]"]


@dataclass(frozen=True)
class Target:
    """`measure(device)` against a goal, as text and as a number; `at_least`, or at most."""

    operator: str
    what: str
    unit: str
    goal: float
    at_least: bool
    measure: Callable[[str], float]

    def met(self, found: float) -> bool:
        return found >= self.goal if self.at_least else found <= self.goal

    @property
    def wanted(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.goal:g} {self.unit}"


# One step ----------------------------------------------------------------------------------------


def step(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Step:
    """The outputs, and the gradients of those inputs that want one for fixed upstream gradients."""
    leaves = [x for x in inputs if x.requires_grad]

    def outputs() -> tuple[Tensor, ...]:
        found = function(*inputs)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    if not leaves:
        return outputs
    with torch.no_grad():
        shapes = [(y.shape, y.dtype, y.device) for y in outputs()]
    random = torch.Generator().manual_seed(1)
    upstream = [
        torch.randn(shape, generator=random).to(device, dtype) for shape, dtype, device in shapes
    ]

    def both() -> tuple[Tensor, ...]:
        found = outputs()
        return (*found, *torch.autograd.grad(found, leaves, upstream))

    return both


def check(
    function: Callable[..., Any], literal: Callable[..., Any], inputs: Sequence[Tensor]
) -> None:
    """That the function computes what the reference does in float64; AssertionError else."""
    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in inputs]
    dtype = inputs[0].dtype
    tolerance = 1e-4 if dtype == torch.float32 else 16 * torch.finfo(dtype).eps
    found, truth = step(function, inputs)(), step(literal, wide)()
    for y, y64 in zip(found, truth, strict=True):
        error = (y.double() - y64).norm().item() / (y64.norm().item() or 1.0)
        assert error <= tolerance, f"error {error:.1e} > {tolerance:.1e}: no speed is measured"


def graphed(function: Step, device: str) -> Step:
    """The step as a CUDA graph: its replay costs no launches. On the CPU the step itself."""
    if device != "cuda":
        return function
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = function()

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return found

    return replay


def compiled(function: Callable[..., Any], inputs: Sequence[Tensor], device: str) -> Step:
    torch._dynamo.reset()
    run = step(torch.compile(function, dynamic=False), inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
    return run


def speedup(
    function: Callable[..., Any],
    literal: Callable[..., Any],
    inputs: Sequence[Tensor],
    baseline: str,
    device: str,
) -> float:
    """How often ours is done in the time of the reference: "eager", "compiled" or in a "graph"."""
    check(function, literal, inputs)
    ours, other = step(function, inputs), step(literal, inputs)
    if baseline == "compiled":
        other = compiled(literal, inputs, device)
    elif baseline == "graph":
        ours, other = graphed(ours, device), graphed(other, device)
    times = interleaved({"ours": ours, "other": other}, device=device, seconds=0.5)
    return times["other"].best / times["ours"].best


def seconds(run: Step, device: str) -> float:
    return interleaved({"ours": run}, device=device, seconds=0.5)["ours"].best


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


# Inputs ------------------------------------------------------------------------------------------


def features(
    shape: tuple[int, ...], device: str, dtype: torch.dtype = torch.float32, *, grad: bool = True
) -> Tensor:
    """(B, D, ...) with one dominant direction, as networks make them."""
    random = torch.Generator().manual_seed(0)
    b, d, *positions = shape
    n = math.prod(positions)
    x = 3 * torch.randn(b, d, 1, generator=random) * torch.randn(b, 1, n, generator=random)
    x = x + torch.randn(b, d, n, generator=random)
    return x.view(shape).to(device, dtype).requires_grad_(grad)


def covariances(shape: tuple[int, int], device: str) -> Tensor:
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


# The figures -------------------------------------------------------------------------------------

GRID = list(itertools.product((8, 32, 128), (64, 128, 256, 512), (49, 64, 256, 1024)))
# Compiling the reference takes many times as long as measuring it.
FEW = list(itertools.product((32,), (64, 256, 512), (49, 256, 1024)))


def speedups(
    function: Callable[..., Any],
    literal: Callable[..., Any],
    baseline: str,
    device: str,
    shapes: Sequence[Any],
    make: Callable[[Any, str], Tensor] = features,
) -> float:
    """The geometric mean over the shapes, each of which is printed as soon as it is known."""
    found = []
    for shape in shapes:
        found.append(speedup(function, literal, [make(shape, device)], baseline, device))
        print(f"  {shape} {baseline}: {found[-1]:.3g} x", flush=True)
    return geometric_mean(found)


def dual_squeeze(device: str, baseline: str = "eager", shapes: Any = GRID) -> float:
    return speedups(ccdn_ops.dual_squeeze, reference.dual_squeeze, baseline, device, shapes)


def multi_excite(device: str, shape: tuple[int, ...] = (64, 256, 32, 32), p: int = 4) -> float:
    x = features(shape, device)
    gates = torch.rand(shape[0], p, shape[1], generator=torch.Generator().manual_seed(3))
    inputs = [x, gates.to(device).requires_grad_()]
    check(ccdn_ops.multi_excite, reference.multi_excite, inputs)
    # x and P maps; then x, the P gradients and the gradient of x.
    moved = x.nbytes * (1 + p + 2 + p)
    rate = moved / seconds(step(ccdn_ops.multi_excite, inputs), device)
    return 100 * rate / roofline.bandwidth(moved, device)


def ctm(device: str, shape: tuple[int, ...] = (128, 256, 16, 16), p: int = 4) -> float:
    x = features(shape, device, grad=False)
    inputs = [x, *weights(p, shape[1], device)]

    def ours(x: Tensor, *w: Tensor) -> Any:
        return ccdn_ops.ctm(x, w)

    check(ours, lambda x, *w: reference.ctm(x, w), inputs)
    floor = x.nbytes * (1 + p)
    return seconds(step(ours, inputs), device) * roofline.bandwidth(floor, device) / floor


def cocs_loss(device: str, shape: tuple[int, int, int] = (64, 4, 256)) -> float:
    random = torch.Generator().manual_seed(0)
    inputs = [(torch.randn(shape, generator=random) + 0.5).to(device).requires_grad_()]
    check(ccdn_ops.cocs_loss, reference.cocs_loss, inputs)
    return 1e6 * seconds(graphed(step(ccdn_ops.cocs_loss, inputs), device), device)


WIDE = [(32, 64, 1024), (32, 256, 256), (128, 256, 256), (32, 512, 1024)]
NARROW = [(32, 256, 64), (32, 512, 49), (128, 512, 49), (32, 512, 196)]


def isqrt_cov(device: str, shapes: Any = WIDE) -> float:
    return speedups(ccdn_ops.isqrt_cov, reference.isqrt_cov, "eager", device, shapes)


MATRICES = [(32, 64), (32, 256), (128, 256), (32, 512)]


def newton_schulz_sqrt(device: str, shapes: Any = MATRICES) -> float:
    ours, literal = ccdn_ops.newton_schulz_sqrt, reference.newton_schulz_sqrt
    return speedups(ours, literal, "eager", device, shapes, covariances)


def covariance_pool(
    device: str, shape: tuple[int, int, int] = (64, 512, 1024), matrix: int = 4096
) -> float:
    x = features(shape, device, torch.bfloat16, grad=False)
    b, d, n = shape
    check(ccdn_ops.covariance_pool, reference.covariance_pool, [x])
    by_bytes = (x.nbytes + 2 * b * d * d) / roofline.bandwidth(x.nbytes, device)
    left = torch.ones(matrix, matrix, dtype=torch.bfloat16, device=device)
    product = seconds(lambda: (left @ left,), device)
    by_operations = b * d * (d + 1) * n / (2 * matrix**3 / product)
    return 100 * max(by_bytes, by_operations) / seconds(step(ccdn_ops.covariance_pool, [x]), device)


TARGETS = [
    Target(
        "dual_squeeze", "x eager reference, geometric mean of the grid", "x", 20, True, dual_squeeze
    ),
    Target(
        "dual_squeeze",
        "x torch.compile of the reference, nine shapes of the grid",
        "x",
        5,
        True,
        lambda device: dual_squeeze(device, "compiled", FEW),
    ),
    Target(
        "dual_squeeze",
        "x CUDA graph of the reference, both in a graph",
        "x",
        5,
        True,
        lambda device: dual_squeeze(device, "graph"),
    ),
    Target(
        "multi_excite", "of copy bandwidth, (64, 256, 32 x 32), P = 4", "%", 85, True, multi_excite
    ),
    Target("ctm", "forward over its byte floor, (128, 256, 16 x 16)", "x", 1.5, False, ctm),
    Target("cocs_loss", "in a graph replay, (64, 4, 256)", "us", 20, False, cocs_loss),
    Target("isqrt_cov", "x eager reference", "x", 3, True, isqrt_cov),
    Target(
        "isqrt_cov",
        "x eager reference, N < D / 2",
        "x",
        10,
        True,
        lambda device: isqrt_cov(device, NARROW),
    ),
    Target("newton_schulz_sqrt", "x eager reference", "x", 3, True, newton_schulz_sqrt),
    Target(
        "covariance_pool",
        "forward, of its roofline in bf16, (64, 512, 1024)",
        "%",
        60,
        True,
        covariance_pool,
    ),
]
