"""csrc/bindings.py: what it reads in csrc/common, what it generates, and that this is current."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ccdn_ops.backends import native

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bindings() -> ModuleType:
    path = ROOT / "csrc" / "bindings.py"
    if not path.exists():
        pytest.skip("the sources of the kernels are not here")
    spec = importlib.util.spec_from_file_location("bindings", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


HEADER = """
enum class Side : int { left = 0 };

struct Unseen {
  int steps[5];
};

// A comment with a brace {
struct Shape {
  Side side;
  int64_t batch, size;  // two
  const double* table;
  bool own = false;

  bool valid() const { return batch >= 0 && size >= 1; }
};

struct Weights {
  const void *first, *second;
};

int64_t twice_workspace_cpu(const Shape& shape, int workers);

Status twice_forward_cpu(const Shape& shape, const void* x,
                         const Weights& weights) noexcept;
"""


def test_declarations_are_read(bindings: ModuleType, tmp_path: Path) -> None:
    header = tmp_path / "twice.h"
    header.write_text(HEADER)
    declared = bindings.read([header])
    assert declared.shown() == ["Shape"]
    members = {member.name: member.type for member in declared.structs["Shape"]}
    assert members == {"side": "Side", "batch": "int64_t", "size": "int64_t", "table": "double*"}
    stubs = bindings.stubs(declared, [header])
    assert "class Shape:\n    def __init__(\n        self,\n        *,\n        side: int," in stubs
    assert "    weights_first: int,\n    weights_second: int,\n" in stubs
    operators = bindings.operators(declared, [header])
    assert "made.side = static_cast<Side>(side);" in operators
    call = "twice_forward_cpu(shape, at<void>(x), {at(weights_first), at(weights_second)})"
    assert f"return static_cast<int>({call});\n  }}, ReleaseGil());" in operators
    assert "return twice_workspace_cpu(shape, workers);\n  });" in operators


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("int twice_cpu(int x);", "twice_cpu returns int, not Status or int64_t"),
        ("Status twice_cpu(int (*x)(int));", "no plain declaration of twice_cpu"),
        ("struct Odd {\n  int x[2];\n};\nStatus odd_cpu(const Odd& odd);", r"found 'x\[2\]' in"),
    ],
)
def test_what_is_not_understood_is_refused(
    bindings: ModuleType, tmp_path: Path, line: str, message: str
) -> None:
    header = tmp_path / "odd.h"
    header.write_text(f"{line}\n")
    with pytest.raises(ValueError, match=message):
        bindings.read([header])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("left = 0", "left = 1"),
        ("int64_t batch, size;", "int64_t size, batch;"),
        ("double* table", "float* table"),
        ("*first, *second", "*second, *first"),
        ("const void* x", "void* x"),
    ],
)
def test_another_declaration_is_another_interface(
    bindings: ModuleType, tmp_path: Path, old: str, new: str
) -> None:
    header = tmp_path / "twice.h"

    def interface(text: str) -> str:
        header.write_text(text)
        return bindings.interface(bindings.read([header]), [header])

    assert old in HEADER
    found = interface(HEADER)
    declared = bindings.read([header])
    assert f'#define CCDN_INTERFACE "{found}"' in bindings.operators(declared, [header])
    assert f'interface: Literal["{found}"]' in bindings.stubs(declared, [header])
    assert interface(HEADER.replace(old, new)) != found
    assert interface(HEADER.replace("// two", "// 2").replace("  ", " ")) == found


def test_the_module_has_every_declared_function(bindings: ModuleType) -> None:
    module = native.module()
    if module is None:
        pytest.skip(str(native.why_missing()))
    devices = ("_cpu", "_cuda") if module.cuda_archs else ("_cpu",)
    declared = {function.name for function in bindings.read(bindings.headers()).functions}
    assert {name for name in dir(module) if name.endswith(("_cpu", "_cuda"))} == {
        name for name in declared if name.endswith(devices)
    }


def test_the_stubs_are_current(bindings: ModuleType) -> None:
    assert bindings.STUBS.read_text() == bindings.stub_file(), (
        "python csrc/bindings.py --write brings ccdn_ops/_C.pyi up to date"
    )


def test_a_package_without_the_digest_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "__file__", str(tmp_path / "backends" / "native.py"))
    with pytest.raises(ImportError, match=r"_C\.pyi has no line `interface: Literal\["):
        native.interface()


def test_structs_are_made_by_name() -> None:
    module = native.module()
    if module is None:
        pytest.skip(str(native.why_missing()))
    sizes = {"dtype": 0, "wide": False, "batch": 1, "size": 2, "iterations": 5, "slots": 0}
    module.NewtonSchulzShape(**sizes)
    with pytest.raises(TypeError):
        module.NewtonSchulzShape(*sizes.values())
    with pytest.raises(TypeError):
        module.NewtonSchulzShape(**sizes, channels=3)
    del sizes["size"]
    with pytest.raises(TypeError):
        module.NewtonSchulzShape(**sizes)
