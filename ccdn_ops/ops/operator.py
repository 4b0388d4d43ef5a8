"""What an operator is: one record, from which everything that lists operators derives.

`define` registers the raw operators of a record and puts it into OPERATORS. Autograd (autograd.py),
explain() and the report, the FLOP formulas, the decompositions, the tables of tests/ops, the
benchmarks and gpu-check read it there, so a new operator is in all of them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.names import PACKAGE
from ccdn_ops.ops import raw
from ccdn_ops.work import Call, Work

Function = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator.

    Sizes are letters: B samples, P excitations, O orders, D channels, R hidden units, H and W.

    Args:
        name: that of the public function, of its folder and of the raw operator `ccdn::name`.
        first: the shape of its first argument, in words.
        work: (first argument, Call) -> the work that a call takes.
        tensors: the name of each tensor that an example of a call needs, and its sizes.
        results: the sizes of each public output; L is the number of levels.
        samples: how many of the first tensors begin with the batch, whose samples are independent;
            0 where they are not.
        schema: "(inputs..., options...) -> (public outputs..., saved...)" of the forward operator;
            the backward operator's follows. Empty where only parts do the work.
        fake: the fake kernel; and the outputs of an empty batch.
        vmap: the batching rule, raw.folded or raw.looped.
        kernel, backward, backward_fake: by default those of raw.py for one feature map.
        outputs: how many of the outputs are public.
        options: the example's value of each option in the schema.
        parts: the operators that it is composed of, used if no backend has the whole.
        asked: (first argument, Call) -> the arguments of a backend's `supports`; by default the
        first argument, as (B, D, N) if that is one of its shapes, and the options.
        backward_operations: of the backward operator's arguments, where `work` is not enough.
        arrange: from the example's tensors to the public function's positional arguments.
        second_order: the raw inputs that are None when there is one order.
        variants: arguments of explain() that change the memory traffic.
        maps: how many tensors of x's size a forward and backward pass allocates.
        calls: (features (B, D, H, W)) -> inputs and options that make a backend launch each form of
        its kernels; by default one call with the example's options.
    """

    name: str
    first: str
    work: Callable[[Tensor, Call], Work]
    tensors: Mapping[str, str]
    results: Sequence[str]
    samples: int
    schema: str = ""
    fake: Function | None = None
    vmap: Callable[[str], Function] | None = None
    kernel: Function | None = None
    backward: Function | None = None
    backward_fake: Function | None = None
    outputs: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    asked: Callable[[Tensor, Call], tuple[Any, ...]] | None = None
    backward_operations: Callable[..., int] | None = None
    arrange: Callable[..., tuple[Any, ...]] = lambda *tensors: tensors
    second_order: tuple[str, ...] = ()
    variants: Sequence[Mapping[str, Any]] = ()
    maps: int = 1
    calls: Callable[[Tensor], Iterable[tuple[Sequence[Any], Sequence[Any]]]] | None = None

    # The public function and the reference, found by the name ---------------------------------

    @property
    def function(self) -> Function:
        return getattr(importlib.import_module(f"{PACKAGE}.ops.{self.name}"), self.name)

    @property
    def reference(self) -> Function:
        return getattr(importlib.import_module(f"{PACKAGE}.ops.{self.name}.reference"), self.name)

    def has(self, backend: str) -> bool:
        """Whether the backend has this operator, or each of its parts."""
        if self.parts and all(OPERATORS[part].has(backend) for part in self.parts):
            return True
        return registry.load(self.name, backend) is not None

    # What the schema says ------------------------------------------------------------------------

    @cached_property
    def _parsed(self) -> Any:
        return torch._C.parse_schema(f"raw::{self.name}{self.schema or '() -> ()'}")

    @cached_property
    def inputs(self) -> dict[str, str]:
        """The type of each tensor argument: Tensor, Tensor? or Tensor[]."""
        kinds = {"Tensor": "Tensor", "Optional[Tensor]": "Tensor?", "List[Tensor]": "Tensor[]"}
        arguments = self._parsed.arguments
        return {a.name: kinds[str(a.type)] for a in arguments if str(a.type) in kinds}

    @cached_property
    def option_types(self) -> dict[str, str]:
        arguments = self._parsed.arguments
        return {a.name: str(a.type) for a in arguments if a.name not in self.inputs}

    @cached_property
    def returns(self) -> list[str]:
        """The names of what it returns: the public outputs, then what is saved."""
        return [returned.name for returned in self._parsed.returns]

    @cached_property
    def gradients(self) -> dict[str, str]:
        """The type of each gradient that the backward operator is given."""
        kind = "Tensor?" if self.outputs > 1 else "Tensor"
        return {f"grad_{name}": kind for name in self.returns[: self.outputs]}

    @cached_property
    def backward_arguments(self) -> dict[str, str]:
        saved = dict.fromkeys(self.returns[self.outputs :], "Tensor")
        return {**self.gradients, **self.inputs, **saved, **self.option_types}

    @cached_property
    def backward_schema(self) -> str:
        arguments = ", ".join(f"{kind} {name}" for name, kind in self.backward_arguments.items())
        found = ", ".join(kind.removesuffix("?") for kind in self.inputs.values())
        return f"({arguments}) -> {f'({found})' if len(self.inputs) > 1 else found}"

    # A call --------------------------------------------------------------------------------------

    @property
    def flat(self) -> bool:
        """Whether a backend gets its first argument as (B, D, N)."""
        return "N)" in self.first

    def question(self, x: Tensor, call: Call) -> tuple[Any, ...]:
        """The arguments of a backend's `supports`; tensors after the first do not matter to it."""
        if self.asked is not None:
            return self.asked(x, call)
        return (x.flatten(2) if self.flat else x, *(getattr(call, n) for n in self.option_types))

    def call(self, function: Function, tensors: Sequence[Any], **options: Any) -> Any:
        """function, the public one or the reference, of the example's tensors."""
        return function(*self.arrange(*tensors), **self.public_options(function, **options))

    def public_options(self, function: Function, **changed: Any) -> dict[str, Any]:
        """Those of the example's options that the function has; and changed ones."""
        known = inspect.signature(function).parameters
        return {k: v for k, v in {**self.options, **changed}.items() if k in known}

    def raw(self, tensors: Sequence[Any], **changed: Any) -> tuple[list[Any], list[Any]]:
        """The inputs and the options of the raw operator for the example's tensors."""
        given: list[Any] = []
        for argument in self.arrange(*tensors):
            given += [argument] if argument is None or isinstance(argument, Tensor) else argument
        inputs: list[Any] = []
        for kind in self.inputs.values():
            taken, given = (given, []) if kind == "Tensor[]" else (given[0], given[1:])
            inputs.append(taken)
        return inputs, [{**self.options, **changed}[name] for name in self.option_types]

    @cached_property
    def literal(self) -> Function:
        """The reference as a function of the raw operator's arguments.

        All that must be looked up is looked up here: torch.compile traces the function.
        """
        reference, names = self.reference, tuple(self.option_types)
        known = tuple(name in inspect.signature(reference).parameters for name in names)

        def literal(*arguments: Any) -> Any:
            count = len(arguments) - len(names)
            given = zip(names, known, arguments[count:], strict=True)
            options = {name: value for name, takes, value in given if takes}
            return reference(*arguments[:count], **options)

        return literal

    def operations(self, *arguments: Any) -> tuple[int, int]:
        """Multiplications and additions of the forward and the backward pass, of raw arguments."""
        given = dict(zip((*self.inputs, *self.option_types), arguments, strict=True))
        x = next(iter(given.values()))
        if not isinstance(x, Tensor):  # levels, each a call
            counts = [self.work(level, Call()).operations for level in x]
            return sum(forward for forward, _ in counts), sum(backward for _, backward in counts)
        sizes: dict[str, int] = {}
        for letters, tensor in zip(self.tensors.values(), given.values(), strict=False):
            if isinstance(tensor, Tensor):
                sizes.update(zip(letters, tensor.shape, strict=False))
        named = {"P": "excitations", "O": "orders", "R": "hidden"}
        values: dict[str, Any] = {
            named[letter]: sizes[letter] for letter in named if letter in sizes
        }
        options = {name: given[name] for name in self.option_types}
        literal = self._served_literally(*arguments)
        return self.work(x, Call(**values, **options, literal=literal)).operations

    def _served_literally(self, *arguments: Any) -> bool:
        if not self.parts:
            return raw.literally(self.name, *arguments)
        whole = registry.offered(self.name, *arguments)
        return whole is None and all(raw.literally(part, arguments[0]) for part in self.parts)


