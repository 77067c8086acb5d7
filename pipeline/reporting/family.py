"""A family's section of the page: its learning curves, its errors, and its search."""

from __future__ import annotations

from typing import Any

from pipeline.artifacts.base import Scalar
from pipeline.artifacts.search import Trial
from pipeline.evaluation import base as tasks
from pipeline.evaluation.labels import Shares
from pipeline.reporting import charts
from pipeline.reporting.load_reports import OfFamily
from pipeline.reporting.svg import percent

_COLUMNS = ("trial", "state", "value", "epochs", "preset")  # columns of a trial, before its hyperparameters
_CONFUSED = 5  # pairs of classes that are listed


def duration(seconds: float) -> str:
    """Return a duration as text, with about three significant digits."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun as text."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def family_section(found: OfFamily, names: list[str]) -> dict[str, Any]:
    """Return the content of a family's section.

    Args:
        found: The family's artifacts.
        names: Class names in the order of the labels.
    """
    trained, searched, task = found.trained, found.searched, found.task
    value, shares, never = task.labels.value, task.labels.shares, task.never_predicted(found.scored)
    label = f"Trials of {found.name}: {_cost(found)}"
    return {
        "name": found.name,
        "summary": (
            f"{trained.parameters:,} parameters, {plural(trained.epochs, 'epoch')} in {duration(trained.seconds)};"
            f" {task.sentence(found.scored)}"
            + "".join(f" Seed {seed} has no model: {reason}." for seed, reason in trained.failed.items())
        ),
        "warnings": [f"Class {name!r} is never predicted: none of its test images is found." for name in never],
        "run": trained.run,
        "curves": _curves(found),
        "picture": found.picture,
        "errors": _errors(found, names),
        "cost": _cost(found),
        "search_run": searched.run,
        "value": value if shares else f"{value}, negative",
        "trials_picture": charts.trials(found.trials, searched.best_trial, label, shares=shares),
        "pictures": found.pictures,
        "best_trial": searched.best_trial,
        "best": [(name, _text(value)) for name, value in found.best.hyperparameters.items()],
        "columns": [*_COLUMNS, *found.trials[0].hyperparameters, "reason"],
        "trials": [_trial(trial, trial.trial == searched.best_trial, task) for trial in found.trials],
    }


def _curves(found: OfFamily) -> list[dict[str, Any]]:
    """Return the charts over epochs, without those whose metrics the family does not report."""
    epochs = [epoch.epoch for epoch in found.curves]
    drawn = []
    for chart in found.task.labels.charts:
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
    """Return the charts of a model's errors; None for a task without correct answers."""
    shares = found.task.shares(found.scored)
    if shares is None:
        return None
    names = names + sorted({name for pair in found.confusion for name in pair} - set(names))
    label = f"Confusion matrix of {found.name}: {shares.text(shares.right)} of images on the diagonal"
    return {
        "heat_map": charts.heat_map(found.confusion, names, label),
        "recall": _recall(shares, names),
        "confused": _confused(found),
    }


def _recall(shares: Shares, names: list[str]) -> str:
    recall = shares.by_class
    bars = [charts.Bar(name, recall[name], shares.text(recall[name])) for name in names if name in recall]
    worst = min(recall, key=lambda name: recall[name])
    return charts.bars(bars, 1.0, f"Bars: accuracy by class, lowest for {worst} with {shares.text(recall[worst])}")


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
    cut = " Its deadline ended it before its budget was used." if found.searched.cut_by_deadline else ""
    return f"{plural(len(found.trials), 'trial')} ({states}), {cost}.{cut}"


def _trial(trial: Trial, best: bool, task: tasks.Task[Any]) -> dict[str, Any]:
    cells = [
        (str(trial.trial), str(trial.trial)),
        (trial.state, trial.state),
        ("", "–") if trial.value is None else (str(trial.value), task.value_text(trial.value)),
        (str(trial.epochs), str(trial.epochs)),
        (trial.preset or "", trial.preset or ""),
        *(("", "–") if value is None else (str(value), _text(value)) for value in trial.hyperparameters.values()),
        (trial.reason or "", trial.reason or ""),
    ]
    return {"best": best, "cells": [{"sort": sort, "text": text} for sort, text in cells]}


def _text(value: Scalar) -> str:
    """Return a hyperparameter as text; a float has three significant digits."""
    text = str(value)
    try:
        return text if text.lstrip("-").isdigit() else f"{float(text):.3g}"
    except ValueError:
        return text
