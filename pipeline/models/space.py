"""A search space: named dimensions that stand beside the model they shape, and that params can narrow, widen or fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pydantic

from pipeline.core import params
from pipeline.core.errors import ParamsError, nearest, shown
from pipeline.models.values import Bounds, Hyperparameters, Value, ValueType, type_of


class Trial(Protocol):
    """The part of an Optuna trial that sampling needs, so that families need not know Optuna."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Any: ...


class Choice(params.Settings):
    """One of some values.

    Attributes:
        choices: The values, all of one type.
        bounds: Declared by a family: the numbers that params may choose instead.
    """

    choices: tuple[pydantic.StrictBool | pydantic.StrictInt | pydantic.StrictFloat | pydantic.StrictStr, ...] = (
        pydantic.Field(min_length=1)
    )
    bounds: Bounds | None = None

    @property
    def type(self) -> ValueType:
        """The type of the values: params may set others of this type, but no other words."""
        return type_of(self.choices, self.bounds)

    def holds(self, value: Value) -> bool:
        """Return whether a value is one of these."""
        return value in self.choices

    def sample(self, trial: Trial, name: str) -> Value:
        """Sample a value of this dimension from a trial."""
        value: Value = trial.suggest_categorical(name, self.choices)
        return value


class Range(params.Settings):
    """Numbers from `low` to `high`, both included; whole ones where both ends are whole.

    Attributes:
        low: The smallest number.
        high: The largest number.
        log: Whether to sample on a logarithmic scale.
        bounds: Declared by a family: how far params may widen the range.
    """

    low: pydantic.StrictInt | pydantic.StrictFloat
    high: pydantic.StrictInt | pydantic.StrictFloat
    log: bool = False
    bounds: Bounds | None = None

    @property
    def type(self) -> ValueType:
        """The type of the numbers, whole or real."""
        return type_of((self.low, self.high), self.bounds)

    def holds(self, value: Value) -> bool:
        """Return whether a value is a number from `low` to `high`."""
        return not isinstance(value, str) and self.low <= value <= self.high

    def sample(self, trial: Trial, name: str) -> Value:
        """Sample a value of this dimension from a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, float(self.low), float(self.high), log=self.log)


Dimension = Choice | Range
Space = Mapping[str, Dimension]


def override(
    space: Space, overrides: Mapping[str, Any], where: str, declared: Space | None = None
) -> dict[str, Dimension]:
    """Return a space with some dimensions replaced.

    Every value is read as the type that the dimension declares: ``off`` is no where a dimension is yes/no, and
    ``{low: 0, high: 1}`` is 0.0 to 1.0 where it is real.

    Args:
        space: The space to change.
        overrides: By name: a value (fixes the dimension), a list (its choices), or ``{low, high, log}``.
        where: The name of the params section, for error messages.
        declared: The family's own space, which declares types and bounds; None for `space`.

    Raises:
        ParamsError: A name that the space does not have, or a value that is not of the dimension's type.
    """
    changed = dict(space)
    for name, value in overrides.items():
        if name not in space:
            raise ParamsError(f"{where}: unknown dimension", expected=nearest(name, space), found=repr(name))
        changed[name] = _dimension(value, f"{where}.{name}", (declared or space)[name].type)
    return changed


def sample(trial: Trial, space: Space) -> Hyperparameters:
    """Sample a value of every dimension from a trial."""
    return {name: dimension.sample(trial, name) for name, dimension in space.items()}


def largest(dimension: Dimension) -> float:
    """Return the largest number of a dimension of numbers."""
    values = dimension.choices if isinstance(dimension, Choice) else (dimension.high,)
    return max(float(value) for value in values)


def require_fit(space: Space, declared: Space, side: int, where: str) -> None:
    """Check the dimensions that count pixels against the images.

    Args:
        space: The space to search.
        declared: The family's own space, which says which dimensions these are.
        side: The shorter side of an image.
        where: What the space belongs to, for error messages.

    Raises:
        ParamsError: A value is as large as an image.
    """
    for name, dimension in space.items():
        bounds = declared[name].bounds
        if bounds is None or not bounds.inside_image:
            continue
        most = largest(dimension)
        if most >= side:
            raise ParamsError(
                f"params.yaml: {where}: {name} is wrong",
                expected=f"at most {side - 1}, as images have {side} pixels on their shorter side",
                found=f"{most:g}",
                next_step=f"set a smaller {name} in the family's space or space_for",
            )


def _dimension(value: Any, where: str, kind: ValueType) -> Dimension:
    if isinstance(value, Mapping):
        return _range(value, where, kind)
    listed = value if isinstance(value, list | tuple) else [value]
    if not listed:
        raise _wrong(where, f"at least 1 value, {kind.expected()}", value)
    choices = tuple(_read(kind, one, where) for one in listed)
    if len(set(choices)) < len(choices):
        raise _wrong(where, "every value once", value)
    return Choice(choices=choices)


def _range(value: Mapping[str, Any], where: str, kind: ValueType) -> Range:
    """Return a range of numbers of a declared type."""
    if kind.kind not in ("whole", "real"):
        raise _wrong(where, f"a value or a list of values, {kind.expected()}", value)
    for key in value:
        if key not in ("low", "high", "log"):
            known = nearest(str(key), ("low", "high", "log"))
            raise ParamsError(f"params.yaml: unknown key {where}.{key}", expected=known, found=shown(key))
    for key in ("low", "high"):
        if key not in value:
            raise ParamsError(f"params.yaml: {where}.{key} is missing", expected=kind.expected(), found="nothing")
    low, high = _read(kind, value["low"], f"{where}.low"), _read(kind, value["high"], f"{where}.high", end=True)
    log = _read(ValueType("yes/no"), value.get("log", False), f"{where}.log")
    if isinstance(low, str) or isinstance(high, str) or low > high:
        raise _wrong(where, f"low <= high, not {low} > {high}", value)
    if log and low <= 0:
        raise _wrong(where, f"low > 0 on a logarithmic scale, not {low}", value)
    return Range(low=low, high=high, log=bool(log))


def _read(kind: ValueType, value: Any, where: str, *, end: bool = False) -> Value:
    try:
        return kind.read(value, end=end)
    except ValueError as error:
        raise _wrong(where, str(error), value) from None


def _wrong(where: str, expected: str, value: Any) -> ParamsError:
    return ParamsError(
        f"params.yaml: {where} is wrong",
        expected=expected,
        found=shown(value),
        next_step="`docs/models.md` describes the dimensions",
    )
