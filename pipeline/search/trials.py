"""What a study remembers of its trials, beside what Optuna does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.artifacts.search import Trial
from pipeline.models.space import Hyperparameters

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from optuna.trial import FrozenTrial

Metrics = dict[str, float]


def history(trial: optuna.Trial | FrozenTrial) -> list[Metrics]:
    """Return the metrics of every epoch that a trial has reported."""
    epochs: list[Metrics] = trial.user_attrs.get("history", [])
    return epochs


def stopped(trial: optuna.Trial | FrozenTrial) -> bool:
    """Tell whether a trial's training ended before its time, and well: there is nothing left for it to gain."""
    epochs = history(trial)
    return bool(epochs and epochs[-1].get("stopped"))


def hyperparameters(trial: optuna.Trial | FrozenTrial) -> Hyperparameters:
    """Return the hyperparameters of a trial. The one truth: Optuna cannot hold all values of a preset."""
    return dict(trial.user_attrs.get("hyperparameters", trial.params))


def preset(trial: optuna.Trial | FrozenTrial) -> str:
    """Return the name of the preset that a trial is; empty where it is none."""
    return str(trial.user_attrs.get("preset", ""))


def table(trials: Sequence[FrozenTrial], objective: str) -> pd.DataFrame:
    """Return one row per trial: number, state, value, epochs, seconds, reason, preset and hyperparameters."""
    import pandas as pd

    return pd.DataFrame([_row(trial, objective).cells() for trial in trials])


def _row(trial: FrozenTrial, objective: str) -> Trial:
    epochs = history(trial)
    return Trial(
        trial=trial.number,
        state=trial.state.name.lower(),
        value=epochs[-1][objective] if epochs else None,
        epochs=len(epochs),
        seconds=round(sum(epoch["seconds"] for epoch in epochs), 1),
        reason=trial.user_attrs.get("reason", ""),
        preset=preset(trial),
        hyperparameters=hyperparameters(trial),
    )
