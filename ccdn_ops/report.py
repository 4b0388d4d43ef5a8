"""explain(): what would serve a call and why; and the report of `python -m ccdn_ops`."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ccdn_ops._version import __version__
from ccdn_ops.backends import native, registry
from ccdn_ops.ops.checks import check_iterations, check_map, check_tensor
from ccdn_ops.plans import DualSqueezePlan, dual_squeeze_plan

# The operators that choose among backends, and what their shape is in explain().
DISPATCHED = {
    "dual_squeeze": "(B, D, N) or (B, D, H, W)",
    "excitation_gates": "(B, D)",
    "multi_excite": "(B, D, H, W)",
    "cocs_loss": "(B, P, D)",
}
# Those that are made of others.
PARTS = {
    "second_order_squeeze": ("dual_squeeze",),
    "ctm": ("dual_squeeze", "excitation_gates", "multi_excite"),
}


@dataclass(frozen=True)
class Explanation:
    """How one call would be served; print it.

    bytes and operations are lists of (forward, backward) totals for the whole batch: the memory
    traffic if every tensor moved once, and the multiplications and additions of the algorithm.
    """

    operator: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    backend: str
    kernel: str
    side: str | None = None
    saves_gram: bool | None = None
    terms: int | None = None
    bytes: tuple[int, int] | None = None
    operations: tuple[int, int] | None = None
    rejected: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape)) or "any shape"
        lines = [f"{self.operator} {size} {self.dtype} on {self.device}: {self.backend}"]
        lines.append(f"  kernel      {self.kernel}")
        if self.side is not None:
            saved = "saved for the backward pass" if self.saves_gram else "not saved"
            lines.append(f"  side        {self.side}, its matrix {saved}")
        if self.terms is not None:
            lines.append(f"  terms       {self.terms} (Chebyshev)")
        for name, pair in (("bytes", self.bytes), ("operations", self.operations)):
            if pair is not None:
                lines.append(f"  {name:<11} {pair[0]:.3g} forward, {pair[1]:.3g} backward")
        lines += [f"  not {backend}: {reason}" for backend, reason in self.rejected.items()]
        return "\n".join(lines)


def explain(
    operator: str,
    *shape: int,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    iterations: int = 5,
) -> Explanation:
    """Which backend and kernel would serve a call with x of this shape, and why not the others.

    The shape is that of the first argument: x, the squeezes (B, D) of excitation_gates, or the
    features (B, P, D) of cocs_loss. For an operator that is made of others ask for those by name.
    Nothing is computed, and the device need not exist. Raises ValueError for an operator that does
    not exist and for a shape that the operator would refuse.
    """
    device = torch.device(device)
    if operator in PARTS:
        kernel = "what serves " + ", ".join(PARTS[operator])
        return Explanation(operator, shape, dtype, device, "that of its parts", kernel)
    if operator not in DISPATCHED:
        names = ", ".join((*DISPATCHED, *PARTS))
        raise ValueError(f"there is no operator {operator!r}; expected one of {names}")
    check_iterations(operator, iterations)
    x = _fake(shape, dtype, device)
    if operator == "dual_squeeze":
        check_map(operator, "x", x)
        return _explain_dual_squeeze(x, iterations)
    check_tensor(operator, "the first argument", x)
    if x.dim() != DISPATCHED[operator].count(",") + 1:
        raise ValueError(
            f"ccdn_ops.{operator}: the first argument has shape {shape}; "
            f"expected {DISPATCHED[operator]}"
        )
    # The other arguments decide nothing.
    chosen, rejected = _choice(operator, x, x, iterations)
    kernel = "none: the call would raise"
    if chosen == "reference":
        kernel = "plain PyTorch, its gradient by autograd"
    elif chosen is not None:
        implementation = registry.load(operator, chosen)
        assert implementation is not None
        kernel = implementation.forward.__module__
    return Explanation(operator, shape, dtype, device, chosen or "none", kernel, rejected=rejected)


def _fake(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(shape, dtype=dtype, device=device)


def _choice(operator: str, x: Tensor, *arguments: object) -> tuple[str | None, dict[str, str]]:
    """The backend that would serve the call, and why each of the others would not."""
    order = registry.ORDER.get(x.device.type, ("reference",))
    asked = registry.override()
    rejected, chosen = {}, None
    for backend in (asked,) if asked else order:
        reason = registry.why_not(operator, backend, x, *arguments)
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
            rejected[backend] = f"{chosen} comes first"
    return chosen, rejected


def _explain_dual_squeeze(x: Tensor, iterations: int) -> Explanation:
    shape, flat = tuple(x.shape), x.flatten(2)
    chosen, rejected = _choice("dual_squeeze", flat, iterations)
    _, channels, positions = flat.shape
    plan = dual_squeeze_plan(
        channels, positions, iterations, native.DTYPE_NAMES[x.dtype], x.device.type
    )
    literal = chosen in (None, "reference")
    implementation = registry.load("dual_squeeze", chosen) if chosen else None
    kernel = "none: the call would raise"
    if literal and chosen:
        kernel = "the literal iteration, its gradient by autograd"
    elif implementation is not None:
        kernel = implementation.forward.__module__
    return Explanation(
        "dual_squeeze",
        shape,
        x.dtype,
        x.device,
        chosen or "none",
        kernel,
        side=plan.side,
        saves_gram=plan.saves_gram,
        terms=None if literal else plan.terms,
        bytes=_bytes(flat, plan.side, plan.saves_gram),
        operations=(
            _literal_operations(flat, iterations) if literal else _polynomial_operations(flat, plan)
        ),
        rejected=rejected,
    )


def _bytes(x: Tensor, side: str, saves_gram: bool) -> tuple[int, int]:
    batch, channels, positions = x.shape
    size, wide = x.element_size(), native.accumulation_dtype(x.dtype).itemsize
    n = (channels if side == "channels" else positions) if saves_gram else 0
    saved = batch * (channels + 1 + n * n) * wide
    vectors = 2 * batch * channels * size
    return x.numel() * size + vectors + saved, 2 * x.numel() * size + vectors + saved


def _literal_operations(x: Tensor, iterations: int) -> tuple[int, int]:
    batch, channels, positions = x.shape
    products = max(3 * iterations - 3, 1)
    forward = 2 * batch * (channels**2 * positions + products * channels**3)
    # It recomputes the forward pass, then two products for each of its products.
    return forward, 3 * forward


def _polynomial_operations(x: Tensor, plan: DualSqueezePlan) -> tuple[int, int]:
    """Of the plan's algorithm; a kernel that does not use the rank factors takes more backward."""
    batch, channels, positions = x.shape
    n, m = sorted((channels, positions))
    gram = n * (n + 1) * m  # half of a symmetric product
    recurrence = 2 * (plan.terms - 1) * n * n
    ends = (2 if plan.root else 4) * channels * positions
    # The gradient by one n x n matrix, made of thin factors, or by the thin factors themselves.
    thin = 8 * (plan.rank + (0 if plan.root else 1)) * n * m
    dense = 4 * plan.rank * n * n + 2 * n * n * m
    gradient = dense if plan.dense_gradient else thin
    return batch * (gram + recurrence + ends), batch * (2 * recurrence + gradient + 2 * ends)


def report() -> str:
    """What is installed, what is built, what will be used, and why not the rest."""
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
    sizes = {2: (16, 256), 3: (16, 4, 256), 4: (16, 256, 16, 16)}
    for operator, expected in DISPATCHED.items():
        for device in ("cpu", "cuda"):
            shape = sizes[expected.rpartition("(")[2].count(",") + 1]
            lines.append(str(explain(operator, *shape, device=device)))
    lines += [f"{operator}: made of {', '.join(parts)}" for operator, parts in PARTS.items()]
    return "\n".join(lines)