OPERATORS: dict[str, Operator] = {}

# What every record must have, and what records with their own raw operator must have.
REQUIRED = ("name", "first", "work", "tensors", "results", "samples")
REQUIRED_OF_RAW = ("fake", "vmap", "kernel", "backward", "backward_fake")


def define(operator: Operator) -> Operator:
    """Register the record and its raw operators; raises ValueError that names what it lacks."""
    found = _completed(operator)
    _check(found)
    if found.schema:
        name, rule = found.name, found.vmap
        assert rule is not None
        raw.register(
            f"{name}{found.schema}",
            kernel=found.kernel,
            fake=found.fake,
            vmap=rule(name),
            operations=lambda *args, **kwargs: _forward_operations(found, args, kwargs),
        )
        raw.register(
            f"{name}_backward{found.backward_schema}",
            kernel=found.backward,
            fake=found.backward_fake,
            vmap=rule(f"{name}_backward"),
            operations=lambda *args, **kwargs: _backward_operations(found, args, kwargs),
        )
    OPERATORS[found.name] = found
    return found


def positive(b: Tensor) -> Tensor:
    """b b^T, which autocast leaves alone: what `arrange` makes of an example for a root."""
    return (b.unsqueeze(1) * b.unsqueeze(2)).sum(3)


def _completed(operator: Operator) -> Operator:
    """Fill in the kernels for one feature map where the record has no kernels of its own."""
    kernels = (operator.kernel, operator.backward, operator.backward_fake)
    fits = operator.schema and operator.flat and list(operator.inputs.values()) == ["Tensor"]
    if not fits or None not in kernels or operator.fake is None:
        return operator
    shapes = operator.results
    kernel, backward, empty = raw.kernels_of_maps(operator.name, operator.fake, shapes)
    return replace(
        operator,
        kernel=operator.kernel or kernel,
        backward=operator.backward or backward,
        backward_fake=operator.backward_fake or empty,
    )


