"""Reads csrc/common/*.h and writes what would only repeat them.

The structs and functions that Python and the kernels share are declared there and nowhere else.
`operators` makes the C++ that binds them, which the build includes in csrc/bindings.cpp; `stubs`
makes their types, ccdn_ops/_C.pyi. Both hold the same digest of the declarations, by which Python
refuses a module that was built from others. After a change of a declaration, update the types:

    python csrc/bindings.py --write

It reads plain declarations only: a struct is members (`int64_t a, b;`) and inline functions, a
function is named `..._cpu` or `..._cuda` and returns Status or int64_t. Members with a default are
the kernels' own. A struct of nothing but `void*` is passed as its addresses, one after the other.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
STUBS = ROOT / "ccdn_ops" / "_C.pyi"
MARK = "# From here on written by csrc/bindings.py.\n"


class Member(NamedTuple):
    """A member of a struct or a parameter of a function."""

    type: str  # without const and references; with * for a pointer
    name: str


class Function(NamedTuple):
    name: str
    returns: str
    parameters: list[Member]


class Declarations(NamedTuple):
    enums: set[str]
    structs: dict[str, list[Member]]  # those that functions take, after their members' structs
    functions: list[Function]

    def addresses(self, name: str) -> bool:
        """Whether this is a struct of addresses."""
        return name in self.structs and all(m.type == "void*" for m in self.structs[name])

    def shown(self) -> list[str]:
        """The structs that Python makes."""
        return [name for name in self.structs if not self.addresses(name)]


def headers() -> list[Path]:
    return sorted((ROOT / "csrc" / "common").glob("*.h"))


def sources() -> list[Path]:
    """What the interface depends on apart from the headers."""
    torch = ROOT / "csrc" / "torch"
    return [ROOT / "csrc" / "bindings.cpp", *sorted(torch.glob("*.[hc]*"))]


def read(paths: list[Path]) -> Declarations:
    """What the headers declare; ValueError for what this file does not understand."""
    found = Declarations(set(), {}, [])
    bodies: dict[str, str] = {}

    def add(member: Member) -> None:
        if member.type in bodies and member.type not in found.structs:
            members = list(_members(bodies[member.type]))
            for inner in members:
                add(inner)
            found.structs[member.type] = members

    for path in paths:
        text = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
        found.enums.update(re.findall(r"enum class (\w+)", text))
        bodies.update(re.findall(r"^struct (\w+) \{(.*?)^\};", text, re.M | re.S))
        pattern = r"^(\w+) (\w+_(?:cpu|cuda))\(([^)]*)\)(?: noexcept)?;"
        for returns, name, inside in re.findall(pattern, text, re.M):
            parameters = [next(_declared(part)) for part in inside.split(",")]
            found.functions.append(Function(name, returns, parameters))
        missed = set(re.findall(r"\b(\w+_(?:cpu|cuda))\(", text)) - {
            f.name for f in found.functions
        }
        if missed:
            raise ValueError(f"{path.name}: no plain declaration of {', '.join(sorted(missed))}")
    for function in found.functions:
        if function.returns not in ("Status", "int64_t"):
            raise ValueError(f"{function.name} returns {function.returns}, not Status or int64_t")
        for parameter in function.parameters:
            add(parameter)
    return found


def _members(body: str) -> Iterator[Member]:
    body = re.sub(r"[^;{}]*\([^;{}]*\)[^;{}]*\{[^{}]*(\{[^{}]*\}[^{}]*)*\}", "", body)  # functions
    for declaration in body.split(";"):
        if declaration.strip() and "=" not in declaration:
            yield from _declared(declaration)


def _declared(text: str) -> Iterator[Member]:
    """The members of `const void *a, *b` or the parameter `const Shape& shape`."""
    words = re.fullmatch(r"\s*(?:const )?(\w+)([\s*&].*)", text, re.S)
    if words is None:
        raise ValueError(f"found {text.strip()!r}, expected a type and names")
    kind, names = words.groups()
    for name in names.split(","):
        plain = re.fullmatch(r"\s*([*&]?)\s*(\w+)\s*", name)
        if plain is None:
            raise ValueError(f"found {name.strip()!r} in {text.strip()!r}, expected a name")
        yield Member(kind + plain[1].replace("&", ""), plain[2])


def _taken(declared: Declarations, members: list[Member]) -> Iterator[tuple[Member, str]]:
    """What Python gives for the members, and the C++ type that pybind11 makes of it."""
    for member in members:
        if declared.addresses(member.type):
            for part in declared.structs[member.type]:
                yield Member("void*", f"{member.name}_{part.name}"), "Address"
        elif member.type.endswith("*"):
            yield member, "Address"
        elif member.type in declared.enums:
            yield member, "int"
        elif member.type in declared.structs:
            yield member, f"const {member.type}&"
        else:
            yield member, member.type


def _passed(declared: Declarations, member: Member) -> str:
    """The C++ expression of a member from what Python gave."""
    if declared.addresses(member.type):
        names = (f"at({member.name}_{part.name})" for part in declared.structs[member.type])
        return f"{{{', '.join(names)}}}"
    if member.type.endswith("*"):
        return f"at<{member.type[:-1]}>({member.name})"
    if member.type in declared.enums:
        return f"static_cast<{member.type}>({member.name})"
    return member.name


def interface(declared: Declarations, paths: list[Path]) -> str:
    """A digest of what Python and a module must agree on.

    It covers all code of the headers, of csrc/bindings.cpp and csrc/torch, including the values of
    enums, and how arguments are passed. Comments and spacing do not matter.
    """
    digest = hashlib.sha256(_binding(declared).encode())
    for path in (*sources(), *paths):
        code = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
        digest.update(" ".join(code.split()).encode())
    return digest.hexdigest()[:12]


def operators(declared: Declarations, paths: list[Path]) -> str:
    """The C++ that bindings.cpp includes: the digest, and the function that binds everything."""
    lines = ["// Written by csrc/bindings.py."]
    lines += [f'#define CCDN_INTERFACE "{interface(declared, paths)}"']
    lines += [f'#include "common/{path.name}"' for path in paths]
    return "\n".join([*lines, "", _binding(declared)])


def _binding(declared: Declarations) -> str:
    """The C++ function that binds all structs and functions."""
    lines = ["static void bind_operators(py::module_& module) {", "  using namespace ccdn;"]
    for name in declared.shown():
        members = declared.structs[name]
        taken = [f"{kind} {member.name}" for member, kind in _taken(declared, members)]
        named = [f'py::arg("{member.name}")' for member in members]
        lines += [
            f'  py::class_<{name}>(module, "{name}", py::module_local())',
            f"      .def(py::init([]({', '.join(taken)}) {{",
            f"             {name} made{{}};",
            *(f"             made.{m.name} = {_passed(declared, m)};" for m in members),
            "             return made;",
            "           }),",
            f"           py::kw_only(), {', '.join(named)})",
            f'      .def_property_readonly("address", [](const {name}& made) {{',
            "        return reinterpret_cast<Address>(&made);",
            "      });",
        ]
    for device in ("cpu", "cuda"):
        if device == "cuda":
            lines.append("#ifdef CCDN_CUDA_ARCHS")
        for function in declared.functions:
            if not function.name.endswith(device):
                continue
            taken = [
                f"{kind} {member.name}" for member, kind in _taken(declared, function.parameters)
            ]
            passed = [_passed(declared, member) for member in function.parameters]
            call, guard = f"{function.name}({', '.join(passed)})", ""
            if function.returns == "Status":
                call, guard = f"static_cast<int>({call})", ", ReleaseGil()"
            lines += [
                f'  module.def("{function.name}", []({", ".join(taken)}) {{',
                f"    return {call};",
                f"  }}{guard});",
            ]
    lines += ["#endif", "  py::dict packed;"]
    for function in declared.functions:
        lines += _packed(declared, function)
    return "\n".join([*lines, '  module.attr("packed") = packed;', "}"]) + "\n"


def _packed(declared: Declarations, function: Function) -> list[str]:
    """The address of a CPU kernel of (shape, addresses, workers), for csrc/torch and for `call`.

    For one that takes a struct, any number of addresses and, at the end, workers or not.
    """
    shape, *rest = function.parameters
    if function.returns != "Status" or not function.name.endswith("_cpu"):
        return []
    if shape.type == "CocsShape":  # its tensors are in a table: csrc/bindings.cpp
        return []
    taken = [*_taken(declared, rest)]
    if taken and taken[-1] == (Member("int", "workers"), "int"):
        taken.pop()
    for member, kind in taken:
        if kind != "Address":
            raise ValueError(f"{function.name} takes {kind} {member.name} in the middle")
    passed = ", ".join([f"*at<const {shape.type}>(shape)", *(_passed(declared, m) for m in rest)])
    return [
        f'  packed["{function.name}"] = reinterpret_cast<Address>(static_cast<Packed*>(',
        "      [](Address shape, const Address* addresses, [[maybe_unused]] int workers) {",
        *(f"        const Address {m.name} = addresses[{i}];" for i, (m, _) in enumerate(taken)),
        f"        return static_cast<int>({function.name}({passed}));",
        "      }));",
    ]


def stubs(declared: Declarations, paths: list[Path]) -> str:
    """The digest and the types of structs and functions: addresses and codes are int."""

    def typed(members: list[Member], indent: str) -> list[str]:
        found = []
        for member, kind in _taken(declared, members):
            name = kind.removeprefix("const ").removesuffix("&")
            found.append(f"{indent}{member.name}: {name if name in (*shown, 'bool') else 'int'},")
        return found

    shown = declared.shown()
    # ccdn_ops/backends/native.py reads it here.
    lines = [f'interface: Literal["{interface(declared, paths)}"]', ""]
    for name in shown:
        inside = typed(declared.structs[name], " " * 8)
        head = [f"class {name}:", "    def __init__(", "        self,", "        *,"]
        lines += [*head, *inside, "    ) -> None: ..."]
        lines += ["    @property", "    def address(self) -> int: ...", ""]
    for function in declared.functions:
        inside = typed(function.parameters, " " * 4)
        lines += [f"def {function.name}(", *inside, ") -> int: ..."]
    return "\n".join(lines) + "\n"


def stub_file() -> str:
    """ccdn_ops/_C.pyi as it should be: its head as it is, and the rest."""
    head = STUBS.read_text(encoding="utf-8").partition(MARK)[0]
    return head + MARK + "\n" + stubs(read(headers()), headers())


def digest() -> str:
    """The digest of the declarations as they are."""
    return interface(read(headers()), headers())


def main(arguments: list[str]) -> None:
    if arguments == ["--write"]:
        STUBS.write_text(stub_file(), encoding="utf-8")
    elif len(arguments) == 2 and arguments[0] == "--operators":
        Path(arguments[1]).write_text(operators(read(headers()), headers()), encoding="utf-8")
    else:
        raise SystemExit("usage: python csrc/bindings.py --write | --operators FILE")


if __name__ == "__main__":
    main(sys.argv[1:])
