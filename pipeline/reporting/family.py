"""A family's section of the page: how it learned, where it errs, and what the search tried."""

from __future__ import annotations

from typing import Any

from pipeline.reporting import charts, task_labels
from pipeline.reporting.load_reports import OfFamily
from pipeline.reporting.svg import percent
from pipeline.reporting.task_labels import TELLING
from pipeline.reporting.written import Scored, Trial

_COLUMNS = ("trial", "state", "value", "epochs", "seconds", "preset")  # of a trial, before its hyperparameters
_CONFUSED = 5  # pairs of classes that are listed


def duration(seconds: float) -> str:
    """Return a time as text, to three digits or so."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count of something as text."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def family_section(found: OfFamily, names: list[str]) -> dict[str, Any]:
    """Return what the page shows of a family.

    Args:
        found: The findings.
        names: Class names in the order of the labels.
    """
    trained, searched, task = found.trained, found.searched, found.scored.task
    labels, shares = TELLING[task], TELLING[task].shares
    label = f"Trials of {found.name}: {_cost(found)}"
    return {
        "name": found.name,
        "summary": (
            f"{trained.parameters:,} parameters, {plural(trained.epochs, 'epoch')} in {duration(trained.seconds)};"
            f" {task_labels.sentence(found.scored)}"
        ),
        "run": trained.run,
        "curves": _curves(found),
        "picture": found.picture,
        "errors": _errors(found, names),
        "cost": _cost(found),
        "search_run": searched.run,
        "value": labels.value if shares else f"{labels.value}, negative",
        "trials_picture": charts.trials(found.trials, searched.best_trial, label, shares=shares),
        "pictures": found.pictures,
        "best_trial": searched.best_trial,
        "best": [(name, _rounded(str(value))) for name, value in found.best.hyperparameters.items()],
        "columns": [*_COLUMNS, *found.trials[0].hyperparameters, "reason"],
        "trials": [_trial(trial, trial.trial == searched.best_trial, task) for trial in found.trials],
    }


def _curves(found: OfFamily) -> list[dict[str, Any]]:
    """Return the charts over epochs, without those of which the family reports nothing."""
    epochs = [epoch.epoch for epoch in found.curves]
    drawn = []
    for chart in TELLING[found.scored.task].curves:
        if not set(chart.lines.values()) <= set(found.curves[-1].metrics):
            continue
        series = {name: [e.metrics[column] for e in found.curves] for name, column in chart.lines.items()}
        last = {name: percent(curve[-1]) if chart.shares else f"{curve[-1]:.4g}" for name, curve in series.items()}
        ended = f"after epoch {epochs[-1]}: {', '.join(f'{name} {value}' for name, value in last.items())}"
        label = f"{chart.title} of {found.name} {ended}"
        picture = charts.lines(series, epochs, label, shares=chart.shares)
        drawn.append({"name": chart.title, "keys": list(series), "picture": picture})
    return drawn


def _errors(found: OfFamily, names: list[str]) -> dict[str, Any] | None:
    """Return where a classifier errs; None for a model that does not classify."""
    scored = found.scored
    if not isinstance(scored, Scored):
        return None
    digits = task_labels.digits(scored)
    names = names + sorted({name for pair in found.confusion for name in pair} - set(names))
    label = f"Confusion matrix of {found.name}: {percent(scored.accuracy, digits)} of images on the diagonal"
    return {
        "heat_map": charts.heat_map(found.confusion, names, label),
        "recall": _recall(scored, names, digits),
        "confused": _confused(found),
    }


def _recall(scored: Scored, names: list[str], digits: int) -> str:
    recall = scored.recall
    bars = [charts.Bar(name, recall[name], percent(recall[name], digits)) for name in names if name in recall]
    worst = min(recall, key=lambda name: recall[name])
    return charts.bars(bars, 1.0, f"Bars: accuracy by class, lowest for {worst} with {percent(recall[worst], digits)}")


def _confused(found: OfFamily) -> list[dict[str, str]]:
    wrong = [(pair, count) for pair, count in found.confusion.items() if pair[0] != pair[1]]
    most = sorted(wrong, key=lambda item: (-item[1], item[0]))[:_CONFUSED]
    return [
        {"actual": actual, "predicted": predicted, "count": plural(count, "image")}
        for (actual, predicted), count in most
    ]


def _cost(found: OfFamily) -> str:
    states = ", ".join(f"{count} {state}" for state, count in found.searched.trials.items())
    cost = f"{plural(found.searched.epochs, 'epoch')}, {duration(found.searched.seconds)}"
    return f"{plural(len(found.trials), 'trial')} ({states}), {cost}."


def _trial(trial: Trial, best: bool, task: str) -> dict[str, Any]:
    cells = [
        (str(trial.trial), str(trial.trial)),
        (trial.state, trial.state),
        ("", "–") if trial.value is None else (str(trial.value), task_labels.value(trial.value, task)),
        (str(trial.epochs), str(trial.epochs)),
        (str(trial.seconds), f"{trial.seconds:.1f}"),
        (trial.preset or "", trial.preset or ""),
        *((value or "", _rounded(value or "–")) for value in trial.hyperparameters.values()),
        (trial.reason or "", trial.reason or ""),
    ]
    return {"best": best, "cells": [{"sort": sort, "text": text} for sort, text in cells]}


def _rounded(value: str) -> str:
    """Return a hyperparameter as text, a fraction with three digits."""
    try:
        return value if value.lstrip("-").isdigit() else f"{float(value):.3g}"
    except ValueError:
        return value
