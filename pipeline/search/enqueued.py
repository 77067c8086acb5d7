"""Fixed points of a search space, which are not sampled: a family's presets, the centre, and the points of a grid.

All of them are obtained through `suggest`, the family's sampling function, so conditional dimensions are handled.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.core.errors import ParamsError
from pipeline.models.space import Choice, Dimension, Trial
from pipeline.models.values import Hyperparameters, Value

Suggest = Callable[[Trial], Hyperparameters]

MOST_POINTS = 10_000


class FixedTrial:
    """A trial with fixed hyperparameters, to be passed to `suggest`.

    Only values inside the search space are passed on to the underlying trial, and so to the sampler that learns from
    it. A preset may have values outside the space, which a sampler cannot represent.

    Args:
        trial: The underlying trial; it must have been created with these values fixed.
        point: The hyperparameters.
    """

    def __init__(self, trial: Trial, point: Mapping[str, Value]) -> None:
        self._trial = trial
        self._point = point

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return the fixed value; see `Trial`."""
        value = self._point.get(name, low)
        known = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if known and name in self._point:
            return self._trial.suggest_float(name, low, high, log=log)
        return value  # type: ignore[return-value] # a preset's value may have any type: the family checks it

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Return the fixed value; see `Trial`."""
        value = self._point.get(name, low)
        known = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        if known and name in self._point:
            return self._trial.suggest_int(name, low, high, log=log)
        return value  # type: ignore[return-value]

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Any:
        """Return the fixed value; see `Trial`."""
        value = self._point.get(name, choices[0])
        known = any(type(value) is type(choice) and value == choice for choice in choices)  # True == 1 in Python
        return self._trial.suggest_categorical(name, choices) if known and name in self._point else value


def grid(suggest: Suggest, resolution: int | None) -> list[Hyperparameters]:
    """Return every point of a space's grid: all choices, and some numbers from every range.

    Args:
        suggest: The family's sampling function.
        resolution: How many numbers of a range; None for all of its whole numbers.

    Raises:
        ParamsError: The grid has too many points.
    """
    points: list[Hyperparameters] = []
    path: list[int] | None = []
    while path is not None:
        walk = _Walk(path, resolution)
        suggest(walk)
        points.append(walk.point)
        path = walk.next_path()
        if len(points) > MOST_POINTS:
            raise ParamsError(
                "search.sampler: the grid is too large",
                expected=f"at most {MOST_POINTS:,} points",
                found=f"more, with search.grid_points={resolution}",
                next_step="fix or narrow dimensions of the family's space, lower search.grid_points, or use qmc",
            )
    return points


def finite(dimensions: Mapping[str, Dimension]) -> int | None:
    """Return the number of points of a space of choices and whole numbers, conditions aside; None if it has no end."""
    counts = []
    for dimension in dimensions.values():
        if isinstance(dimension, Choice):
            counts.append(len(dimension.choices))
        elif isinstance(dimension.low, int) and isinstance(dimension.high, int):
            counts.append(dimension.high - dimension.low + 1)
        elif dimension.low == dimension.high:
            counts.append(1)
        else:
            return None
    return math.prod(counts)


def centre(suggest: Suggest) -> Hyperparameters:
    """Return the centre of a space: the middle of every range and of every list of choices; of two, the first."""
    middle = _Middle()
    suggest(middle)
    return middle.point


class _Middle:
    """A trial that takes the middle of every dimension."""

    def __init__(self) -> None:
        self.point: Hyperparameters = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._take(name, _spread(low, high, 1, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return int(self._take(name, [round(number) for number in _spread(low, high, 1, log=log)]))

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Any:
        return self._take(name, choices)

    def _take(self, name: str, values: Any) -> Any:
        self.point[name] = values[(len(values) - 1) // 2]
        return self.point[name]


class _Walk:
    """A trial that takes, for each dimension, the value at the index in its path; after the path's end, the first."""

    def __init__(self, path: list[int], resolution: int | None) -> None:
        self.point: Hyperparameters = {}
        self._path = path
        self._resolution = resolution
        self._taken: list[tuple[int, int]] = []  # for each dimension: index of the value, number of values

    def next_path(self) -> list[int] | None:
        """Return the path to the next point: the last index that can be increased is increased by one."""
        for place in reversed(range(len(self._taken))):
            index, count = self._taken[place]
            if index + 1 < count:
                return [*(taken for taken, _ in self._taken[:place]), index + 1]
        return None

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._take(name, _spread(low, high, self._resolution or 1, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        if self._resolution is None:
            return int(self._take(name, range(low, high + 1)))
        numbers = [round(number) for number in _spread(low, high, self._resolution, log=log)]
        return int(self._take(name, sorted(set(numbers))))

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Any:
        return self._take(name, choices)

    def _take(self, name: str, values: Any) -> Any:
        place = len(self._taken)
        taken = self._path[place] if place < len(self._path) else 0
        self._taken.append((taken, len(values)))
        self.point[name] = values[taken]
        return values[taken]


@functools.cache
def _spread(low: float, high: float, count: int, *, log: bool) -> tuple[float, ...]:
    """Return evenly spaced numbers from low to high, including both exactly; a single number is the middle."""
    if low == high:
        return (low,)
    places = [place / (count - 1) for place in range(count)] if count > 1 else [0.5]
    if log:
        between = [math.exp(math.log(low) * (1 - place) + math.log(high) * place) for place in places]
    else:
        between = [low * (1 - place) + high * place for place in places]
    ends = {0.0: low, 1.0: high}
    return tuple(ends.get(place, number) for place, number in zip(places, between, strict=True))
