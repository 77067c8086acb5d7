"""Points of a search space that are given, not sampled: presets of a family, the middle, and the points of a grid.

All come from `suggest`, the function that a family samples with, so conditional dimensions are met where they occur.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.core.errors import ParamsError
from pipeline.models.space import Hyperparameters, Trial, Value

Suggest = Callable[[Trial], Hyperparameters]

_MOST_POINTS = 10_000


class FixedTrial:
    """A trial whose hyperparameters are given, as `suggest` sees it.

    The trial itself, and so the sampler that learns from it, is told of the values that lie in the searched space only:
    a preset may have others, and a sampler cannot hold them.

    Args:
        trial: The trial; it must have been asked for with these values fixed.
        point: Its hyperparameters.
    """

    def __init__(self, trial: Trial, point: Mapping[str, Value]) -> None:
        self._trial = trial
        self._point = point

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return the given value; see `Trial`."""
        value = self._point.get(name, low)
        known = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if known and name in self._point:
            return self._trial.suggest_float(name, low, high, log=log)
        return value  # type: ignore[return-value] # a preset may be of any type: the family knows what it takes

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Return the given value; see `Trial`."""
        value = self._point.get(name, low)
        known = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        if known and name in self._point:
            return self._trial.suggest_int(name, low, high, log=log)
        return value  # type: ignore[return-value]

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Any:
        """Return the given value; see `Trial`."""
        value = self._point.get(name, choices[0])
        known = any(type(value) is type(choice) and value == choice for choice in choices)  # True == 1 in Python
        return self._trial.suggest_categorical(name, choices) if known and name in self._point else value


def grid(suggest: Suggest, resolution: int) -> list[Hyperparameters]:
    """Return every point of a space's grid: all choices, and as many numbers of every range as `resolution` says.

    Raises:
        ParamsError: There are too many to list.
    """
    points: list[Hyperparameters] = []
    path: list[int] | None = []
    while path is not None:
        walk = _Walk(path, resolution)
        suggest(walk)
        points.append(walk.point)
        path = walk.next_path()
        if len(points) > _MOST_POINTS:
            raise ParamsError(
                "search.sampler: the grid is too large",
                expected=f"at most {_MOST_POINTS:,} points",
                found=f"more, with search.grid_points={resolution}",
                next_step="fix or narrow dimensions of the family's space, lower search.grid_points, or take qmc",
            )
    return points


def centre(suggest: Suggest) -> Hyperparameters:
    """Return the middle of a space: of every range, and of every list of choices; of two choices the first."""
    middle = _Middle()
    suggest(middle)
    return middle.point


class _Middle:
    """A trial that takes the middle of whatever it is asked for."""

    def __init__(self) -> None:
        self.point: Hyperparameters = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._answer(name, _spread(low, high, 1, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return int(self._answer(name, [round(number) for number in _spread(low, high, 1, log=log)]))

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Any:
        return self._answer(name, choices)

    def _answer(self, name: str, answers: Any) -> Any:
        self.point[name] = answers[(len(answers) - 1) // 2]
        return self.point[name]


class _Walk:
    """A trial that takes, at each question, the answer whose place its path gives, and the first behind its end."""

    def __init__(self, path: list[int], resolution: int) -> None:
        self.point: Hyperparameters = {}
        self._path = path
        self._resolution = resolution
        self._taken: list[tuple[int, int]] = []  # at each question: the place of the answer, the number of answers

    def next_path(self) -> list[int] | None:
        """Return the path to the next point: the last answer that has one behind it is exchanged."""
        for place in reversed(range(len(self._taken))):
            answer, answers = self._taken[place]
            if answer + 1 < answers:
                return [*(taken for taken, _ in self._taken[:place]), answer + 1]
        return None

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._answer(name, _spread(low, high, self._resolution, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        numbers = [round(number) for number in _spread(low, high, self._resolution, log=log)]
        return int(self._answer(name, sorted(set(numbers))))

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Any:
        return self._answer(name, choices)

    def _answer(self, name: str, answers: Any) -> Any:
        place = len(self._taken)
        taken = self._path[place] if place < len(self._path) else 0
        self._taken.append((taken, len(answers)))
        self.point[name] = answers[taken]
        return answers[taken]


@functools.cache
def _spread(low: float, high: float, count: int, *, log: bool) -> tuple[float, ...]:
    """Return numbers from low to high, both exactly among them, evenly spaced; a single one lies in the middle."""
    if low == high:
        return (low,)
    places = [place / (count - 1) for place in range(count)] if count > 1 else [0.5]
    if log:
        between = [math.exp(math.log(low) * (1 - place) + math.log(high) * place) for place in places]
    else:
        between = [low * (1 - place) + high * place for place in places]
    ends = {0.0: low, 1.0: high}
    return tuple(ends.get(place, number) for place, number in zip(places, between, strict=True))