def _check(operator: Operator) -> None:
    def lacks(what: str) -> ValueError:
        return ValueError(f"the record of the operator {operator.name!r} lacks {what}")

    for piece in REQUIRED:
        value = getattr(operator, piece)
        if value is None or (not value and piece != "samples"):
            raise lacks(piece)
    if not operator.schema:
        if not operator.parts:
            raise lacks("schema, or parts")
        return
    for piece in REQUIRED_OF_RAW:
        if getattr(operator, piece) is None:
            raise lacks(piece)
    for option in operator.option_types:
        if option not in operator.options:
            raise lacks(f"options[{option!r}]")
        if operator.asked is None and option not in Call.__dataclass_fields__:
            raise lacks(f"asked, because Call has no {option!r}")
    if len(operator.results) != operator.outputs:
        raise lacks(
            f"results of {operator.outputs} outputs: found {list(operator.results)}, "
            f"expected the sizes of {operator.returns[: operator.outputs]}"
        )
    if "" in operator.returns:
        raise lacks("names of what the schema returns")


def _forward_operations(operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    names = (*operator.inputs, *operator.option_types)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return operator.operations(*(given[name] for name in names))[0]


def _backward_operations(operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    given = {**dict(zip(operator.backward_arguments, args, strict=False)), **kwargs}
    if operator.backward_operations is not None:
        return operator.backward_operations(**given)
    names = (*operator.inputs, *operator.option_types)
    return operator.operations(*(given[name] for name in names))[1]
