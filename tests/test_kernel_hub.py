"""tools/kernel_hub.py: a project that kernel-builder takes, and a package that needs no ccdn_ops.

What build.toml may say is that of kernel-builder's edition 5; what a kernel may import, and how, is
in the Hub's kernel requirements.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccdn_ops.ops.operator import OPERATORS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
GENERAL = {
    "name": str,
    "version": int,
    "edition": int,
    "license": str,
    "backends": list,
}
OPTIONAL = {"upstream": str, "source": str, "minver": str, "hub": dict, "python-depends": list}
BACKENDS = {"cann", "cpu", "cuda", "metal", "neuron", "rocm", "tpu", "xpu"}
NOARCH = {"pyext", "cuda_capabilities", "rocm_archs"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    command = [sys.executable, ROOT / "tools" / "kernel_hub.py", folder]
    subprocess.run(command, check=True)
    return folder


def faults(text: str) -> list[str]:
    """Of a build.toml for a universal kernel."""
    build = tomllib.loads(text)
    general = build.pop("general", {})
    noarch = build.pop("torch-noarch", None)
    found = [f"unknown table {name}" for name in build]
    found += [f"general has no {key}" for key in GENERAL if key not in general]
    for key, value in general.items():
        kind = {**GENERAL, **OPTIONAL}.get(key)
        if kind is None or type(value) is not kind:
            found.append(f"general.{key} is {value!r}")
    if not re.fullmatch("[a-z][-a-z0-9]*[a-z0-9]", str(general.get("name"))):
        found.append(f"the name is {general.get('name')!r}")
    backends = general.get("backends")
    if not backends or not set(backends) <= BACKENDS:
        found.append(f"the backends are {backends!r}")
    if general.get("edition") != 5:
        found.append(f"the edition is {general.get('edition')!r}")
    if noarch is None:
        found.append("no table torch-noarch")
    return found + [f"unknown key torch-noarch.{key}" for key in noarch or {} if key not in NOARCH]


def test_the_builders_configuration(project: Path) -> None:
    text = (project / "build.toml").read_text()
    assert faults(text) == []
    name = tomllib.loads(text)["general"]["name"].replace("-", "_")
    assert (project / "torch-ext" / name / "__init__.py").exists()
    assert (project / "flake.nix").exists()
    # kernel-builder writes it, and refuses a project that has one.
    assert not (project / "torch-ext" / name / "_ops.py").exists()


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("edition = 5", "edition = 4", "the edition is 4"),
        ('license = "apache-2.0"\n', "", "general has no license"),
        ("version = 0", 'version = "0"', "general.version is '0'"),
        ('"cuda"', '"vulkan"', r"the backends are \['vulkan'\]"),
        ("[torch-noarch]", "[torch]", "unknown table torch"),
        ("[general]", "[general]\nuniversal = true", "general.universal is True"),
        ("ccdn-triton", "ccdn_triton", "the name is 'ccdn_triton'"),
    ],
)
def test_what_the_builder_would_refuse(project: Path, right: str, wrong: str, fault: str) -> None:
    text = (project / "build.toml").read_text()
    assert text.count(right) == 1
    assert any(re.fullmatch(fault, said) for said in faults(text.replace(right, wrong)))


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported when it runs, relative ones as "."."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else str(node.module).partition(".")[0]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(other)
        else:
            yield from imports(node)


def test_imports_are_relative_or_of_torch(project: Path) -> None:
    allowed = {".", "torch", "triton", *sys.stdlib_module_names}
    files = list((project / "torch-ext").rglob("*.py"))
    assert len(files) > 30
    for file in files:
        source = file.read_text()
        assert set(imports(ast.parse(source))) <= allowed, file
        assert not re.search(r"torch\.ops\.ccdn\.\w+\(", source), file


USE = """
import importlib.util
import sys
import torch

sys.modules["ccdn_ops"] = None  # whoever imports it fails

def loaded(name):  # as the Hub's client loads a kernel: by its file, under a name of its own
    spec = importlib.util.spec_from_file_location(name, sys.argv[1] + "/__init__.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

kernel = loaded("ccdn_triton_of_a_build")
torch.manual_seed(0)
x = torch.randn(2, 6, 3, 4)
squeezes, gates = [torch.randn(2, 6) for _ in range(2)], torch.rand(2, 3, 6)
weights = [torch.randn(3, 2, *sizes) for sizes in ((2, 6), (2,), (6, 2), (6,))]
CALLS = {
    "dual_squeeze": (x,),
    "second_order_squeeze": (x,),
    "excitation_gates": (*squeezes, *weights),
    "multi_excite": (x, gates),
    "ctm": (x, weights),
    "cocs_loss": ([gates, gates[:, :, :4]],),
    "covariance_pool": (x,),
    "newton_schulz_roots": (x.flatten(2) @ x.flatten(2).mT,),
    "newton_schulz_sqrt": (x.flatten(2) @ x.flatten(2).mT,),
    "isqrt_cov": (x,),
}
assert set(CALLS) == set(kernel.__all__) - {"reference", "use_backend"}
OPTIONS = {"dual_squeeze", "second_order_squeeze", "ctm", "isqrt_cov"}
OPTIONS |= {"newton_schulz_sqrt", "newton_schulz_roots"}

def step(function, name):
    leaves, spec = torch.utils._pytree.tree_flatten(CALLS[name])
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    options = {"iterations": 2} if name in OPTIONS else {}
    found = function(*torch.utils._pytree.tree_unflatten(leaves, spec), **options)
    found = [found] if isinstance(found, torch.Tensor) else list(found)
    grads = torch.autograd.grad(found, leaves, [y.detach().cos() for y in found])
    return *(y.detach() for y in found), *grads

for name in CALLS:
    with kernel.use_backend("triton"):
        found = step(getattr(kernel, name), name)
    torch.testing.assert_close(found, step(getattr(kernel.reference, name), name))

# Another build next to it, whose namespace the builder has made.
open(sys.argv[1] + "/_ops.py", "w").write(
    "def add_op_namespace_prefix(name):\\n    return f'_ccdn_triton_cuda_1234567::{name}'\\n"
)
other = loaded("ccdn_triton_of_another_build")
with other.use_backend("triton"):
    torch.testing.assert_close(other.covariance_pool(x), kernel.reference.covariance_pool(x))
assert hasattr(torch.ops._ccdn_triton_cuda_1234567, "covariance_pool")
"""


def test_the_package_alone(project: Path) -> None:
    """In the interpreter, where ccdn_ops cannot be imported, against its own references."""
    pytest.importorskip("triton", reason="triton is not installed")
    assert all(f'"{name}"' in USE for name in OPERATORS)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-c", USE, str(project / "torch-ext" / "ccdn_triton")]
    done = subprocess.run(
        command, env=environment, cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
