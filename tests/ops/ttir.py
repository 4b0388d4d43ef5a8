"""Runs what Triton compiles a kernel to: TTIR, translated line by line to Python with NumPy.

`compiled(text)` makes a function of the module that Triton prints after the passes that no device
takes part in; `ttir_numbers.py` has the arithmetic. The interpreter of Triton runs a kernel's
Python instead, where variables are names; here they are what the compiler made of them. An
operation that is not known is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ttir_numbers as numbers
from torch import Tensor
from ttir_numbers import DTYPES, Clock, KernelError, Memory, Pointer

TYPE = re.compile(r"tensor<((?:\d+x)*)(.+)>$")
ATTRIBUTES = re.compile(r"<?\{[^{}]*\}>?")
NAME = re.compile(r"%(\w+)(?:#(\d+))?")
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
INFIX = {
    "arith.addi": "+",
    "arith.subi": "-",
    "arith.muli": "*",
    "arith.andi": "&",
    "arith.ori": "|",
    "arith.xori": "^",
    "arith.addf": "+",
    "arith.subf": "-",
    "arith.mulf": "*",
    "arith.divf": "/",
    "tt.addptr": "+",
}
CALLED = {
    "arith.divsi": "numbers.divsi",
    "arith.remsi": "numbers.remsi",
    "arith.select": "numbers.select",
    "arith.maxnumf": "np.fmax",
    "arith.minnumf": "np.fmin",
    "arith.maxsi": "np.maximum",
    "arith.minsi": "np.minimum",
    "arith.negf": "np.negative",
    "math.absf": "np.abs",
    "math.exp": "np.exp",
    "math.sqrt": "np.sqrt",
    "tt.load": "numbers.load",
    "tt.store": "numbers.store",
}
BF16 = ("arith.constant", "arith.truncf", "arith.select")
CONVERSIONS = ("arith.extsi", "arith.extui", "arith.trunci", "arith.sitofp", "arith.extf")


def type_of(text: str) -> tuple[tuple[int, ...] | None, str]:
    """The shape, None of a scalar, and the kind of the elements."""
    found = TYPE.match(text)
    if found is None:
        return None, text
    return tuple(int(n) for n in found[1].split("x") if n), found[2]


def names(text: str) -> list[str]:
    """The values that a line mentions, as Python's names."""
    return [f"v{name}" + (f"_{part}" if part else "") for name, part in NAME.findall(text)]


def constant(text: str, kind: str) -> Any:
    """What a literal of the IR means."""
    text = text.removeprefix("dense<").removesuffix(">")
    if text in ("true", "false"):
        return np.bool_(text == "true")
    if text.startswith("0x") and kind in ("f16", "bf16", "f32", "f64"):
        bits = bytes.fromhex(text[2:])[::-1]
        if kind == "bf16":
            bits = b"\0\0" + bits
        return np.frombuffer(bits, DTYPES[kind])[0]
    return DTYPES[kind](float(text) if "f" in kind else int(text, 0))


