"""Writes the Triton kernels as a project of Hugging Face's kernel-builder, out of this tree.

    python tools/kernel_hub.py build/kernel-hub

build.toml names a universal kernel (`torch-noarch`): Python and Triton, no native module. The
package torch-ext/ccdn_triton has the public functions with their gradients, the references and the
Triton backend. Its files are those of ccdn_ops that these import, with two differences: imports are
relative, because the Hub loads a kernel under a name of its own, and what needs more than torch,
Triton and Python is replaced: chebyshev.py, which makes its tables with NumPy, by the tables, and
names.py by a namespace of the build's own. Nothing of it is kept in the repository.
"""

from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # from a checkout, where nothing is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ccdn_ops import chebyshev
from ccdn_ops.ops.operator import OPERATORS

ROOT = Path(__file__).resolve().parents[1]
NAME = "ccdn-triton"
MODULE = NAME.replace("-", "_")
VERSION = 0  # the Hub's for what is not stable yet
LEFT_OUT = ("cpu", "cuda")  # backends of the native module

BUILD = f"""[general]
name = "{NAME}"
version = {VERSION}
edition = 5
license = "apache-2.0"
backends = ["cuda"]

[torch-noarch]
"""
FLAKE = """{
  description = "ccdn-triton";
  inputs.kernel-builder.url = "github:huggingface/kernels";
  outputs = { self, kernel-builder }:
    kernel-builder.lib.genKernelFlakeOutputs { inherit self; path = ./.; };
}
"""
CARD = f"""# {NAME}
Second-order squeezes, excitation and matrix roots of the Cross-order Cross-semantic Deep Network in
Triton, with gradients: {", ".join(f"`{name}`" for name in sorted(OPERATORS))}. sm_80 or newer;
float32, bfloat16 and float16. Python 3.10 and PyTorch 2.10 or newer.
"""
INIT = '''"""{doc}"""

from . import reference
from .backends.registry import use_backend
{imports}

__all__ = [{names}, "reference", "use_backend"]
'''
NAMES = '''"""What the package is called, and its raw operators: torch.ops.<NAMESPACE>."""

try:  # kernel-builder makes a namespace for each build
    from ._ops import add_op_namespace_prefix
except ImportError:
    NAMESPACE = "_{module}_{digest}"
else:
    NAMESPACE = add_op_namespace_prefix("").removesuffix("::")
PACKAGE = __name__.rpartition(".")[0]
'''
TABLES = '''"""The tables of the Chebyshev series, by the number of iterations, that Triton uses.

(2 + 2 rank, terms) little-endian float64 numbers each.
"""

import base64

import torch

Precision = str


def table(iterations, precision, root):
    """(2 + 2 rank, terms) of float32 without the root's series; ValueError for another."""
    if precision != "float32" or root or iterations not in _TABLES:
        raise ValueError(f"no table of {{iterations}}, {{precision}}, root {{root}}")
    if iterations not in _made:
        terms, numbers = _TABLES[iterations]
        found = torch.frombuffer(bytearray(base64.b64decode(numbers)), dtype=torch.float64)
        _made[iterations] = found.view(-1, terms)
    return _made[iterations]


_made: dict[int, torch.Tensor] = {{}}
_TABLES = {{
{tables}}}
'''
COMPILED = "backends/compiled.py"
NOT_COMPILED = '''"""Direct calls in C++, which this package does not have."""


def module() -> None:
    """None."""
    return None
'''
TEST = f'''"""On a device, or with TRITON_INTERPRET=1 on the CPU."""

import pytest
import torch
import {MODULE}


@pytest.mark.kernels_ci
@pytest.mark.parametrize("positions", [49, 256])
def test_dual_squeeze(positions):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(2, 64, positions, device=device)
    with {MODULE}.use_backend("triton"):
        found = {MODULE}.dual_squeeze(x)
    torch.testing.assert_close(found, {MODULE}.reference.dual_squeeze(x), rtol=1e-5, atol=1e-6)
'''


def tables() -> str:
    lines = []
    for k in range(1, 11):
        table = chebyshev.table(k, "float32", False)
        numbers = base64.b64encode(table.astype("<f8").tobytes()).decode()
        lines.append(f'    {k}: ({table.shape[1]}, "{numbers}"),\n')
    return "".join(lines)


def sources() -> dict[str, str]:
    """The package's files by their paths in it."""
    parts = ("__init__", "reference", "triton")
    roots = [f"ops/{name}/{part}.py" for name in OPERATORS for part in parts]
    shared = [f.name for f in sorted((ROOT / "ccdn_ops/backends/triton").glob("*.py"))]
    waiting = ["reference.py", "names.py", "ops/__init__.py", *roots]
    waiting += [f"backends/triton/{name}" for name in shared]
    found: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        file = ROOT / "ccdn_ops" / path
        if path in found or path == COMPILED or not file.exists():
            continue
        found[path] = file.read_text(encoding="utf-8")
        waiting += imported(found[path])
        waiting.append(f"{path.removesuffix('.py')}_kernels.py")  # which launcher.kernels imports
        waiting += [f"{folder.as_posix()}/__init__.py" for folder in Path(path).parents][:-1]
    del found["names.py"], found["chebyshev.py"]
    own = [path for path in found if Path(path).stem in LEFT_OUT or "native" in path]
    if own:
        raise SystemExit(f"kernel_hub: these need the native module: {', '.join(own)}")
    found = {path: relative(path, source) for path, source in found.items()}
    found["__init__.py"] = init()
    found[COMPILED] = NOT_COMPILED
    found["chebyshev.py"] = TABLES.format(tables=tables())
    digest = hashlib.sha256("".join(map(str, sorted(found.items()))).encode()).hexdigest()[:10]
    found["names.py"] = NAMES.format(module=MODULE, digest=digest)
    return found


def imported(source: str) -> Iterator[str]:
    """The files of ccdn_ops that a module imports, and others that do not exist."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ccdn_ops"):
            folder = "/".join((node.module or "").split(".")[1:])
            yield f"{folder}.py"
            yield f"{folder}/__init__.py"
            for name in node.names:
                yield f"{folder}/{name.name}.py".lstrip("/")


def relative(path: str, source: str) -> str:
    """With relative imports of what is in the package."""
    dots = "." * (path.count("/") + 1)
    return re.sub(
        r"^(\s*)from ccdn_ops(?:\.([\w.]+))? import",
        lambda found: f"{found[1]}from {dots}{found[2] or ''} import",
        source,
        flags=re.MULTILINE,
    )


def init() -> str:
    names = sorted(OPERATORS)
    return INIT.format(
        doc="The operators of CCDN in Triton, with gradients, and their references.",
        imports="\n".join(f"from .ops.{name} import {name}" for name in names),
        names=", ".join(f'"{name}"' for name in names),
    )


def write(folder: Path) -> None:
    """The project in a folder, which must be empty or a project written before."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "build.toml").exists():
        raise SystemExit(f"kernel_hub: {folder} is neither empty nor a kernel-builder project")
    shutil.rmtree(folder / "torch-ext", ignore_errors=True)
    files = {f"torch-ext/{MODULE}/{path}": source for path, source in sources().items()}
    files |= {"build.toml": BUILD, "flake.nix": FLAKE, "CARD.md": CARD}
    files |= {"tests/__init__.py": "", f"tests/test_{MODULE}.py": TEST}
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "LICENSE", folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
