"""The C++ kernels' own features: threads, scratch memory, instruction sets, conversions.

Their results are tested in test_dual_squeeze.py, which runs on them if they are built.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from harness import check_close, err, features, reference_errors, truth, upstream
from torch import Tensor

from ccdn_ops import reference
from ccdn_ops.backends import native, structs
from ccdn_ops.plans import DualSqueezePlan, dual_squeeze_plan
from ccdn_ops.precision import DTYPE_NAMES, accumulation_dtype

pytestmark = pytest.mark.skipif(native.module() is None, reason=str(native.why_missing()))

# Small side in rows and in columns of memory, dense and thin gradients, several packed chunks.
SHAPES = [(3, 2), (40, 33), (33, 40), (65, 300), (300, 65), (1, 9), (9, 1)]
GUARD = 4096


def guarded(size: int) -> Tensor:
    return torch.full((size + 2 * GUARD,), 0xFF, dtype=torch.uint8)


def inside(room: Tensor, like: Tensor) -> Tensor:
    """The guarded memory as a tensor with the sizes, strides and dtype of `like`."""
    flat = room[GUARD : len(room) - GUARD].view(like.dtype)
    return flat.as_strided(like.shape, like.stride())


class Run:
    """Forward and backward through the native entry points, every buffer between guards of 0xFF."""

    def __init__(
        self,
        x: Tensor,
        iterations: int = 5,
        workers: int = 1,
        plan: DualSqueezePlan | None = None,
    ) -> None:
        batch, channels, positions = x.shape
        name = DTYPE_NAMES[x.dtype]
        self.plan = plan or dual_squeeze_plan(channels, positions, iterations, name, "cpu")
        n = channels if self.plan.side == "channels" else positions
        n = n if self.plan.saves_gram else 0
        wide = accumulation_dtype(x.dtype)
        self.rooms: list[Tensor] = []
        self.first, self.second = (self.buffer(x.new_empty(batch, channels)) for _ in range(2))
        self.mean = self.buffer(x.new_empty(batch, channels, dtype=wide))
        self.trace = self.buffer(x.new_empty(batch, dtype=wide))
        self.gram = self.buffer(x.new_empty(batch, n, n, dtype=wide))
        self.grad = self.buffer(x)
        self.grad_first = upstream(x, seed=3)
        self.grad_second = upstream(x, seed=4)

        module = native.require()
        shape = structs.dual_squeeze_shape(x, self.plan)
        saved = (self.mean, self.trace, self.gram)
        scratch = self.scratch(module.dual_squeeze_workspace_cpu(shape, workers, False))
        outputs = (self.first, self.second, *saved)
        native.launch(
            "forward", module.dual_squeeze_forward_cpu, shape, x, *outputs, scratch, workers
        )
        scratch = self.scratch(module.dual_squeeze_workspace_cpu(shape, workers, True))
        inputs = (self.grad_first, self.grad_second, x, *saved)
        native.launch(
            "backward",
            module.dual_squeeze_backward_cpu,
            shape,
            *inputs,
            self.grad,
            scratch,
            workers,
        )

    def buffer(self, like: Tensor) -> Tensor:
        extent = sum((n - 1) * s for n, s in zip(like.shape, like.stride(), strict=True)) + 1
        self.rooms.append(guarded(extent * like.element_size() if like.numel() else 0))
        return inside(self.rooms[-1], like)

    def scratch(self, size: int) -> Tensor:
        self.rooms.append(guarded(size))
        return self.rooms[-1][GUARD : GUARD + size]

    @property
    def results(self) -> tuple[Tensor, ...]:
        return self.first, self.second, self.mean, self.trace, self.gram, self.grad

    def assert_guards_untouched(self) -> None:
        for room in self.rooms:
            assert (room[:GUARD] == 0xFF).all()
            assert (room[len(room) - GUARD :] == 0xFF).all()


def assert_same_bits(a: Run, b: Run) -> None:
    for x, y in zip(a.results, b.results, strict=True):
        assert torch.equal(x, y)


def channels_last(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("channels", "positions"), SHAPES)
def test_nothing_is_written_outside(channels, positions, dtype, layout, workers) -> None:
    for batch in (1, 4):
        x = layout(features("dominant", batch, channels, positions, dtype=dtype))
        run = Run(x, workers=workers)
        run.assert_guards_untouched()
        assert all(y.isfinite().all() for y in run.results)  # and everything inside is


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("channels", "positions"), SHAPES)
def test_bits_do_not_depend_on_the_thread_count(channels, positions, dtype, layout) -> None:
    for batch in (1, 3):
        x = layout(features("dominant", batch, channels, positions, dtype=dtype))
        alone = Run(x, workers=1)
        for workers in (2, 3, 8):  # samples to threads, and several threads to a sample
            assert_same_bits(Run(x, workers=workers), alone)


@pytest.mark.parametrize(("channels", "positions"), [(40, 33), (33, 300)])
def test_bits_do_not_depend_on_other_samples(channels: int, positions: int) -> None:
    x = features("dominant", 5, channels, positions)
    alone = Run(x[2:3])
    x[0], x[4] = float("nan"), float("inf")
    x[1] = 7
    together = Run(x, workers=2)
    # The upstream gradients are drawn by shape, so only what does not depend on them.
    for one, all_ in zip(alone.results[:5], together.results[:5], strict=True):
        assert torch.equal(one[0], all_[2])
    assert together.second[0].isnan().all()
    assert (together.second[1] == 0).all()
    assert together.grad[[0, 4]].isnan().any()
    assert together.grad[[1, 2, 3]].isfinite().all()


@pytest.fixture
def serial() -> Iterator[None]:
    module = native.require()
    module.set_parallel_for(0)
    assert not module.has_parallel_for()
    yield
    module.set_parallel_for(native._torch_parallel_for() or 0)


@pytest.mark.usefixtures("serial")
@pytest.mark.parametrize("batch", [1, 5])
def test_without_the_pool_of_torch_the_work_is_done_serially(batch: int) -> None:
    x = features("dominant", batch, 40, 33)
    run = Run(x, workers=3)
    run.assert_guards_untouched()
    native.require().set_parallel_for(native._torch_parallel_for() or 0)
    assert_same_bits(run, Run(x, workers=3))


@pytest.mark.skipif(platform.system() != "Linux", reason="libtorch_cpu.so is looked for")
def test_the_pool_of_torch_is_found() -> None:
    assert native.require().has_parallel_for()


@pytest.mark.parametrize("iterations", range(1, 11))
@pytest.mark.parametrize(("channels", "positions"), [(5, 7), (40, 33), (33, 40), (65, 300)])
def test_float64_is_exact_to_rounding(channels: int, positions: int, iterations: int) -> None:
    x = features("dominant", 2, channels, positions, dtype=torch.float64)
    run = Run(x, iterations)
    leaf = x.clone().requires_grad_()
    outputs = reference.dual_squeeze(leaf, iterations)
    (grad,) = torch.autograd.grad(outputs, leaf, (run.grad_first, run.grad_second))
    # Beyond K = 7 rounding shows: the derivative of m terms, each right to a rounding, is right to
    # m^2 of them (Markov's inequality).
    tolerance = 1e-13 if iterations <= 7 else run.plan.terms**2 * 2**-52
    assert err(run.first, outputs[0].detach()) <= 1e-15
    assert err(run.second, outputs[1].detach()) <= tolerance
    assert err(run.grad, grad) <= tolerance


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize(("channels", "positions"), SHAPES[:5])
def test_dense_and_thin_gradients_agree(channels: int, positions: int, layout) -> None:
    x = layout(features("dominant", 2, channels, positions, dtype=torch.float64))
    plan = dual_squeeze_plan(channels, positions, 5, "float64", "cpu")
    dense, thin = (
        Run(x, plan=dataclasses.replace(plan, dense_gradient=dense)) for dense in (True, False)
    )
    assert err(dense.grad, thin.grad) <= 1e-13
    dense.assert_guards_untouched()
    thin.assert_guards_untouched()


@pytest.mark.parametrize(("channels", "positions"), SHAPES[:5])
def test_the_matrix_can_be_recomputed(channels: int, positions: int) -> None:
    x = features("dominant", 2, channels, positions, dtype=torch.float64)
    plan = dual_squeeze_plan(channels, positions, 5, "float64", "cpu")
    kept, recomputed = (
        Run(x, plan=dataclasses.replace(plan, saves_gram=saves)) for saves in (True, False)
    )
    assert recomputed.gram.numel() == 0
    assert err(recomputed.grad, kept.grad) <= 1e-13
    recomputed.assert_guards_untouched()


@pytest.mark.parametrize("side", ["channels", "positions"])
@pytest.mark.parametrize(("channels", "positions"), SHAPES[:5])
def test_either_side_serves_any_shape(channels: int, positions: int, side) -> None:
    x = features("dominant", 2, channels, positions, dtype=torch.float64)
    sizes = (1, 2) if side == "channels" else (2, 1)  # whose plan has the side's series
    plan = dual_squeeze_plan(*sizes, 5, "float64", "cpu")
    usual, other = Run(x), Run(x, plan=plan)
    assert err(other.second, usual.second) <= 1e-13
    assert err(other.grad, usual.grad) <= 1e-13


CHECK_ISA = """
import torch
from test_cpu_kernels import SHAPES, check_float32
for shape in SHAPES[1:5]:
    check_float32(*shape)
