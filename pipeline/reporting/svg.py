"""What the charts are made of: scales, and elements and texts of SVG. Every string is escaped."""

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
    """Maps values onto pixels; a single value onto the middle."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.stop - self.start)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return at least two round values, about `count`, that enclose a range."""
    raw = ((high - low) or abs(high) or 1.0) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.floor(round(low / step, 6)), math.ceil(round(high / step, 6))
    return [round(place * step, 12) for place in range(first, max(last, first + 1) + 1)]


def short(name: str) -> str:
    """Return a name cut to the room of an axis; the tooltip holds the whole one."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def title(content: str) -> Markup:
    """Return the tooltip of the element that it is put into."""
    return element("title", content)


def text(x: float, y: float, content: str, kind: str, size: float = 12) -> Markup:
    """Return a text whose middle line is at `y`; ``end`` or ``mid`` in `kind` put its end or middle at `x`."""
    return element("text", content, class_=kind, x=x, y=y + size * 0.35, font_size=size)


def turned(x: float, y: float, content: str, kind: str) -> Markup:
    """Return a text that is turned to read upwards."""
    place = f"translate({x + 4:.1f} {y:.1f}) rotate(-90)"
    return element("text", content, class_=f"tick {kind}", transform=place, font_size=12)


def picture(width: float, height: float, label: str, drawn: Sequence[Markup]) -> Markup:
    """Return a whole picture; `label` describes it for screen readers."""
    box = f"0 0 {width:g} {height:g}"
    return element("svg", *drawn, class_="chart", viewBox=box, width=width, height=height, role="img", aria_label=label)


def element(_name: str, *content: str, **attributes: str | float) -> Markup:
    """Return an element; content and attributes are escaped unless they are markup."""
    written = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_") if name.endswith("_") else name.replace("_", "-"), _plain(value))
        for name, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(_name), written, Markup("").join(content))


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3f}".rstrip("0").rstrip(".")
