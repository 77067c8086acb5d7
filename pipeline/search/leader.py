"""Finds the leader of a search: the trial that would win if the search ended now.

Values after different numbers of epochs are not comparable. So trials are compared after the largest number of epochs
that at least two of them have trained: one trial alone, however long it trained, is no comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.search.trials import history, stopped

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_COMPARED = 2  # trials that must have trained so far before a comparison decides


def reached(trial: optuna.Trial | FrozenTrial, total: int) -> int:
    """Return the number of epochs that a trial counts as trained: all of them if it stopped early."""
    return total if stopped(trial) else len(history(trial))


def value_after(trial: optuna.Trial | FrozenTrial, epochs: int, objective: str) -> float:
    """Return the objective after a number of epochs; the last value if the trial stopped earlier."""
    trained = history(trial)
    return trained[min(epochs, len(trained)) - 1][objective]


def leader(contenders: Sequence[FrozenTrial], total: int, objective: str) -> FrozenTrial | None:
    """Return the leader: the best after the largest number of epochs that two trials have reached; None without trials.

    Of several equal ones, the first leads.

    Args:
        contenders: Trials with at least one epoch that meet the limits, including ended ones.
        total: Epochs of a whole trial.
        objective: Metric that is maximised.
    """
    if not contenders:
        return None
    lengths = sorted((reached(trial, total) for trial in contenders), reverse=True)
    epochs = lengths[min(_COMPARED, len(lengths)) - 1]
    compared = [trial for trial in contenders if reached(trial, total) >= epochs]
    return max(compared, key=lambda trial: (value_after(trial, epochs, objective), -trial.number))
