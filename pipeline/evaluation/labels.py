"""Labels and formats of a task's figures, in a terminal and on the report page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_FEW = 1000  # images; with fewer, a hundredth of a percent is noise


@dataclass(frozen=True)
class Chart:
    """A chart over epochs: its title, its lines by name as columns of curves.csv, and whether they are shares."""

    title: str
    lines: Mapping[str, str]
    shares: bool = False


@dataclass(frozen=True)
class Labels:
    """The texts of a task on the report page.

    Attributes:
        title: Title of its leaderboard.
        value: Name of the objective on validation data.
        shares: Whether the objective is a share; otherwise it is the negative of a distance.
        columns: Columns of its leaderboard, after the family and before the time.
        charts: The charts of a training.
        note: The text under its leaderboard.
    """

    title: str
    value: str
    shares: bool
    columns: tuple[str, ...]
    charts: tuple[Chart, ...]
    note: str


@dataclass(frozen=True)
class Line:
    """A model in the leaderboard of a terminal: validation value, test value, and what to compare the latter with."""

    validation: str
    test: str
    beside: str


@dataclass(frozen=True)
class Tile:
    """A figure at the head of a page: its name, the figure, and a note."""

    name: str
    figure: str
    note: str


@dataclass(frozen=True)
class Shares:
    """The share of images with the right answer: its interval, and the share of each class by name."""

    low: float
    right: float
    high: float
    by_class: Mapping[str, float]
    digits: int

    def text(self, share: float) -> str:
        """Return a share as text, with the digits that the number of images supports."""
        return percent(share, self.digits)


def percent(share: float, digits: int = 2) -> str:
    """Return a share as text, with a space that does not break."""
    return f"{share:.{digits}%}".replace("%", "\N{NO-BREAK SPACE}%")


def digits(images: int) -> int:
    """Return the decimals of a percentage that a number of images supports."""
    return 1 if images < _FEW else 2
