"""Data that a study stores with each trial in addition to Optuna's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, overload

from pipeline.artifacts.search import Trial
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.values import Hyperparameters

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from optuna.trial import FrozenTrial

HISTORY = "history"  # attribute of a trial: the metrics of its epochs, in their flat form


class History(Sequence[EpochMetrics]):
    """The epochs of a trial. Each is parsed on access: a search often needs only their number or the last one."""

    def __init__(self, flat: Sequence[Mapping[str, float]]) -> None:
        self._flat = flat

    def __len__(self) -> int:
        return len(self._flat)

    @overload
    def __getitem__(self, index: int) -> EpochMetrics: ...

    @overload
    def __getitem__(self, index: slice) -> History: ...

    def __getitem__(self, index: int | slice) -> EpochMetrics | History:
        if isinstance(index, slice):
            return History(self._flat[index])
        return EpochMetrics.from_flat(self._flat[index])


def history(trial: optuna.Trial | FrozenTrial) -> History:
    """Return the metrics of every epoch that a trial has reported."""
    return History(trial.user_attrs.get(HISTORY, ()))


def add_epochs(trial: optuna.Trial, epochs: Sequence[EpochMetrics]) -> None:
    """Add epochs to a trial's history, in one write."""
    trial.set_user_attr(HISTORY, [*trial.user_attrs.get(HISTORY, ()), *(epoch.flat() for epoch in epochs)])


def stopped(trial: optuna.Trial | FrozenTrial) -> bool:
    """Return whether a trial's training stopped early because more epochs would not improve it."""
    epochs = history(trial)
    return bool(epochs) and epochs[-1].stopped


def hyperparameters(trial: optuna.Trial | FrozenTrial) -> Hyperparameters:
    """Return the hyperparameters of a trial, including a preset's values that Optuna cannot represent."""
    return dict(trial.user_attrs.get("hyperparameters", trial.params))


def preset(trial: optuna.Trial | FrozenTrial) -> str:
    """Return the name of a trial's preset; empty if it has none."""
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
        seconds=round(sum(epoch.seconds for epoch in epochs), 1),
        reason=trial.user_attrs.get("reason", ""),
        preset=preset(trial),
        hyperparameters=hyperparameters(trial),
    )
