"""Which trial leads a search: the one that would win if the search ended now.

Values after different numbers of epochs do not compare. So two trials compare after the largest number of epochs that
both have trained, and a trial that has trained less leads only while nobody that went further was better at its point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.search.trials import history, stopped

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


def reached(trial: optuna.Trial | FrozenTrial, total: int) -> int:
    """Return the number of epochs after which a trial counts: all of them, where it stopped early and well."""
    return total if stopped(trial) else len(history(trial))


def value_after(trial: optuna.Trial | FrozenTrial, epochs: int, objective: str) -> float:
    """Return the objective after a number of epochs; of a trial that stopped before, the last one."""
    trained = history(trial)
    return trained[min(epochs, len(trained)) - 1][objective]


def unbeaten(contenders: Sequence[FrozenTrial], total: int, objective: str) -> list[FrozenTrial]:
    """Return the trials that no other trial has beaten where they stand, those that went furthest first.

    Of the trials with equally many epochs the best is unbeaten (of equals, the first), unless a trial with more epochs
    was as good after as many. Trials that train on only make this harder: nobody becomes unbeaten by waiting.

    Args:
        contenders: Trials with at least one epoch that keep to the limits, ended ones too.
        total: Epochs of a whole trial.
        objective: Metric that is maximised.
    """
    found: list[FrozenTrial] = []
    further: list[FrozenTrial] = []
    for epochs in sorted({reached(trial, total) for trial in contenders}, reverse=True):
        here = [trial for trial in contenders if reached(trial, total) == epochs]
        best = max(here, key=lambda trial: (value_after(trial, epochs, objective), -trial.number))
        if all(value_after(best, epochs, objective) > value_after(other, epochs, objective) for other in further):
            found.append(best)
        further += here
    return found


def leader(contenders: Sequence[FrozenTrial], first: int, total: int, objective: str) -> FrozenTrial | None:
    """Return the trial that leads: the unbeaten one with the fewest epochs; None where there are no contenders.

    Trials that have come to the end of the first rung only do not lead once another went further: one short rung
    qualifies a trial, it decides nothing.

    Args:
        contenders: As for `unbeaten`.
        first: Epochs of the first rung.
        total: Epochs of a whole trial.
        objective: Metric that is maximised.
    """
    ranked = unbeaten(contenders, total, objective)
    qualified = [trial for trial in ranked if reached(trial, total) > first]
    candidates = qualified or ranked
    return candidates[-1] if candidates else None
