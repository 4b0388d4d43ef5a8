"""explain(): what would serve a call and why; and the report of `python -m ccdn_ops`."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ccdn_ops._version import __version__
from ccdn_ops.backends import native, registry
from ccdn_ops.ops.checks import check_iterations, check_map, check_tensor
from ccdn_ops.ops.operator import OPERATORS, Operator
from ccdn_ops.work import Call


@dataclass(frozen=True)
class Explanation:
    """How one call would be served; print it.

    backend is one name, the names for each part of a composed operator, or "none" if the call would
    raise. algorithm, side, and the (forward, backward) bytes and operations are those of
    ccdn_ops/work.py.
    """

    operator: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    backend: str
    kernel: str
    algorithm: str
    side: str | None
    bytes: tuple[int, int]
    operations: tuple[int, int]
    rejected: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        lines = [f"{self.operator} {size} {self.dtype} on {self.device}: {self.backend}"]
        lines += [f"  kernel      {self.kernel}", f"  algorithm   {self.algorithm}"]
        if self.side is not None:
            lines.append(f"  side        {self.side}")
        for name, pair in (("bytes", self.bytes), ("operations", self.operations)):
            lines.append(f"  {name:<11} {pair[0]:.3g} forward, {pair[1]:.3g} backward")
        lines += [f"  not {backend}: {reason}" for backend, reason in self.rejected.items()]
        return "\n".join(lines)


def explain(
    operator: str,
    *shape: int,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    iterations: int = 5,
    excitations: int = 4,
    orders: int = 2,
    hidden: int | None = None,
    triu: bool = False,
) -> Explanation:
    """Which backend, kernel and algorithm would serve a call, its cost, and why others would not.

    The shape is that of the first argument: x, the squeezes (B, D) of excitation_gates, or one
    level (B, P, D) of cocs_loss. `excitations`, `orders` and `hidden` (None: D / 4) are the P, O
    and R of gates and weights. Nothing is computed, and the device does not have to exist. Raises
    ValueError for an unknown operator and for a shape that the operator would refuse.
    """
    device = torch.device(device)
    if operator not in OPERATORS:
        raise ValueError(
            f"there is no operator {operator!r}; expected one of {', '.join(sorted(OPERATORS))}"
        )
    check_iterations(operator, iterations)
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"ccdn_ops.explain: the shape is {shape}; expected ints of 0 or more")
    x = _fake(shape, dtype, device)
    record = OPERATORS[operator]
    _check_first(operator, x, record.first)
    call = Call(iterations, excitations, orders, hidden, triu)

    parts = record.parts or (operator,)
    if record.parts and registry.offered(operator, *record.question(x, call)):
        parts = (operator,)
    choices = {part: _choice(OPERATORS[part], x, call) for part in parts}
    if orders == 1:
        choices = {part: c for part, c in choices.items() if (operator, part) != _NO_SECOND}
    chosen = {part: backend for part, (backend, _) in choices.items()}
    literal = set(chosen.values()) <= {None, "reference"}
    done = record.work(x, replace(call, literal=literal))
    names = list(dict.fromkeys(backend or "none" for backend in chosen.values()))
    kernels = {part: _kernel(part, backend) for part, backend in chosen.items()}
    return Explanation(
        operator,
        shape,
        dtype,
        device,
        "none" if "none" in names else ", ".join(names),
        "; ".join(dict.fromkeys(kernels.values())),
        done.algorithm,
        done.side,
        done.bytes,
        done.operations,
        _rejected(choices, names),
    )


# With one order ctm needs no second squeeze, and the first is plain PyTorch everywhere.
_NO_SECOND = ("ctm", "dual_squeeze")


def _check_first(operator: str, x: Tensor, expected: str) -> None:
    if "N)" in expected or "H, W)" in expected:
        ranks = (3, 4) if "N)" in expected else (4,)
        check_map(operator, "x", x, ranks=ranks)
        return
    check_tensor(operator, "the first argument", x)
    square = x.dim() < 3 or expected != "(B, D, D)" or x.shape[1] == x.shape[2]
    if x.dim() != expected.count(",") + 1 or 0 in x.shape[1:] or not square:
        raise ValueError(
            f"ccdn_ops.{operator}: the first argument has shape {tuple(x.shape)}; "
            f"expected {expected}"
        )


def _kernel(operator: str, backend: str | None) -> str:
    implementation = registry.load(operator, backend) if backend else None
    return implementation.forward.__module__ if implementation else "none: the call would raise"


def _fake(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(shape, dtype=dtype, device=device)


def _choice(operator: Operator, x: Tensor, call: Call) -> tuple[str | None, dict[str, str]]:
    """The backend that would serve the operator or part, and why each of the others would not."""
    question = operator.question(x, call)
    order = registry.ORDER.get(x.device.type, ("reference",))
    asked = registry.override()
    rejected, chosen = {}, None
    for backend in (asked,) if asked else order:
        reason = registry.why_not(operator.name, backend, *question)
        if reason is None:
            chosen = backend
            break
        rejected[backend] = reason
    for backend in registry.BACKENDS:
        if backend == chosen or backend in rejected:
            continue
        if asked:
            rejected[backend] = f"{asked} was asked for by name"
        elif backend not in order:
            rejected[backend] = f"not for {x.device.type} tensors, unless asked for by name"
        else:
            rejected[backend] = f"lower priority than {chosen}"
    return chosen, rejected


def _rejected(
    choices: dict[str, tuple[str | None, dict[str, str]]], chosen: list[str]
) -> dict[str, str]:
    """For every backend that serves no part: the reason, or one per part if they differ."""
    found: dict[str, str] = {}
    for backend in registry.BACKENDS:
        if backend in chosen:
            continue
        reasons = {part: rejected[backend] for part, (_, rejected) in choices.items()}
        if len(set(reasons.values())) == 1:
            found[backend] = next(iter(reasons.values()))
        else:
            found[backend] = "; ".join(f"{part}: {reason}" for part, reason in reasons.items())
    return found


def report() -> str:
    """What is installed, what is built, what will be used, and why the rest will not be."""
    lines = [
        f"ccdn {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}"
    ]
    module = native.module()
    if module is None:
        lines.append(f"native module: none. {native.why_missing()}.")
        tool = next((t for t in ("c++", "g++", "clang++") if shutil.which(t)), None)
        lines.append(f"  C++ compiler on PATH now: {tool or 'none'}")
    else:
        lines.append(f"native module: {module.__file__} (compiler {module.compiler})")
        pool = "torch's" if module.has_parallel_for() else "none found in torch: serial kernels"
        lines.append(f"  thread pool: {pool}")
        if module.cuda_archs:
            archs = ", ".join(f"sm_{arch}" for arch in module.cuda_archs)
            lines.append(f"  CUDA kernels: {archs}, PTX of sm_{module.cuda_ptx}")
        else:
            lines.append(f"  CUDA kernels: none. {native.why_no_cuda_kernels()}.")
    if importlib.util.find_spec("triton") is not None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            lines.append(f"triton: {version('triton')}")
        except PackageNotFoundError:
            lines.append("triton: there, of unknown version")
    else:
        lines.append("triton: not installed")
    if torch.cuda.is_available():
        lines.append(f"CUDA device: {torch.cuda.get_device_name()}")
    else:
        lines.append("CUDA device: none that torch sees")
    if registry.override():
        lines.append(f"backend asked for by name: {registry.override()} (CCDN_OPS_BACKEND)")
    lines.append("")
    for operator in sorted(OPERATORS):
        lines += [str(explain_usual(operator, device)) for device in ("cpu", "cuda")]
    return "\n".join(lines)


def explain_usual(operator: str, device: str) -> Explanation:
    """`explain` for a call of a typical size."""
    sizes = {"(B, D)": (16, 256), "(B, P, D)": (16, 4, 256), "(B, D, D)": (16, 256, 256)}
    size = sizes.get(OPERATORS[operator].first, (16, 256, 16, 16))
    return explain(operator, *size, device=device)
