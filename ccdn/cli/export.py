"""Export a trained network: `ccdn export --weights W --out model.onnx`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ccdn.cli.arguments import add_weights, tell_bundled
from ccdn.cli.command import command

EXAMPLES = """\
examples:
  ccdn export --out face.onnx                                    the bundled weights
  ccdn export --weights runs/a/last.pt --out face.onnx           for onnxruntime
  ccdn export --weights runs/a/last.pt --out face.pt2            torch.export, torch alone
  ccdn export --weights runs/a/last.pt --out face.pt2 --keep-operators
  ccdn export --weights runs/a/last.pt --out face.safetensors    for ccdn.load
  ccdn export --weights runs/a/last.pt --out face.safetensors --half    half the size

.onnx and .pt2 take crops, float32 (batch, 3, S, S) RGB in [0, 1], any batch size, and return
landmarks (batch, L, 2), x then y, in [0, 1] of the crop; an .onnx file also spread (batch, L), the
error that the network expects of each point, if it has learned one. They consist of standard
operators, with the last three steps of the second-order squeeze on a vector; --keep-operators keeps
those of ccdn_ops in a .pt2, which is then faster but needs `import ccdn_ops` before loading. The
result is run and compared with the network; if they differ by more than the tolerance, nothing is
written.

exit codes: 0 done, 1 the result differs from the network, 2 wrong usage or weights, 130 interrupted
"""
FORMATS = ("onnx", "pt2", "safetensors")
OPSET = 18
OPSETS = range(18, 24)  # torch's exporter writes 18 if less is requested
# Of a coordinate, in [0, 1] of the crop; --half is a quarter of a pixel of 128.
TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-3


@command("ccdn export", ModuleNotFoundError, ValueError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_args(arguments)
    out = Path(options.out)
    kind = options.format or out.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise ValueError(
            f"--out {out}: expected the suffix .onnx, .pt2 or .safetensors, or --format;"
            f" found {out.suffix or 'no suffix'!r}"
        )
    if options.keep_operators and kind != "pt2":
        raise ValueError(f"--keep-operators goes with pt2, found {kind}")
    if options.half and kind != "safetensors":
        raise ValueError(f"--half goes with safetensors, found {kind}")
    if options.opset is not None and kind != "onnx":
        raise ValueError(f"--opset goes with onnx, found {kind}")
    opset = OPSET if options.opset is None else options.opset
    if opset not in OPSETS:
        raise ValueError(f"--opset {opset}: expected {OPSETS[0]} to {OPSETS[-1]}")
    tolerance = options.tolerance
    if tolerance is None:
        tolerance = HALF_TOLERANCE if options.half else TOLERANCE
    from ccdn.checkpoint.bundled import DEFAULT_WEIGHTS
    from ccdn.inference.export import BATCHES, ExportError, export

    tell_bundled("ccdn export", options.weights)
    weights = DEFAULT_WEIGHTS if options.weights is None else Path(options.weights)
    try:
        difference = export(
            weights, out, kind, tolerance, options.keep_operators, options.half, opset
        )
    except ExportError as error:
        print(f"ccdn export: {error}", file=sys.stderr)
        return 1
    print(
        f"written: {out} ({out.stat().st_size / 2**20:.1f} MiB); its results differ from the"
        f" network's by at most {difference:.1e} of the crop, on batches of"
        f" {', '.join(map(str, BATCHES))}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccdn export",
        description="Write a trained network as ONNX, torch.export or safetensors.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_weights(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="what to write")
    parser.add_argument("--format", choices=FORMATS, help="default: by the suffix of --out")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest difference of a coordinate, in [0, 1] of the crop (default:"
        f" {TOLERANCE:g}, with --half {HALF_TOLERANCE:g})",
    )
    parser.add_argument(
        "--keep-operators",
        action="store_true",
        help="keep the operators of ccdn_ops in a .pt2",
    )
    parser.add_argument(
        "--opset",
        type=int,
        metavar="N",
        help=f"of an .onnx, {OPSETS[0]} to {OPSETS[-1]} (default: {OPSET})",
    )
    parser.add_argument(
        "--half", action="store_true", help="matrices and kernels of a .safetensors as float16"
    )
    return parser
