"""Predicts what `make gpu-check` would measure on an H200, and writes the tables of docs/gpu.md.

    python benchmarks/gpu_predict.py                       # targets, operators and shapes
    python benchmarks/gpu_predict.py --parts "ctm 128x4"   # where the time of these calls goes
    python benchmarks/gpu_predict.py --write               # renews the tables of docs/gpu.md

gpu_model.py has the arithmetic; it reads gpu_static.json, so that --write follows
`gpu_static.py --update`. No device is needed, and none has confirmed a figure.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # from a bare checkout, where nothing is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gpu_eager
import torch
from gpu_launches import Call, arranged, inputs
from gpu_model import H200, Machine, Prediction, floors, predict
from gpu_targets import SUITES, TARGETS, Shape, Target
from static_record import Static

from ccdn_ops.ops.operator import OPERATORS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gpu.md"

# Operator, shape, type and passes of the page's rows.
BOTH, FORWARD = (False, True), (False,)
ROWS: list[tuple[str, Shape, str, tuple[bool, ...]]] = [
    *(
        ("dual_squeeze", shape, "float32", BOTH)
        for shape in (
            (32, 256, 64),
            (8, 256, 256),
            (128, 256, 256),
            (32, 512, 49),
            (32, 64, 1024),
            (32, 256, 1024),
            (32, 512, 1024),
        )
    ),
    ("ctm", (128, 4, 256, 16, 16), "float32", BOTH),
    ("ctm", (64, 4, 256, 32, 32), "float32", BOTH),
    ("multi_excite", (64, 4, 256, 32, 32), "float32", BOTH),
    ("excitation_gates", (128, 4, 256), "float32", BOTH),
    ("cocs_loss", (64, 4, 256), "float32", BOTH),
    ("covariance_pool", (64, 512, 1024), "bfloat16", FORWARD),
    ("covariance_pool", (128, 256, 256), "float32", BOTH),
    ("newton_schulz_sqrt", (32, 256), "float32", BOTH),
    ("newton_schulz_roots", (32, 256), "float32", BOTH),
    ("isqrt_cov", (32, 256, 256), "float32", BOTH),
    ("isqrt_cov", (32, 512, 49), "float32", BOTH),
]


# The baselines -----------------------------------------------------------------------------------


@cache
def eager(
    operator: str, shape: Shape, dtype: str, backward: bool
) -> tuple[gpu_eager.Operation, ...]:
    """What PyTorch launches for the reference, with its gradient where `backward`."""

    def literal(*tensors: torch.Tensor) -> Any:
        return OPERATORS[operator].reference(*arranged(operator, tensors))

    leaves = inputs(operator, shape, getattr(torch, dtype))
    return tuple(gpu_eager.operations(literal, leaves, backward))


def _device(operation: gpu_eager.Operation, machine: Machine, dtype: str) -> float:
    """Seconds of an operation's kernel, without its launch: PyTorch's float32 is no TF32."""
    rate = machine.peak("bfloat16" if dtype == "bfloat16" else "float32") * machine.product
    moved = operation.bytes / (machine.bandwidth * machine.attained)
    return max(moved, operation.operations / rate)


def eager_seconds(
    found: Sequence[gpu_eager.Operation], machine: Machine, dtype: str
) -> tuple[float, float]:
    """On a stream, where the host may be slower than the device, and from a CUDA graph."""
    device = sum(machine.launch + _device(o, machine, dtype) for o in found)
    return max(device, len(found) * machine.operation), device


def compiled_seconds(found: Sequence[gpu_eager.Operation], machine: Machine, dtype: str) -> float:
    """torch.compile: products unchanged, plus one kernel for everything between two of them.

    That kernel moves a third of what its operations would, one after another; the host launches
    each in half of an operation's time.
    """
    products = [o for o in found if o.product]
    between = sum(o.bytes for o in found if not o.product) / 3
    device = sum(_device(o, machine, dtype) for o in products)
    device += between / (machine.bandwidth * machine.attained) + 2 * len(products) * machine.launch
    return max(device, 2 * machine.call + len(products) * machine.operation)


# Figures -----------------------------------------------------------------------------------------


def row(static: Static, suite: str, shape: Shape, machine: Machine = H200) -> dict[str, Any]:
    """What gpu_targets.py would print of a shape, predicted."""
    operator = SUITES[suite].operator
    dtype = "bfloat16" if operator == "covariance_pool" else "float32"
    passes = FORWARD if operator in ("ctm", "covariance_pool") else BOTH
    calls = [Call(operator, shape, dtype, backward) for backward in passes]
    predictions = predict(static, calls, machine)
    device = sum(p.device for p in predictions)
    baseline = eager(operator, shape, dtype, len(passes) == 2)
    stream, graph = eager_seconds(baseline, machine, dtype)
    rates = [floors(call, machine) for call in calls]
    return {
        "suite": suite,
        "shape": list(shape),
        "ms": {
            "ours": 1e3 * max(device, len(calls) * machine.call),
            "ours, graph": 1e3 * device,
            "reference": 1e3 * stream,
            "reference, graph": 1e3 * graph,
            "compiled": 1e3 * compiled_seconds(baseline, machine, dtype),
        },
        # Held against what a copy and a library's product reach, as when it is measured.
        "floor ms": 1e3
        * max(
            sum(r[0] for r in rates) / machine.attained, sum(r[1] for r in rates) / machine.product
        ),
        "predictions": predictions,
    }


def target_row(static: Static, target: Target, machine: Machine = H200) -> list[str]:
    rows = [row(static, target.suite, shape, machine) for shape in target.shapes]
    figure = target.figure(rows)
    assert figure is not None
    met = "met" if target.met(figure[0]) else "missed"
    held = "" if met == "met" else holds(rows)
    return [
        target.operator,
        target.what,
        target.wanted,
        f"{figure[0]:.3g} {target.unit}",
        met,
        held,
    ]


def holds(rows: Sequence[dict[str, Any]]) -> str:
    """What takes most of the time of these rows: three kernels, launching, and the host."""
    shares: dict[str, float] = {}
    total = 0.0
    for one in rows:
        # Every shape counts alike.
        seconds = one["ms"]["ours"] / 1e3
        total += 1
        for prediction in one["predictions"]:
            for part in prediction.parts:
                name = f"{part.kernel.split()[0]} ({part.bound})"
                shares[name] = shares.get(name, 0) + part.seconds / seconds
            shares["launching"] = shares.get("launching", 0) + prediction.launching / seconds
        idle = seconds - one["ms"]["ours, graph"] / 1e3
        shares["the host"] = shares.get("the host", 0) + idle / seconds
    most = sorted(shares.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {100 * share / total:.0f} %" for name, share in most)


# Tables ------------------------------------------------------------------------------------------


def markdown(lines: Sequence[Sequence[str]], left: int) -> str:
    """With the first `left` columns flush left."""
    titles, *rest = lines
    ruler = ["---" if i < left else "---:" for i in range(len(titles))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (titles, ruler, *rest))


def targets_table(static: Static, machine: Machine = H200) -> str:
    titles = ["operator", "figure", "target", "predicted", "", "what takes the time"]
    return markdown([titles, *(target_row(static, t, machine) for t in TARGETS)], 2)


def _shape(call: Call) -> str:
    return "x".join(map(str, call.shape)) + (" bf16" if call.dtype == "bfloat16" else "")


def _predictions(static: Static, machine: Machine) -> list[Prediction]:
    return [
        prediction
        for operator, shape, dtype, passes in ROWS
        for prediction in predict(
            static, [Call(operator, shape, dtype, backward) for backward in passes], machine
        )
    ]


def operators_table(static: Static, machine: Machine = H200) -> str:
    titles = [
        "operator", "shape", "pass", "floor: bytes", "operations", "launches", "predicted",
        "eager", "longest launch", "bound by",
    ]  # fmt: skip
    lines = [titles]
    for p in _predictions(static, machine):
        call = p.call
        moved, operations = (1e6 * seconds for seconds in floors(call, machine))
        forward = eager(*call[:3], False)
        both = eager(*call[:3], True) if call.backward else forward
        of_eager = eager_seconds(both, machine, call.dtype)[0]
        of_eager -= eager_seconds(forward, machine, call.dtype)[0] if call.backward else 0.0
        lines.append(
            [
                call.operator,
                _shape(call),
                "backward" if call.backward else "forward",
                f"{moved:.1f}",
                f"{operations:.1f}",
                f"{1e6 * p.launching:.0f} ({len(p.parts)})",
                f"{1e6 * p.device:.0f}",
                f"{1e6 * of_eager:.0f}",
                f"{p.bound.kernel} {1e6 * p.bound.seconds:.0f}",
                p.bound.bound,
            ]
        )
    return markdown(lines, 3)


def machine_table(machine: Machine = H200) -> str:
    m = machine
    lines = [
        ["constant", "value"],
        ["multiprocessors, clock", f"{m.multiprocessors}, {m.clock / 1e9:.3f} GHz"],
        [
            "device memory",
            f"{m.bandwidth / 1e12:.1f} TB/s, of which a copy reaches {m.attained:.0%}",
        ],
        [
            "second-level cache",
            f"{m.cache / 1e6:.0f} MB are there for the next launch, "
            f"{m.cache_bandwidth / 1e12:.1f} TB/s",
        ],
        [
            "a round trip",
            f"{m.memory_latency} clocks to device memory, {m.cache_latency} to the cache",
        ],
        [
            "a barrier",
            f"{m.barrier} clocks, of a cluster {m.cluster_barrier}, of memory {m.fence}; "
            f"what another block sends arrives after {m.arrival}",
        ],
        [
            "tensor cores",
            f"{m.peak('bfloat16') / 1e12:.0f} TFLOP/s in 16 bits, "
            f"{m.peak('tf32') / 1e12:.0f} in TF32; "
            f"mma.sync reaches {m.mma:.0%}, wgmma {m.wgmma:.0%}",
        ],
        ["float32, float64", f"{m.peak('float32') / 1e12:.0f} TFLOP/s, half of it"],
        [
            "a launch behind another",
            f"{1e6 * m.launch:.1f} us, of one that overlaps {1e6 * m.overlapping:.1f} us",
        ],
        [
            "the host",
            f"{1e6 * m.operation:.0f} us for an operation of PyTorch, "
            f"{1e6 * m.call:.0f} us for a pass of ours",
        ],
        ["products of PyTorch", f"{m.product:.0%} of the peak, float32 without TF32"],
    ]
    return markdown(lines, 2)


def parts_text(static: Static, pattern: str, machine: Machine = H200) -> str:
    lines = []
    for prediction in _predictions(static, machine):
        if not re.search(pattern, str(prediction.call)):
            continue
        lines.append(f"{prediction.call}: {1e6 * prediction.device:.1f} us")
        for part in prediction.parts:
            time = f"{1e6 * part.seconds:8.2f} us"
            lines.append(f"    {part.kernel:30} {time}  {part.bound}: {part.arithmetic}")
    return "\n".join(lines)


def tables(static: Static, machine: Machine = H200) -> dict[str, str]:
    """What stands between the page's comments, by their names."""
    example = parts_text(static, "^ctm 128x4x256x16x16 .* forward", machine)
    compilers = ", ".join(sorted(set(static.compiler.values())))
    return {
        "targets": targets_table(static, machine),
        "operators": operators_table(static, machine),
        "machine": machine_table(machine),
        "example": f"```text\n{example}\n```",
        "compiler": f"The record is of nvcc {compilers}.",
    }


def renewed(page: str, found: dict[str, str]) -> str:
    """The page with these tables between `<!-- name -->` and `<!-- end of name -->`."""
    for name, table in found.items():
        pattern = rf"(<!-- {name} -->\n).*?(\n<!-- end of {name} -->)"
        page, count = re.subn(
            pattern, lambda match, table=table: match[1] + table + match[2], page, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"the page has {count} places for {name}; expected 1")
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", metavar="PATTERN", help="the launches of these calls")
    parser.add_argument("--write", action="store_true", help="renew docs/gpu.md")
    options = parser.parse_args(arguments)
    static = Static.read()
    if options.parts is not None:
        print(parts_text(static, options.parts))
        return 0
    found = tables(static)
    if options.write:
        PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
        print(f"wrote {PAGE}")
    else:
        print(found["targets"], found["operators"], sep="\n\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
