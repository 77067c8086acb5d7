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
    """Return one row per trial: number, state, value, epochs, reason, preset and hyperparameters.

    It has no times: the same search gives the same bytes on every machine. They are in `timings`.
    """
    import pandas as pd

    return pd.DataFrame([_row(trial, objective).cells() for trial in trials])


def timings(trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """Return one row per trial: number, seconds of training and the worker of its last rung."""
    import pandas as pd

    columns = ["trial", "seconds", "worker"]
    rows = [
        (trial.number, round(sum(epoch.seconds for epoch in history(trial)), 1), trial.user_attrs.get("worker", ""))
        for trial in trials
    ]
    return pd.DataFrame(rows, columns=columns)


def began(trial: FrozenTrial) -> float | None:
    """Return when a trial's first epoch began, in seconds since the Unix epoch; None if it has none."""
    epochs = history(trial)
    return epochs[0].at - epochs[0].seconds if epochs else None


def ended(trial: FrozenTrial) -> float | None:
    """Return when a trial's last epoch ended, in seconds since the Unix epoch; None if it has none."""
    epochs = history(trial)
    return epochs[-1].at if epochs else None


def _row(trial: FrozenTrial, objective: str) -> Trial:
    epochs = history(trial)
    return Trial(
        trial=trial.number,
        state=trial.state.name.lower(),
        value=epochs[-1][objective] if epochs else None,
        epochs=len(epochs),
        reason=trial.user_attrs.get("reason", ""),
        preset=preset(trial),
        hyperparameters=hyperparameters(trial),
    )
