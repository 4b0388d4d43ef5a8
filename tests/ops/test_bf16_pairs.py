"""Covariances of bfloat16 features in products of pairs, which AVX512-BF16 multiplies.

The instruction set is chosen once in a process, so each test runs its checks in another one, with
CCDN_CPU_ISA=avx512-bf16: with the instruction where the processor has it, else in products of
floats, which round as it does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from harness import Judge, features, step
from torch import Tensor

from ccdn_ops import covariance_pool, dual_squeeze, isqrt_cov, reference
from ccdn_ops.backends import native

pytestmark = pytest.mark.skipif(native.module() is None, reason=str(native.why_missing()))

# Odd and even numbers of positions and of channels, one panel and several, several strips.
SHAPES = [(3, 2), (65, 1), (65, 49), (33, 66), (9, 1101)]
FORMS = ("contiguous", "channels_last", "odd_rows")
BOUND = 16  # kMeanBound of csrc/cpu/engine/pair_gram.h


def operators(iterations: int) -> dict[str, tuple[Callable[..., object], Judge]]:
    options = {"iterations": iterations}
    squeeze = partial(reference.dual_squeeze, **options)
    root = partial(reference.isqrt_cov, **options)
    return {
        "covariance_pool": (covariance_pool, Judge(reference.covariance_pool, ["BDN"], ["BDD"])),
        "dual_squeeze": (partial(dual_squeeze, **options), Judge(squeeze, ["BDN"], ["BD", "BD"])),
        "isqrt_cov": (partial(isqrt_cov, **options), Judge(root, ["BDN"], ["BDD"])),
    }


def with_mean(x: Tensor, times: float) -> Tensor:
    """bfloat16 features whose squared means are so many times their variance."""
    deviations = x.double() - x.double().mean(2, keepdim=True)
    means = torch.linspace(-1, 1.5, x.shape[1], dtype=torch.float64)[:, None]
    wanted = times * deviations.square().mean(2).sum(1) / means.square().sum()
    return (deviations + wanted.sqrt()[:, None, None] * means).bfloat16()


def formed(x: Tensor, form: str) -> Tensor:
    """The same numbers in another memory order."""
    if form == "channels_last":
        return x.mT.contiguous().mT
    if form == "odd_rows":  # every other row begins in the middle of a word
        room = x.new_zeros(*x.shape[:2], x.shape[2] + 1 + x.shape[2] % 2)
        room[..., : x.shape[2]] = x
        return room[..., : x.shape[2]]
    return x


def check_rule(iterations: int) -> None:
    """The error rule of 16-bit inputs on hard data, up to the largest mean that pairs serve."""
    for channels, positions in SHAPES:
        kinds = {
            kind: features(kind, 2, channels, positions, dtype=torch.bfloat16)
            for kind in ("dominant", "nearly_constant")
        }
        if positions > 1:
            for kind in ("dominant", "rank_deficient"):
                x = features(kind, 2, channels, positions)
                kinds[f"{kind} at the bound"] = with_mean(x, 0.9 * BOUND)
        for name, (call, judge) in operators(iterations).items():
            for kind, x in kinds.items():
                case = judge.case(f"{name}({iterations}) of {kind} {channels} x {positions}", [x])
                for form in FORMS:
                    case.check(lambda x, call=call, form=form: call(formed(x, form)))


def bits(times: float) -> list[Tensor]:
    """What all operators return for features of such a mean, values and gradients."""
    found = []
    for channels, positions in [(65, 49), (33, 66)]:
        x = with_mean(features("noise", 2, channels, positions), times)
        for form in FORMS:
            for call, judge in operators(5).values():
                grads = judge.case("bits", [x]).grads
                found += step(lambda x, call=call, form=form: call(formed(x, form)), [x], grads)
    return found


def check_constant_channel() -> None:
    """Its variance is exactly 0, though the mean of the sample is small."""
    x = features("noise", 2, 9, 99).bfloat16()
    x[:, 4] = 1.7
    found = covariance_pool(x)
    assert not found[:, 4].any()
    assert not found[:, :, 4].any()


def run(code: str, isa: str | None, *arguments: str) -> str:
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("CCDN_CPU_ISA", None)
    if isa is not None:
        environment["CCDN_CPU_ISA"] = isa
    command = [sys.executable, "-c", f"import sys, torch, test_bf16_pairs as t\n{code}", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("iterations", [5, pytest.param(10, marks=pytest.mark.slow)])
def test_the_error_rule_holds(iterations: int) -> None:
    run(f"t.check_rule({iterations})", "avx512-bf16")


def test_a_constant_channel_has_no_variance() -> None:
    run("t.check_constant_channel()", "avx512-bf16")


@pytest.mark.parametrize(("times", "alike"), [(0.5 * BOUND, False), (1.5 * BOUND, True)])
def test_large_means_are_left_to_centred_features(
    tmp_path: Path, times: float, alike: bool
) -> None:
    """Their results are those of the usual kernels to the bit; those of small means are not."""
    found = []
    for isa in ("avx512-bf16", "x86-64-v4"):
        file = tmp_path / isa
        run(f"torch.save(t.bits({times}), sys.argv[1])", isa, str(file))
        found.append(torch.load(file))
    assert all(map(torch.equal, *found)) is alike


def test_it_runs_on_the_instruction() -> None:
    """By itself, where the processor has it; elsewhere the tests above emulated it."""
    found = {
        isa: run("print(t.native.module().cpu_isa())", isa).strip()
        for isa in (None, "x86-64-v4", "avx512-bf16")
    }
    flags = Path("/proc/cpuinfo")
    known = flags.exists() and "avx512_bf16" in flags.read_text(encoding="utf-8").split()
    if found["x86-64-v4"] != "x86-64-v4" or not known:
        pytest.skip("this processor has no AVX512-BF16")
    assert found[None] == found["avx512-bf16"] == "avx512-bf16"
