"""A search space: named dimensions that stand beside the model they shape, and that params can narrow, widen or fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pydantic

from pipeline.core import params
from pipeline.core.errors import ParamsError, nearest

Value = bool | int | float | str
Hyperparameters = dict[str, Value]


class Trial(Protocol):
    """The part of an Optuna trial that sampling needs, so that families need not know Optuna."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Any: ...


class Choice(params.Settings):
    """One of some values."""

    choices: tuple[pydantic.StrictBool | pydantic.StrictInt | pydantic.StrictFloat | pydantic.StrictStr, ...] = (
        pydantic.Field(min_length=1)
    )

    def holds(self, value: Value) -> bool:
        """Return whether a value is one of these."""
        return value in self.choices

    def sample(self, trial: Trial, name: str) -> Value:
        """Sample a value of this dimension from a trial."""
        value: Value = trial.suggest_categorical(name, self.choices)
        return value


class Range(params.Settings):
    """Numbers from `low` to `high`, both included; whole ones where both bounds are whole."""

    low: pydantic.StrictInt | pydantic.StrictFloat
    high: pydantic.StrictInt | pydantic.StrictFloat
    log: bool = False

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low <= high, not {self.low} > {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low > 0 on a logarithmic scale, not {self.low}")
        return self

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


def override(space: Space, overrides: Mapping[str, Any], where: str) -> dict[str, Dimension]:
    """Return a space with some dimensions replaced.

    Args:
        space: The family's own space.
        overrides: By name: a value (fixes the dimension), a list (its choices), or ``{low, high, log}``.
        where: The name of the params section, for error messages.

    Raises:
        ParamsError: A name that the space does not have, or a value that is no dimension.
    """
    changed = dict(space)
    for name, value in overrides.items():
        if name not in space:
            raise ParamsError(f"{where}: unknown dimension", expected=nearest(name, space), found=repr(name))
        changed[name] = _dimension(value, f"{where}.{name}")
    return changed


def sample(trial: Trial, space: Space) -> Hyperparameters:
    """Sample a value of every dimension from a trial."""
    return {name: dimension.sample(trial, name) for name, dimension in space.items()}


def _dimension(value: Any, where: str) -> Dimension:
    if isinstance(value, Mapping):
        return params.parse(where, value, Range)
    choices = value if isinstance(value, list | tuple) else (value,)
    return params.parse(where, {"choices": choices}, Choice)
