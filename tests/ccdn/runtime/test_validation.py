"""What the annotation of a field excludes is refused in one line, which names the field."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, Field

from ccdn.config import Config
from ccdn.runtime.validation import (
    Count,
    FieldError,
    Integer,
    Natural,
    NotNegative,
    Number,
    Positive,
    Probability,
    Share,
    Text,
    WholeNumber,
    check,
    holds_text,
    types_of,
    validated,
)

pytestmark = pytest.mark.check


def must_be_odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError(f"expected an odd number, found {number}")
    return number


Two = Annotated[list[Count], Field(min_length=2, max_length=2, description="down and across")]


@dataclass
class Part:
    """Every kind of field."""

    word: Literal["one", "other"] = "one"
    digit: Annotated[Literal[1, 2], WholeNumber] = 1
    integer: Integer = -3
    natural: Natural = 0
    count: Count = 1
    number: Number = -0.5
    not_negative: NotNegative = 0.0
    positive: Positive = 1.0
    share: Share = 0.0
    probability: Probability = 1.0
    between: Annotated[Integer, Field(ge=1, le=10)] = 5
    two: Two = field(default_factory=lambda: [1, 2])
    rows: list[list[Number]] = field(default_factory=lambda: [[]])
    maybe: Count | None = None
    text: Text = ""
    path: Text | None = None
    switch: bool = False
    odd: Annotated[Integer, AfterValidator(must_be_odd)] = 1
    anything: dict[str, Any] = field(default_factory=dict)


@dataclass
class Whole:
    part: Part = field(default_factory=Part)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("word", "none", "expected one of one, other; found 'none'"),
        ("digit", 3, "expected one of 1, 2; found 3"),
        ("digit", True, "expected a whole number, found True"),
        ("integer", 1.5, "expected a whole number, found 1.5"),
        ("integer", True, "expected a whole number, found True"),
        ("integer", None, "expected a whole number, found None"),
        ("natural", -1, "expected at least 0, found -1"),
        ("count", 0, "expected at least 1, found 0"),
        ("number", "x", "expected a number, found 'x'"),
        ("number", False, "expected a number, found False"),
        ("number", math.nan, "expected a finite number, found nan"),
        ("not_negative", -1e-9, "expected at least 0, found -1e-09"),
        ("positive", 0, "expected more than 0, found 0"),
        ("share", 1, "expected less than 1, found 1"),
        ("probability", 1.5, "expected 0 to 1, found 1.5"),
        ("between", 0, "expected 1 to 10, found 0"),
        ("between", 10**30, f"expected 1 to 10, found {10**30}"),
        ("two", [1], "expected 2 values, down and across, found [1]"),
        ("two", [1, 2, 3], "expected 2 values, down and across, found [1, 2, 3]"),
        ("two", 1, "expected a list, found 1"),
        ("maybe", 0, "expected at least 1, found 0"),
        ("text", True, "expected text, found True"),
        ("path", [], "expected text, found []"),
        ("switch", "maybe", "expected true or false, found 'maybe'"),
        ("odd", 4, "expected an odd number, found 4"),
        ("anything", [], "expected a mapping, found []"),
    ],
)
def test_a_bad_value_is_one_clear_line(name: str, value: Any, problem: str) -> None:
    for refuse, prefix in (
        (lambda: validated(Whole, {"part": {name: value}}), "part"),
        (lambda: check(Part(**{name: value}), "other"), "other"),
    ):
        with pytest.raises(FieldError) as error:
            refuse()
        assert str(error.value) == f"{prefix}.{name}: {problem}"
        assert error.value.field == f"{prefix}.{name}"


def test_an_element_of_a_list_is_named() -> None:
    with pytest.raises(FieldError, match=r"^part\.rows\[1\]\[0\]: expected a number, found 'a'$"):
        validated(Whole, {"part": {"rows": [[0.5], ["a"]]}})
    with pytest.raises(FieldError, match=r"^two\[1\]: expected at least 1, found 0$"):
        check(Part(two=[1, 0]))


def test_texts_become_what_they_say() -> None:
    """Environment variables are texts, and YAML makes numbers of names."""
    found = validated(
        Part, {"count": "3", "number": "1e-3", "switch": "yes", "text": 2024, "maybe": "4"}
    )
    assert (found.count, found.number, found.switch) == (3, 1e-3, True)
    assert (found.text, found.maybe) == ("2024", 4)
    with pytest.raises(FieldError, match="count: expected a whole number, found '3'"):
        check(Part(count="3"))  # type: ignore[arg-type]


def test_what_is_good_stays() -> None:
    assert validated(Whole, {}) == Whole()
    assert validated(Whole, asdict(Whole())) == Whole()
    assert type(validated(Whole, {"part": {}}).part) is Part
    check(Part())


def test_which_fields_are_texts() -> None:
    texts = {name for name, hint in types_of(Part).items() if holds_text(hint)}
    assert texts == {"word", "text", "path"}


def numbers(section: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all numbers of a configuration, those in lists by their index."""
    for item in fields(section):
        value = getattr(section, item.name)
        if is_dataclass(value):
            yield from numbers(value, (*prefix, item.name))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*prefix, item.name)


@pytest.mark.parametrize("path", list(numbers(Config())), ids=".".join)
def test_no_number_of_the_configuration_may_be_a_truth_value_or_infinite(
    path: tuple[str, ...],
) -> None:
    """As it would be if its type were a plain int or float."""
    for value in (False, True, math.nan, math.inf):
        values: Any = value
        for part in reversed(path):
            values = {part: values}
        with pytest.raises(FieldError, match=rf"^{'.'.join(path)}: expected .*found {value}"):
            validated(Config, values)