class Translation:
    """The Python source of one kernel, and the constants that it names."""

    def __init__(self, text: str) -> None:
        self.lines: list[str] = []
        self.depth = 0
        self.environment: dict[str, Any] = {"np": np, "numbers": numbers}
        # What becomes of the values that a region yields, one for each region that is open.
        self.yields: list[list[str]] = []
        self.closings: list[Callable[[str], None]] = []
        self.name = ""
        self.arguments = 0
        for line in text.splitlines():
            self.line(line.strip())

    def write(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    def open(self, head: str, results: list[str], close: Callable[[str], None]) -> None:
        self.write(head)
        self.depth += 1
        self.write("pass")
        self.yields.append(results)
        self.closings.append(close)

    def close(self, line: str = "}") -> None:
        self.depth -= 1
        self.yields.pop()
        self.closings.pop()(line)

    def line(self, line: str) -> None:
        if line in ("", "module {"):
            return
        if line.startswith("tt.func public"):
            return self.function(line)
        if line == "} else {":
            results, close = self.yields[-1], self.closings[-1]
            self.depth -= 1
            self.yields.pop()
            self.closings.pop()
            return self.open("else:", results, close)
        if line.startswith("}"):
            if self.closings:  # else the module's
                self.close(line)
            return
        if line.startswith("^bb0("):
            self.write(f"def combine({', '.join(names(line))}):")
            self.depth += 1
            return
        target, operation = line.split(" = ", 1) if line.startswith("%") else ("", line)
        self.operation(target, operation)

    def function(self, line: str) -> None:
        if self.name:
            raise NotImplementedError(f"a second function: {line}")
        found = re.match(r"tt\.func public @(\w+)\((.*)\) attributes", line)
        assert found, line
        self.name = found[1]
        parameters = names(found[2])
        self.arguments = len(parameters)
        self.open(f"def {self.name}(program, clock, {', '.join(parameters)}):", [], lambda _: None)

    def operation(self, target: str, text: str) -> None:
        kind = re.match(r'"?([a-z_]+(?:\.\w+)+)', text)
        if kind is None:
            raise NotImplementedError(text)
        name = kind[1]
        attributes = "".join(ATTRIBUTES.findall(text))
        body, _, types = ATTRIBUTES.sub("", text[kind.end() :]).lstrip('"').partition(" : ")
        values = names(body)
        result = names(target.partition(":")[0])
        count = int(target.partition(":")[2] or 1) if target else 0
        results = [f"{result[0]}_{i}" for i in range(count)] if count > 1 else result[:count]
        if name in ("scf.for", "scf.if", "tt.reduce"):
            return self.region(name, results, body + attributes, values)
        if name in ("scf.yield", "tt.reduce.return", "tt.return"):
            return self.leave(name, values)
        if name in ("gpu.barrier", "ttg.barrier"):  # of Triton 3.6, and of 3.8
            return self.write("clock.barrier()")
        found = self.expression(name, body + attributes, types, values)
        self.write(f"{results[0]} = {found}" if results else found)

    def expression(self, name: str, body: str, types: str, values: list[str]) -> str:
        """Of an operation that has no region."""
        source, _, target = types.partition(" -> " if " -> " in types else " to ")
        shape, kind = type_of(target or source)
        if kind == "bf16" and name.split(".")[0] in ("arith", "math") and name not in BF16:
            raise NotImplementedError(f"{name} of bfloat16")
        if name in INFIX:
            return f"{values[0]} {INFIX[name]} {values[1]}"
        if name in CALLED:
            return f"{CALLED[name]}({', '.join(values)})"
        if name in CONVERSIONS:
            if (type_of(source)[1] == "i1") != (name == "arith.extui"):
                raise NotImplementedError(f"{name} of {type_of(source)[1]}")
            return f"{values[0]}.astype(np.{np.dtype(DTYPES[kind]).name})"
        if name == "arith.constant":
            return self.constant(body.strip(), shape, kind)
        if name == "arith.truncf":
            return f"numbers.truncf({values[0]}, {type_of(source)[1]!r}, {kind!r})"
        if name == "arith.fptosi":
            return f"numbers.fptosi({values[0]}, {kind!r})"
        if name in ("arith.cmpi", "arith.cmpf"):
            return self.comparison(name, body.split(",")[0].strip(), values)
        if name == "tt.get_program_id":
            return f"np.int32(program[{'xyz'.index(body.strip())}])"
        if name in ("tt.splat", "tt.broadcast"):
            return f"numbers.splat({values[0]}, {shape})"
        if name == "tt.expand_dims":
            return f"numbers.expand_dims({values[0]}, {self.number(body, 'axis')})"
        if name == "tt.make_range":
            start, end = self.number(body, "start"), self.number(body, "end")
            return f"np.arange({start}, {end}, dtype=np.int32)"
        if name == "tt.trans":
            order = re.search(r"order = array<i32: ([\d, ]+)>", body)
            assert order, body
            return f"numbers.trans({values[0]}, ({order[1]}))"
        if name == "tt.dot":
            operand = type_of(source.split(" * ")[0])[1]
            precision = re.search(r"inputPrecision = (\w+)", body)
            found = precision[1] if precision else "ieee"
            return f"numbers.dot({', '.join(values)}, {operand!r}, {found!r})"
        raise NotImplementedError(f"{name} of Triton's IR")

    @staticmethod
    def number(text: str, name: str) -> int:
        found = re.search(rf"{name} = (-?\d+) : i32", text)
        assert found, text
        return int(found[1])

    def constant(self, text: str, shape: tuple[int, ...] | None, kind: str) -> str:
        value = constant(text.split(" : ")[0], "i1" if text in ("true", "false") else kind)
        name = f"c{len(self.environment)}"
        self.environment[name] = value if shape is None else np.full(shape, value)
        return name

    @staticmethod
    def comparison(name: str, predicate: str, values: list[str]) -> str:
        a, b = values
        if name == "arith.cmpi" and predicate[0] == "u":
            raise NotImplementedError(f"a comparison of unsigned integers, {predicate}")
        order = predicate[-2:]
        # NaN answers False, as "ordered" asks; only "not equal" differs.
        if predicate == "one":
            return f"({a} < {b}) | ({a} > {b})"
        if name == "arith.cmpf" and predicate[0] == "u" and predicate != "une":
            raise NotImplementedError(f"an unordered comparison, {predicate}")
        return f"{a} {COMPARISONS[order]} {b}"

    def region(self, name: str, results: list[str], body: str, values: list[str]) -> None:
        if name == "scf.if":
            return self.open(f"if {values[0]}:", results, lambda _: None)
        if name == "tt.reduce":
            if len(values) > 1:
                raise NotImplementedError(f"a reduction of {len(values)} tensors at once")
            axis = self.number(body, "axis")

            def reduced(_: str) -> None:
                self.write(f"{results[0]} = numbers.reduce({values[0]}, {axis}, combine)")

            return self.open("if True:", [], reduced)
        found = re.match(
            r" (%\w+) = (%[\w#]+) to (%[\w#]+) step (%[\w#]+)(?: iter_args\((.*?)\) ->)?", body
        )
        assert found, body
        induction, low, high, step = (names(found[i])[0] for i in (1, 2, 3, 4))
        pairs = [names(pair) for pair in (found[5] or "").split(", ") if pair]
        carried = [inner for inner, _ in pairs]
        for inner, initial in pairs:
            self.write(f"{inner} = {initial}")

        def finished(_: str) -> None:
            for outer, inner in zip(results, carried, strict=True):
                self.write(f"{outer} = {inner}")

        self.open(f"for i_{induction} in range({low}, {high}, {step}):", carried, finished)
        self.write(f"{induction} = type({low})(i_{induction})")

    def leave(self, name: str, values: list[str]) -> None:
        if name == "tt.return":
            return self.write("return")
        if name == "tt.reduce.return":
            self.write(f"return {values[0]}")
            self.depth -= 1
            return None
        # names() sees the types as well, of which none begins with a percent sign.
        if values:
            self.write(f"{', '.join(self.yields[-1])} = {', '.join(values)}")
        return None


Kernel = Callable[[tuple[int, ...], Sequence[Any]], None]


def compiled(text: str) -> Kernel:
    """The kernel of a module as a function of the grid and the arguments that are no constants."""
    translation = Translation(text)
    source = "\n".join(translation.lines)
    exec(compile(source, f"<{translation.name}>", "exec"), translation.environment)
    function, count = translation.environment[translation.name], translation.arguments

    def run(grid: tuple[int, ...], arguments: Sequence[Any]) -> None:
        if len(arguments) != count:
            raise TypeError(f"{translation.name} got {len(arguments)} arguments, not {count}")
        clock, records = Clock(), {}  # type: ignore[var-annotated]
        given = [
            Pointer(Memory(f"argument {i}", value, records, clock), np.int64(0))
            if isinstance(value, Tensor)
            else value
            for i, value in enumerate(arguments)
        ]
        x, y, z = (*grid, 1, 1)[:3]
        with np.errstate(all="ignore"):
            for program in np.ndindex(z, y, x):
                clock.program += 1
                clock.barrier()
                try:
                    function(program[::-1], clock, *given)
                except KernelError as fault:
                    raise KernelError(f"{translation.name}, {program[::-1]}: {fault}") from None

    return run
