"""Building blocks of the charts: scales, SVG elements and texts. Every string is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.evaluation import labels

percent = labels.percent
_LONGEST = 16  # characters of a class name; the whole name is in the tooltip


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels; the middle if the range is a single value."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.stop - self.start)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round values, at least two, that enclose a range."""
    raw = ((high - low) or abs(high) or 1.0) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.floor(round(low / step, 6)), math.ceil(round(high / step, 6))
    return [round(place * step, 12) for place in range(first, max(last, first + 1) + 1)]


def short(name: str) -> str:
    """Return a name shortened to fit an axis; the tooltip shows the whole name."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def title(content: str) -> Markup:
    """Return a tooltip for the enclosing element."""
    return element("title", content)


def text(x: float, y: float, content: str, kind: str, size: float = 12) -> Markup:
    """Return a text, vertically centred at `y`; ``end`` or ``mid`` in `kind` puts its end or middle at `x`."""
    return element("text", content, class_=kind, x=x, y=y + size * 0.35, font_size=size)


def turned(x: float, y: float, content: str, kind: str) -> Markup:
    """Return a text rotated to read upwards."""
    place = f"translate({x + 4:.1f} {y:.1f}) rotate(-90)"
    return element("text", content, class_=f"tick {kind}", transform=place, font_size=12)


def picture(width: float, height: float, label: str, drawn: Sequence[Markup]) -> Markup:
    """Return a whole picture; `label` describes it for screen readers."""
    box = f"0 0 {width:g} {height:g}"
    return element("svg", *drawn, class_="chart", viewBox=box, width=width, height=height, role="img", aria_label=label)


def element(_name: str, *content: str, **attributes: str | float) -> Markup:
    """Return an SVG element; content and attributes are escaped unless they are markup."""
    written = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_") if name.endswith("_") else name.replace("_", "-"), _plain(value))
        for name, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(_name), written, Markup("").join(content))


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3f}".rstrip("0").rstrip(".")
