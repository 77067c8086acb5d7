"""Draws the plots of a search: Optuna's kinds of plots, as static images that are easy to read and print.

The PNG files are reproducible: the same trials give the same bytes. The plots show the trained hyperparameters,
including presets outside the search space, and the values after each trial's last epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.search.plot_axes import Scale, blank, key, measure, objective_text, plain, png, titled, whole, words
from pipeline.search.trials import began, ended, history, hyperparameters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

_STATES = {
    "COMPLETE": ("complete", "#1f5fbf", "o"),
    "PRUNED": ("pruned", "#c98a1b", "v"),
    "FAIL": ("failed", "#b3261e", "x"),
}
_INK, _BEST = "#24292f", "#11703f"
_PANELS = 4  # slice plots per row
# More hyperparameters than these are unreadable in one plot: the least important ones are omitted.
_MOST_PANELS = 12
_MOST_AXES = 10
_MOST_BARS = 12


@dataclass(frozen=True)
class _Point:
    """A trial with a value."""

    trial: FrozenTrial
    value: float
    at: dict[str, Any]


def draw(
    trials: Sequence[FrozenTrial], objective: str, best: int, importances: Mapping[str, float]
) -> dict[str, bytes]:
    """Return the plots as PNG by name; plots without data are omitted.

    Args:
        trials: Trials that have ended.
        objective: The metric that was maximised.
        best: Number of the best trial.
        importances: Share of the variance of the values that each hyperparameter explains.
    """
    points = [_Point(t, history(t)[-1][objective], hyperparameters(t)) for t in trials if history(t)]
    varied = _varied(points)
    figures = {"history": _history(trials, points, objective), "curves": _curves(points, objective, best)}
    if importances:
        figures["importances"] = _importances(importances)
    if varied and len(points) > 1:
        figures["parallel"] = _parallel(points, _weightiest(varied, importances, _MOST_AXES), objective, best)
        figures["slices"] = _slices(points, _weightiest(varied, importances, _MOST_PANELS), objective, best)
    figures["timeline"] = _timeline(trials, best)
    return {name: png(figure) for name, figure in figures.items()}


def _history(trials: Sequence[FrozenTrial], points: Sequence[_Point], objective: str) -> Figure:
    figure, axes = titled(f"{words(objective)} by trial")
    for state, (name, colour, marker) in _STATES.items():
        shown = [point for point in points if point.trial.state.name == state]
        if shown:
            axes.plot([p.trial.number for p in shown], [p.value for p in shown], marker, color=colour, label=name, ms=5)
    lost = [trial.number for trial in trials if not history(trial)]
    if lost:
        lowest = min((p.value for p in points), default=0.0)
        axes.plot(lost, [lowest] * len(lost), "x", color=_STATES["FAIL"][1], ms=6, label="failed before an epoch")
    complete = [p for p in points if p.trial.state.name == "COMPLETE"]
    tops = [max(p.value for p in complete[: place + 1]) for place in range(len(complete))]
    ends = [*(p.trial.number for p in complete), *([max(t.number for t in trials)] if complete else [])]
    axes.step(ends, [*tops, *tops[-1:]], where="post", color=_BEST, lw=1.4, label="best complete so far")
    measure(axes, objective, [point.value for point in points])
    axes.set_xlabel("trial")
    whole(axes.xaxis)
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper left", bbox_to_anchor=(0, -0.16))
    return figure


def _curves(points: Sequence[_Point], objective: str, best: int) -> Figure:
    figure, axes = titled(f"{words(objective)} by epoch; every line is a trial")
    for point in points:
        epochs = history(point.trial)
        is_best = point.trial.number == best
        colour = _BEST if is_best else _STATES[point.trial.state.name][1]
        axes.plot(
            [epoch.epoch for epoch in epochs],
            [epoch[objective] for epoch in epochs],
            color=colour,
            lw=2.2 if is_best else 1.1,
            alpha=1 if is_best else 0.6,
            marker="o",
            ms=4 if is_best else 2.5,
            zorder=3 if is_best else 2,
        )
    measure(axes, objective, [epoch[objective] for point in points for epoch in history(point.trial)])
    axes.set_xlabel("epoch")
    whole(axes.xaxis)
    shown = {point.trial.state.name for point in points}
    labels = [(f"best: trial {best}", _BEST), *(_STATES[state][:2] for state in _STATES if state in shown)]
    for place, (name, colour) in enumerate(labels):
        axes.text(0.3 * place, -0.24, f"— {name}", color=colour, fontsize=9, transform=axes.transAxes)
    return figure


def _importances(importances: Mapping[str, float]) -> Figure:
    names = sorted(importances, key=lambda name: importances[name])[-_MOST_BARS:]
    figure, axes = titled("Hyperparameter importances (PED-ANOVA)", 1.1 + 0.3 * len(names))
    bars = axes.barh(
        [name.replace("_", " ") for name in names], [importances[name] for name in names], color="#1f5fbf", height=0.65
    )
    axes.bar_label(bars, labels=[f"{importances[name]:.0%}" for name in names], fontsize=9, padding=3)
    axes.set_xticks([])
    axes.margins(x=0.1)
    axes.spines[["bottom"]].set_visible(False)
    axes.grid(visible=False)
    return figure


def _parallel(points: Sequence[_Point], varied: Sequence[str], objective: str, best: int) -> Figure:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure, axes = titled(
        f"Hyperparameters of every trial, coloured by the rank of its {words(objective).lower()}", 4.0, 9.0
    )
    scales = [Scale.of([point.at[name] for point in points if name in point.at]) for name in varied]
    ranked = sorted(points, key=lambda point: (point.value, point.trial.number))
    colour = ScalarMappable(Normalize(0, len(ranked) - 1), "viridis_r")
    hue: Any = colour.to_rgba  # its type hints accept arrays only
    for rank, point in enumerate(ranked):
        places = [(x, scales[x](point.at[name])) for x, name in enumerate(varied) if name in point.at]
        is_best = point.trial.number == best
        axes.plot(*zip(*places, strict=True), color=hue(rank), lw=3 if is_best else 1.2, alpha=0.95)
    for x, (name, scale) in enumerate(zip(varied, scales, strict=True)):
        axes.axvline(x, color=_INK, lw=0.8, zorder=1)
        for place, label in scale.marks:
            axes.text(x + 0.04, place, label, fontsize=8, va="center", color=_INK,
                      bbox={"facecolor": "white", "alpha": 0.75, "pad": 0.6, "linewidth": 0}, zorder=5)  # fmt: skip
        axes.text(x, -0.1, name.replace("_", " "), fontsize=9, ha="center", va="top", color=_INK)
    axes.set(xlim=(-0.2, len(varied) - 0.5), ylim=(-0.06, 1.06), xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(colour, ax=axes, fraction=0.025, pad=0.02)
    bar.outline.set_visible(False)
    marks = sorted({round(place * (len(ranked) - 1) / 4) for place in range(5)})
    bar.set_ticks(marks, labels=[objective_text(objective, ranked[rank].value) for rank in marks], fontsize=8)
    return figure


def _slices(points: Sequence[_Point], varied: Sequence[str], objective: str, best: int) -> Figure:
    columns = min(_PANELS, len(varied))
    rows = -(-len(varied) // columns)
    figure = blank(max(6.4, 2.25 * columns), 2.0 * rows + 0.5)
    figure.suptitle(f"{words(objective)} by hyperparameter; later trials darker", x=0.01, ha="left", fontsize=11)
    first: Axes | None = None
    for place, name in enumerate(varied):
        axes = figure.add_subplot(rows, columns, place + 1, sharey=first)
        first = first or axes
        shown = [point for point in points if name in point.at]
        scale = Scale.of([point.at[name] for point in shown])
        numbers = [point.trial.number for point in shown]
        axes.scatter(
            [scale(p.at[name]) for p in shown], [p.value for p in shown], c=numbers, cmap="Blues", s=22,
            vmin=min(numbers) - 0.5 * (max(numbers) - min(numbers) + 1), edgecolors=_INK, linewidths=0.4, zorder=3,
        )  # fmt: skip
        for point in (point for point in shown if point.trial.number == best):
            axes.plot(scale(point.at[name]), point.value, "o", mfc="none", mec=_BEST, ms=10, mew=1.8, zorder=4)
        axes.set_xticks(*zip(*scale.marks, strict=True), fontsize=8)
        axes.set_xlim(-0.12, 1.12)
        axes.set_xlabel(name.replace("_", " "), fontsize=9)
        measure(axes, objective, [point.value for point in points], label=False)
        axes.tick_params(labelleft=place % columns == 0)
        plain(axes)
    return figure


def _timeline(trials: Sequence[FrozenTrial], best: int) -> Figure:
    """Draw the training time of each epoch of a trial as a bar, and waiting or interrupted time as a line."""
    figure, axes = titled("Trials over time: bars train, lines wait", 1.3 + 0.16 * len(trials))
    origin = min((start for trial in trials if (start := began(trial)) is not None), default=0.0)
    for trial in trials:
        start, end = began(trial), ended(trial)
        if start is not None and end is not None:
            colour = _BEST if trial.number == best else _STATES[trial.state.name][1]
            axes.plot([start - origin, end - origin], [trial.number] * 2, color=colour, lw=1, alpha=0.5)
            axes.broken_barh(_trained(trial, origin), (trial.number - 0.35, 0.7), color=colour)
    axes.invert_yaxis()
    whole(axes.yaxis)
    axes.set_ylabel("trial")
    axes.set_xlabel("seconds")
    return figure


def _trained(trial: FrozenTrial, origin: float) -> list[tuple[float, float]]:
    """Return the start, in seconds after `origin`, and the duration of each epoch of a trial."""
    return [(epoch.at - epoch.seconds - origin, epoch.seconds) for epoch in history(trial)]


def _weightiest(names: Sequence[str], importances: Mapping[str, float], most: int) -> list[str]:
    """Return the `most` most important hyperparameters, in their original order."""
    ranked = sorted(names, key=lambda name: (-importances.get(name, 0), names.index(name)))
    return [name for name in names if name in ranked[:most]]


def _varied(points: Sequence[_Point]) -> list[str]:
    """Return the hyperparameters that differ between trials, in the family's order."""
    names = dict.fromkeys(name for point in points for name in point.at)
    return [name for name in names if len({key(p.at[name]) for p in points if name in p.at}) > 1]
