"""A family's section of the page: how it learned, where it errs, and what the search tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.page import charts
from pipeline.page.findings import OfFamily
from pipeline.page.svg import percent
from pipeline.page.written import Trial

_FEW = 1000  # images; with fewer, a hundredth of a percent says nothing
_COLUMNS = ("trial", "state", "value", "epochs", "seconds", "preset")  # of a trial, before its hyperparameters
_CONFUSED = 5  # pairs of classes that are listed


def percent_digits(families: Sequence[OfFamily]) -> int:
    """Return the decimals of a percentage that the number of test images bears."""
    return 1 if families[0].scored.images < _FEW else 2


def duration(seconds: float) -> str:
    """Return a time as text, to three digits or so."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count of something as text."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def family_section(found: OfFamily, names: list[str], digits: int) -> dict[str, Any]:
    """Return what the page shows of a family.

    Args:
        found: The findings.
        names: Class names in the order of the labels.
        digits: Decimals of percentages.
    """
    trained, searched, scored = found.trained, found.searched, found.scored
    names = names + sorted({name for pair in found.confusion for name in pair} - set(names))
    label = f"Confusion matrix of {found.name}: {percent(scored.accuracy, digits)} of images on the diagonal"
    return {
        "name": found.name,
        "told": (
            f"{trained.parameters:,} parameters, {trained.epochs} epochs in {duration(trained.seconds)};"
            f" test loss {scored.loss:.4f} nats."
        ),
        "run": trained.run,
        "curves": _curves(found),
        "heat_map": charts.heat_map(found.confusion, names, label),
        "recall": _recall(found, names, digits),
        "confused": _confused(found),
        "cost": _cost(found),
        "search_run": searched.run,
        "trials_picture": charts.trials(found.trials, searched.best_trial, f"Trials of {found.name}: {_cost(found)}"),
        "pictures": found.pictures,
        "best_trial": searched.best_trial,
        "best": [(name, _told(str(value))) for name, value in found.best.hyperparameters.items()],
        "columns": [
            "trial",
            "state",
            "value",
            "epochs",
            "seconds",
            "preset",
            *found.trials[0].hyperparameters,
            "reason",
        ],
        "trials": [_trial(trial, trial.trial == searched.best_trial) for trial in found.trials],
    }


def _curves(found: OfFamily) -> list[tuple[str, str]]:
    epochs = [epoch.epoch for epoch in found.curves]
    last = found.curves[-1]
    accuracy = {"training": [e.accuracy for e in found.curves], "validation": [e.val_accuracy for e in found.curves]}
    loss = {"training": [e.loss for e in found.curves], "validation": [e.val_loss for e in found.curves]}
    ended = f"after epoch {last.epoch}: training {{}}, validation {{}}"
    accuracies = ended.format(percent(last.accuracy), percent(last.val_accuracy))
    losses = ended.format(f"{last.loss:.4g}", f"{last.val_loss:.4g}")
    return [
        ("Accuracy", charts.lines(accuracy, epochs, f"Accuracy of {found.name} {accuracies}", shares=True)),
        ("Loss", charts.lines(loss, epochs, f"Loss of {found.name} {losses}", shares=False)),
    ]


def _recall(found: OfFamily, names: list[str], digits: int) -> str:
    recall = found.scored.recall
    bars = [charts.Bar(name, recall[name], percent(recall[name], digits)) for name in names if name in recall]
    worst = min(recall, key=lambda name: recall[name])
    return charts.bars(bars, 1.0, f"Bars: accuracy by class, lowest for {worst} with {percent(recall[worst], digits)}")


def _confused(found: OfFamily) -> list[dict[str, str]]:
    wrong = [(pair, count) for pair, count in found.confusion.items() if pair[0] != pair[1]]
    most = sorted(wrong, key=lambda item: (-item[1], item[0]))[:_CONFUSED]
    return [
        {"actual": actual, "predicted": predicted, "told": plural(count, "image")}
        for (actual, predicted), count in most
    ]


def _cost(found: OfFamily) -> str:
    states = ", ".join(f"{count} {state}" for state, count in found.searched.trials.items())
    cost = f"{plural(found.searched.epochs, 'epoch')}, {duration(found.searched.seconds)}"
    return f"{plural(len(found.trials), 'trial')} ({states}), {cost}."


def _trial(trial: Trial, best: bool) -> dict[str, Any]:
    cells = [
        (str(trial.trial), str(trial.trial)),
        (trial.state, trial.state),
        ("", "–") if trial.value is None else (str(trial.value), percent(trial.value)),
        (str(trial.epochs), str(trial.epochs)),
        (str(trial.seconds), f"{trial.seconds:.1f}"),
        (trial.preset or "", trial.preset or ""),
        *((value or "", _told(value or "–")) for value in trial.hyperparameters.values()),
        (trial.reason or "", trial.reason or ""),
    ]
    return {"best": best, "cells": [{"sort": sort, "text": text} for sort, text in cells]}


def _told(value: str) -> str:
    """Return a hyperparameter as text, a fraction with three digits."""
    try:
        return value if value.lstrip("-").isdigit() else f"{float(value):.3g}"
    except ValueError:
        return value