"""


def check_float32(channels: int, positions: int) -> None:
    x = features("dominant", 2, channels, positions)
    run = Run(x)
    grads = (run.grad_first, run.grad_second)
    exact = truth(x, grads, 5)
    allowed = [max(2 * e, 5e-7) for e in reference_errors(x, grads, 5, exact)]
    check_close((run.first, run.second, run.grad), exact, tuple(allowed))


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="one instruction set is built here"
)
@pytest.mark.parametrize("isa", ["base", "x86-64-v3"])
def test_lesser_instruction_sets(isa: str) -> None:
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = {**os.environ, "CCDN_CPU_ISA": isa, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", CHECK_ISA], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_number_is_read_and_written(dtype: torch.dtype) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    x = bits.view(dtype).reshape(1, 2**16, 1)
    run = Run(x.contiguous())
    finite = x[0, :, 0].isfinite()
    assert torch.equal(run.mean[0, finite], x[0, finite, 0].float())
    assert torch.equal(run.first[0, finite], x[0, finite, 0])
    assert run.first[0, x[0, :, 0].isnan()].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_results_are_rounded_to_nearest(dtype: torch.dtype) -> None:
    x = torch.ones(1, 2**14, 3, dtype=dtype)  # constant: the gradient is grad_first / 3
    run = Run(x)
    wanted = (run.grad_first.double() / 3).float().to(dtype)
    assert torch.equal(run.grad, wanted.unsqueeze(2).expand_as(x))


@pytest.mark.parametrize("other", [torch.float32, torch.bfloat16, torch.float16])
def test_gates_in_two_accumulation_types_give_a_status(other: torch.dtype) -> None:
    run = native.require().excitation_gates_forward_cpu
    for dtypes in ((torch.float64, other), (other, torch.float64)):
        weight = torch.empty(1, 1, 1, 1, dtype=dtypes[1])
        assert run(structs.excitation_gates_shape(dtypes[0], 1, weight), *[0] * 10) == 1


@pytest.mark.parametrize("maps", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_gates_in_a_third_type_give_a_status(maps: torch.dtype) -> None:
    """Those of multi_excite: neither the maps' own nor what they are accumulated in."""
    module, x = native.require(), torch.empty(1, 3, 2, 2, dtype=maps)
    for gates in {*structs.DTYPE_CODES} - {maps, accumulation_dtype(maps)}:
        shape = structs.multi_excite_shape(x, 4, gates, 1)
        assert module.multi_excite_forward_cpu(shape, *[0] * 3) == 1
        assert module.multi_excite_backward_cpu(shape, *[0] * 5) == 1


def test_bad_arguments_give_a_status() -> None:
    x = features("noise", 1, 3, 4)
    plan = dual_squeeze_plan(3, 4, 5, "float32", "cpu")
    module, none = native.require(), torch.empty(0)
    code = structs.DTYPE_CODES[torch.float32]

    def forward(dtype: int, terms: int, channels: int = 3) -> int:
        sizes = {"batch": 1, "channels": channels, "positions": 4}
        strides = {"stride_b": 12, "stride_d": 4, "stride_n": 1}
        form = {"side": 0, "saves_gram": True, "dense_gradient": False}
        series = {"terms": terms, "rank": plan.rank, "coefficients": plan.table.ctypes.data}
        shape = module.DualSqueezeShape(dtype=dtype, **sizes, **strides, **form, **series)
        return module.dual_squeeze_forward_cpu(shape, *[none.data_ptr()] * 7, 1)

    assert forward(9, plan.terms) == 1
    assert forward(code, 1) == 2
    assert forward(code, plan.terms, channels=0) == 2
    with pytest.raises(RuntimeError, match=r"ccdn::it failed in its native kernel: .* \(2\)"):
        native.launch("it", lambda *_: forward(code, 1), x)
