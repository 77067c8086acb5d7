"""Common style of the plots: figures, scales and labels."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

SOFT = "#d0d7de"
# Possible tick labels of an axis of shares.
_SHARES = (
    *(0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985),
    *(0.99, 0.992, 0.994, 0.995, 0.996, 0.997, 0.998, 0.999, 0.9995),
)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Maps values of a hyperparameter to 0..1: numbers by size; up to three numbers, or other values, evenly spaced.

    Attributes:
        marks: Positions and texts of the axis labels.
    """

    marks: tuple[tuple[float, str], ...]
    places: Mapping[Any, float]

    def __call__(self, value: Any) -> float:
        return self.places[key(value)]

    @classmethod
    def of(cls, values: Sequence[Any]) -> Scale:
        """Return the scale of some values; a logarithmic one if they span more than a factor of 20."""
        different = {key(value): value for value in values}
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in different.values())
        if not numbers or len(different) <= 3:
            order = sorted(different, key=lambda key: different[key]) if numbers else sorted(different)
            step = 1 / max(len(order) - 1, 1)
            places = {key: step * place for place, key in enumerate(order)}
            return cls(tuple((places[key], hyperparameter_text(different[key])) for key in order), places)
        low, high = min(different.values()), max(different.values())
        turned = math.log if low > 0 and high > 20 * low else float
        span = turned(high) - turned(low)
        places = {key: (turned(value) - turned(low)) / span for key, value in different.items()}
        middle = math.exp((turned(low) + turned(high)) / 2) if turned is math.log else (low + high) / 2
        marks = ((0.0, low), (0.5, middle), (1.0, high))
        return cls(tuple((place, hyperparameter_text(value)) for place, value in marks), places)


def key(value: Any) -> str:
    """Return a key that is unique to a value, so that True and 1 differ."""
    return repr(value)


def hyperparameter_text(value: Any) -> str:
    """Return a hyperparameter as text; a float has two significant digits."""
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _turned(share: Any) -> Any:
    """Scale shares by the logarithm of the error: from 98 to 99 % is as far as from 80 to 90 %."""
    return -np.log(1.0001 - np.clip(share, 0, 1))


def _back(turned: Any) -> Any:
    return 1.0001 - np.exp(-np.asarray(turned))


def is_share(objective: str) -> bool:
    """Return whether values of an objective are shares."""
    return objective.endswith("accuracy")


def words(objective: str) -> str:
    """Return the readable name of an objective."""
    return objective.replace("val_", "validation ").replace("_", " ").capitalize()


def measure(axes: Axes, objective: str, values: Sequence[float], *, label: bool = True) -> None:
    """Scale and label the value axis."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    if is_share(objective):
        axes.set_yscale("function", functions=(_turned, _back))
        axes.yaxis.set_major_locator(FixedLocator(_ticks(min(values, default=0.0), max(values, default=1.0))))
        axes.yaxis.set_minor_locator(FixedLocator([]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: objective_text(objective, value)))
    if label:
        axes.set_ylabel(words(objective).lower())


def objective_text(objective: str, value: float) -> str:
    """Return a value of an objective as text."""
    return f"{100 * value:.4g} %" if is_share(objective) else f"{value:.4g}"


def _ticks(low: float, high: float) -> list[float]:
    """Return round shares within a range, the highest first, with enough distance for their labels."""
    from matplotlib.ticker import MaxNLocator

    span = float(_turned(high) - _turned(low))
    taken: list[float] = []
    for share in (share for share in reversed(_SHARES) if low <= share <= high):
        if not taken or float(_turned(taken[-1]) - _turned(share)) > span / 8:
            taken.append(share)
    return taken if len(taken) >= 3 else [float(tick) for tick in MaxNLocator(4).tick_values(low, high)]


def whole(axis: Axis) -> None:
    """Label an axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def titled(title: str, height: float = 3.6, width: float = 6.4) -> tuple[Figure, Axes]:
    """Return a figure with one titled plot; sizes are in inches."""
    figure = blank(width, height)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    plain(axes)
    return figure, axes


def plain(axes: Axes) -> None:
    """Remove chart clutter."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=SOFT, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def blank(width: float, height: float) -> Figure:
    """Return an empty figure; sizes are in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG with 128 colours, a quarter of the full size, because the page embeds every plot."""
    from PIL import Image

    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    small = io.BytesIO()
    Image.open(content).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()
