"""Values of hyperparameters: the type that each dimension declares, and settings read as values of that type.

YAML 1.2 reads ``no`` and ``off`` as words, and ``1`` as a whole number. What a setting means depends on its dimension,
so the dimension decides: a yes/no dimension reads ``off`` as no, and a real one reads ``1`` as 1.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.core.errors import nearest, shown

Value = bool | int | float | str
Hyperparameters = dict[str, Value]
Kind = Literal["yes/no", "whole", "real", "word"]

_YES_NO = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


@dataclass(frozen=True)
class Bounds:
    """The numbers within which a dimension means something.

    Attributes:
        low: The smallest number.
        high: The largest number.
        above: `low` itself is excluded.
        below: `high` itself is excluded; it may still be the end of a range, which then comes as near as it can.
        inside_image: Numbers of pixels: they are less than the shorter side of an image.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    inside_image: bool = False

    def hold(self, number: float, *, end: bool = False) -> bool:
        """Return whether a number is within the bounds; `end` is for the upper end of a range."""
        inside = self.low < number if self.above else self.low <= number
        return inside and (number < self.high if self.below and not end else number <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        return f"{low} to {'below ' if self.below else ''}{self.high:g}"


SHARE = Bounds(0, 1)
DROPOUT = Bounds(0, 1, below=True)  # at 1, nothing is left to learn from
PIXELS = Bounds(0, 1023, inside_image=True)  # images have at most 1,024 pixels on a side


@dataclass(frozen=True)
class ValueType:
    """The declared type of a dimension.

    Attributes:
        kind: Yes or no, a whole number, a real number, or one of some words.
        bounds: Of numbers; None where the dimension declares none.
        words: The words that the dimension knows.
    """

    kind: Kind
    bounds: Bounds | None = None
    words: tuple[str, ...] = ()

    def read(self, value: Any, *, end: bool = False) -> Value:
        """Return a setting as a value of this type.

        Args:
            value: What params hold.
            end: Whether it is the upper end of a range.

        Raises:
            ValueError: It is no such value. The message is what was expected.
        """
        found = self._convert(value)
        if found is None:
            raise ValueError(self.expected(value))
        if self.bounds is not None and not isinstance(found, str) and not self.bounds.hold(found, end=end):
            raise ValueError(self.expected(value))
        return found

    def expected(self, value: Any = None) -> str:
        """Return a description of the values of this type, to follow ``expected``."""
        if self.kind == "yes/no":
            return "yes or no"
        if self.kind == "word":
            return nearest(value if isinstance(value, str) else shown(value), self.words)
        number = "a whole number" if self.kind == "whole" else "a number"
        return f"{number} {self.bounds}" if self.bounds is not None else f"a finite {number.removeprefix('a ')}"

    def _convert(self, value: Any) -> Value | None:
        """Return a setting as this type, whatever the bounds; None if it cannot be read so."""
        if self.kind == "word":
            return value if isinstance(value, str) and value in self.words else None
        if self.kind == "yes/no":
            return _yes_or_no(value)
        number = _number(value)
        if number is None:
            return None
        if self.kind == "real":
            return _float(number)
        return int(number) if number == int(number) else None


def type_of(values: tuple[Value, ...], bounds: Bounds | None = None) -> ValueType:
    """Return the type of the values that a dimension declares.

    Raises:
        TypeError: They are of several types.
    """
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return ValueType("yes/no")
    if kinds == {str}:
        return ValueType("word", words=tuple(str(value) for value in values))
    if kinds <= {int, float}:
        return ValueType("real" if float in kinds else "whole", bounds)
    raise TypeError(f"a dimension has values of one type, not {values}")


def yes(hyperparameters: Mapping[str, Value], name: str) -> bool:
    """Return a yes/no hyperparameter.

    Raises:
        ValueError: It is anything else; the word ``no``, for instance, would be true in Python.
    """
    value = hyperparameters[name]
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected yes or no, found {shown(value)}")
    return value


def whole(hyperparameters: Mapping[str, Value], name: str) -> int:
    """Return a whole-number hyperparameter.

    Raises:
        ValueError: It is anything else; nothing is rounded, so that what is recorded is what is built.
    """
    value = hyperparameters[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}: expected a whole number, found {shown(value)}")
    return value


def real(hyperparameters: Mapping[str, Value], name: str) -> float:
    """Return a real hyperparameter.

    Raises:
        ValueError: It is no finite number.
    """
    value = hyperparameters[name]
    if isinstance(value, bool | str) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a number, found {shown(value)}")
    return float(value)


def word(hyperparameters: Mapping[str, Value], name: str) -> str:
    """Return a hyperparameter that is a word.

    Raises:
        ValueError: It is anything else.
    """
    value = hyperparameters[name]
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a word, found {shown(value)}")
    return value


def _yes_or_no(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _YES_NO.get(value.strip().lower())
    return bool(value) if isinstance(value, int) and value in (0, 1) else None


def _number(value: Any) -> int | float | None:
    """Return a finite number, also one in quotes; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = value if not isinstance(value, str) else float(value) if "." in value or "e" in value else int(value)
    except ValueError:
        return None
    return number if isinstance(number, int) or math.isfinite(number) else None


def _float(number: float) -> float | None:
    try:
        return float(number)
    except OverflowError:
        return None  # a whole number beyond what floating point can hold
