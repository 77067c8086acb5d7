"""Charts as inline SVG, without scripts, fonts or extra files.

They need no plotting library: colours adapt to dark mode, every mark has a tooltip with its value, and a chart takes
3 kB instead of matplotlib's 30 kB. Colours are classes of the page's style sheet. Texts are escaped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.artifacts.search import Trial
from pipeline.reporting import svg

_WIDTH, _HEIGHT = 400, 235
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 40


@dataclass(frozen=True)
class Bar:
    """A bar: its name, its length, and the text at its end."""

    name: str
    value: float
    text: str


def lines(series: Mapping[str, Sequence[float]], epochs: Sequence[int], label: str, *, shares: bool) -> Markup:
    """Draw curves over epochs, with the classes ``s0``, ``s1`` …; values that are not finite are omitted.

    Args:
        series: The curves by name.
        epochs: The epochs of their values.
        label: Description for screen readers.
        shares: Whether values are shares, shown in percent.
    """
    values = [value for curve in series.values() for value in curve if math.isfinite(value)]
    x, y, drawn = _frame(epochs, values, "epoch", shares=shares)
    for place, (name, curve) in enumerate(series.items()):
        known = [(e, value) for e, value in zip(epochs, curve, strict=True) if math.isfinite(value)]
        path = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in known)
        drawn.append(svg.element("polyline", class_=f"line s{place}", points=path))
        for epoch, value in known:
            tooltip = svg.title(f"epoch {epoch}, {name}: {svg.percent(value) if shares else f'{value:.4g}'}")
            drawn.append(svg.element("circle", tooltip, class_=f"dot s{place}", cx=x(epoch), cy=y(value), r=2.5))
    return svg.picture(_WIDTH, _HEIGHT, label, drawn)


def trials(found: Sequence[Trial], best: int, label: str, *, shares: bool = True) -> Markup:
    """Draw the value of every trial by number, its state as shape and colour, and the best complete value so far.

    Args:
        found: The trials; one without a value is drawn on the axis.
        best: Number of the best trial.
        label: Description for screen readers.
        shares: Whether values are shares, shown in percent.
    """
    numbers = [trial.trial for trial in found]
    x, y, drawn = _frame(numbers, [t.value for t in found if t.value is not None], "trial", shares=shares)
    steps, top = "", -math.inf
    for trial in sorted(found, key=lambda trial: trial.trial):
        if trial.state == "complete" and trial.value is not None and trial.value > top:
            steps += f"{'H' if steps else 'M'}{x(trial.trial):.1f}{'V' if steps else ' '}{y(trial.value):.1f}"
            top = trial.value
    if steps:
        drawn.append(svg.element("path", class_="line best", d=f"{steps}H{x(max(numbers)):.1f}"))
    for trial in found:
        left, up = x(trial.trial), _HEIGHT - _BOTTOM if trial.value is None else y(trial.value)
        value = "no value" if trial.value is None else svg.percent(trial.value) if shares else f"{trial.value:.4g}"
        text = f"trial {trial.trial}: {trial.state}, {value}, {trial.epochs} epochs. {trial.reason or ''}"
        if trial.trial == best:
            drawn.append(svg.element("circle", class_="ring", cx=left, cy=up, r=8))
        drawn.append(svg.element("g", svg.title(text), mark(trial.state), transform=f"translate({left:.1f} {up:.1f})"))
    return svg.picture(_WIDTH, _HEIGHT, label, drawn)


def mark(state: str) -> Markup:
    """Return the mark of a trial's state, centred at the origin: a disc, a hollow triangle, or a cross."""
    shapes = {"complete": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z", "pruned": "M-5-4H5L0 5z"}
    known = state if state in shapes else "failed"
    return svg.element("path", class_=f"mark {known}", d=shapes.get(known, "M-4-4L4 4M-4 4L4-4"))


def bars(found: Sequence[Bar], limit: float, label: str) -> Markup:
    """Draw horizontal bars from 0 to `limit`, with names on the left and texts on the right."""
    row, gap = 20, 4
    left = 14 + 7.0 * max(len(svg.short(bar.name)) for bar in found)
    length = svg.Scale(0, limit, 0, _WIDTH - left - 12 - 6.6 * max(len(bar.text) for bar in found))
    drawn = []
    for place, bar in enumerate(found):
        middle = place * row + row / 2
        box = {"x": left, "y": middle - row / 2 + 2, "height": row - gap, "rx": 2}
        tooltip = svg.title(f"{bar.name}: {bar.text}")
        drawn += [
            svg.text(left - 8, middle, svg.short(bar.name), "tick end"),
            svg.element("rect", class_="track", width=length(limit), **box),
            svg.element("rect", tooltip, class_="bar", width=max(length(bar.value), 1), **box),
            svg.text(left + length(limit) + 6, middle, bar.text, "tick"),
        ]
    return svg.picture(_WIDTH, row * len(found), label, drawn)


def heat_map(confusion: Counter[tuple[str, str]], names: Sequence[str], label: str) -> Markup:
    """Draw a confusion matrix: a row per actual class, shaded by the share of its images, with counts."""
    left = 30 + 6.6 * max(len(svg.short(name)) for name in names)
    cell = (_WIDTH - left - 2) / len(names)
    upright = max(len(svg.short(name)) for name in names) * 6.6 < cell
    top = 38.0 if upright else left
    drawn = [
        svg.text(left + cell * len(names) / 2, 9, "predicted", "tick mid"),
        svg.turned(9, top + cell * len(names) / 2, "actual", "mid"),
    ]
    for place, name in enumerate(names):
        middle = (place + 0.5) * cell
        if cell >= 8:
            drawn.append(svg.text(left - 7, top + middle, svg.short(name), "tick end"))
            above = svg.text(left + middle, top - 10, svg.short(name), "tick mid")
            drawn.append(above if upright else svg.turned(left + middle, top - 7, svg.short(name), "start"))
        total = sum(count for (actual, _), count in confusion.items() if actual == name)
        for other, predicted in enumerate(names):
            count = confusion[name, predicted]
            drawn.append(_cell(left + other * cell, top + place * cell, cell, count, total, (name, predicted)))
    return svg.picture(_WIDTH, top + cell * len(names) + 2, label, drawn)


def interval(low: float, value: float, high: float, lowest: float, highest: float) -> Markup:
    """Draw a value with its interval, on a scale from `lowest` to `highest`."""
    x = svg.Scale(lowest, highest, 6, 154)
    label = f"{svg.percent(value)}, interval {svg.percent(low)} to {svg.percent(high)}"
    drawn = [
        svg.element("path", class_="axis", d="M2 10H158"),
        svg.element("path", class_="whisker", d=f"M{x(low):.1f} 10H{x(high):.1f}M{x(low):.1f} 5v10M{x(high):.1f} 5v10"),
        svg.element("circle", class_="dot s1", cx=x(value), cy=10, r=4.5),
    ]
    return svg.picture(160, 20, label, drawn)


def _cell(left: float, top: float, size: float, count: int, total: int, names: tuple[str, str]) -> Markup:
    share = count / total if total else 0.0
    right = names[0] == names[1]
    # Errors are few: the square root makes one image in a hundred visible.
    shade = round(share if right else math.sqrt(share), 3)
    tooltip = f"actual {names[0]}, predicted {names[1]}: {count:,} of {total:,} images ({svg.percent(share)})"
    kind = ("hit" if right else "miss") if count else "none"
    box = svg.element(
        "rect",
        class_=f"cell {kind}",
        x=left + 0.75,
        y=top + 0.75,
        width=size - 1.5,
        height=size - 1.5,
        rx=min(3, size / 8),
        fill_opacity=max(shade, 0.12) if count else 1,
    )
    number = f"{count}" if count and size >= 14 else ""
    text = svg.text(
        left + size / 2, top + size / 2, number, "count on" if shade > 0.8 else "count", min(12.5, size * 0.36)
    )
    return svg.element("g", svg.title(tooltip), box, text)


def _frame(
    across: Sequence[float], up: Sequence[float], name: str, *, shares: bool
) -> tuple[svg.Scale, svg.Scale, list[Markup]]:
    """Return the scales of both axes, and the grid with its labels."""
    rising = svg.ticks(min(up, default=0.0), max(up, default=1.0), 5)
    inside = (max(across) - min(across)) * 0.02
    x = svg.Scale(min(across) - inside, max(across) + inside, _LEFT + 4, _WIDTH - _RIGHT)
    y = svg.Scale(rising[0], rising[-1], _HEIGHT - _BOTTOM, _TOP)
    digits = max(0, -math.floor(math.log10((rising[1] - rising[0]) * (100 if shares else 1)) + 1e-9))
    drawn = []
    for tick in rising:
        figure = svg.percent(tick, digits) if shares else f"{tick:.{digits}f}"
        drawn.append(svg.element("path", class_="grid", d=f"M{_LEFT} {y(tick):.1f}H{_WIDTH - _RIGHT}"))
        drawn.append(svg.text(_LEFT - 7, y(tick), figure, "tick end"))
    whole = [t for t in svg.ticks(min(across), max(across), 8) if t == round(t) and min(across) <= t <= max(across)]
    drawn += [svg.text(x(tick), _HEIGHT - _BOTTOM + 15, f"{tick:.0f}", "tick mid") for tick in whole]
    drawn.append(svg.text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 7, name, "tick mid"))
    return x, y, drawn
