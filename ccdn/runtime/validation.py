"""Dataclasses whose fields say what they may hold; pydantic checks them.

The type of a field, its choices and its bounds stand in its annotation and nowhere else:
`Literal["adam", "sgd"]`, `Annotated[Integer, Field(ge=1, le=10)]`, or one of the names below. The
dataclasses are plain ones, so `replace` and `asdict` work; their fields are checked where values
come from outside, by `validated`, or in `__post_init__`, by `check`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError, create_model
from pydantic_core import PydanticKnownError

Kind = TypeVar("Kind")


def _no_truth(error: Literal["int_type", "float_type"]) -> BeforeValidator:
    """Refuses true and false, which Python counts among the numbers."""

    def check_number(value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticKnownError(error)
        return value

    return BeforeValidator(check_number)


WholeNumber = _no_truth("int_type")  # in Annotated[Literal[1, 2], WholeNumber], as True equals 1
Integer = Annotated[int, WholeNumber]
Natural = Annotated[Integer, Field(ge=0)]
Count = Annotated[Integer, Field(ge=1)]
Number = Annotated[float, Field(allow_inf_nan=False), _no_truth("float_type")]
NotNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Probability = Annotated[Number, Field(ge=0, le=1)]
Text = Annotated[str, Field(coerce_numbers_to_str=True)]  # YAML reads the name 2024 as a number

_NAMES = {
    "a whole number": ("int_type", "int_parsing", "int_parsing_size", "int_from_float"),
    "a number": ("float_type", "float_parsing"),
    "a finite number": ("finite_number",),
    "true or false": ("bool_type", "bool_parsing"),
    "text": ("string_type",),
    "a list": ("list_type",),
    "a mapping": ("dict_type", "dataclass_type"),
}
_EXPECTED = {error: name for name, errors in _NAMES.items() for error in errors}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


class FieldError(ValueError):
    """A field has a value that it cannot hold. The message, one line, names the field, `field`,
    what was expected and what was found.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


def validated(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """A dataclass made of plain values: mappings, lists, texts and numbers; mappings in its fields
    become dataclasses too.

    A text that is a number is taken for a number, as an environment variable gives it. Raises
    FieldError for the first bad value.
    """
    try:
        # mypy doubts that a class is hashable.
        return _adapter(kind).validate_python(dict(values))  # type: ignore[arg-type]
    except ValidationError as error:
        raise _field_error(kind, error, "") from None


def check(instance: Any, name: str = "") -> None:
    """Raise FieldError for a field of a dataclass that holds a value of another type than its own,
    or one that its annotation excludes. Dataclasses in its fields are not looked into.

    name: of the instance, which precedes the field's.
    """
    try:
        _model(type(instance)).model_validate(vars(instance), strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        raise _field_error(type(instance), error, name) from None


def types_of(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields by their names, without bounds and descriptions."""
    return get_type_hints(kind)


def holds_text(hint: Any) -> bool:
    """Whether a field of this type, as `types_of` gives it, is a text or one of several."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType, Literal) else (hint,)
    return any(option is str or isinstance(option, str) for option in options)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _model(kind: Any) -> type[BaseModel]:
    fields: dict[str, Any] = {name: (hint, ...) for name, hint in _hints(kind).items()}
    return create_model(kind.__name__, **fields)


def _field_error(kind: type, errors: ValidationError, name: str) -> FieldError:
    error = errors.errors(include_url=False)[0]
    path = [part for part in error["loc"] if isinstance(part, str)]
    field = ".".join([name, *path] if name else path)
    field += "".join(f"[{part}]" for part in error["loc"] if isinstance(part, int))
    expected, found = _expected(kind, error["loc"], error), error["input"]
    if error["type"] == "value_error":  # of a check that is a function
        return FieldError(field, str(error["ctx"]["error"]))
    if error["type"] == "unexpected_keyword_argument":
        return FieldError(field, f"unknown field; expected some of {', '.join(types_of(kind))}")
    joint = ";" if error["type"] == "literal_error" else ","
    return FieldError(field, f"expected {expected}{joint} found {found!r}")


def _expected(kind: type, path: Sequence[int | str], error: Any) -> str:
    what, context = error["type"], error.get("ctx", {})
    if what == "literal_error":
        return f"one of {', '.join(map(str, get_args(_annotation(kind, path)[0])))}"
    if what in ("too_short", "too_long"):
        _, about = _annotation(kind, path)
        count = context["min_length" if what == "too_short" else "max_length"]
        return ", ".join([f"{count} values", *about.get("description", ())])
    if what in _BOUNDS:
        words, bound = _BOUNDS[what]
        _, about = _annotation(kind, path)
        if "ge" in about and "le" in about:
            return f"{_shown(about['ge'][-1])} to {_shown(about['le'][-1])}"
        return f"{words} {_shown(context[bound])}"
    return _EXPECTED.get(what, error["msg"])


def _shown(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _annotation(kind: Any, path: Sequence[int | str]) -> tuple[Any, dict[str, list[Any]]]:
    """The type at a path of fields and indices, and what is said of it, such as its bounds."""
    about: dict[str, list[Any]] = {}
    hint: Any = kind
    for part in path:
        hint = get_args(hint)[0] if isinstance(part, int) else _hints(hint)[part]
        about = {}
        if get_origin(hint) in (Union, UnionType):  # with None
            hint = next(option for option in get_args(hint) if option is not type(None))
        if get_origin(hint) is Annotated:
            hint, *said = get_args(hint)
            for one in said:
                for item in (one, *getattr(one, "metadata", ())):
                    for name in ("ge", "le", "description"):
                        if getattr(item, name, None) is not None:
                            about.setdefault(name, []).append(getattr(item, name))
    return hint, about


def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)
