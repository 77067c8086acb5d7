"""Finds the leader of a search: the trial that would win if the search ended now.

Values after different numbers of epochs are not comparable. So two trials are compared after the largest number of
epochs that both have trained. A trial with fewer epochs leads only while no trial with more was as good at that point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.search.trials import history, stopped

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


def reached(trial: optuna.Trial | FrozenTrial, total: int) -> int:
    """Return the number of epochs that a trial counts as trained: all of them if it stopped early."""
    return total if stopped(trial) else len(history(trial))


def rank_after(trial: optuna.Trial | FrozenTrial, epochs: int, objective: str) -> tuple[float, float]:
    """Return what ranks a trial after some epochs, or after its last one if it stopped earlier: higher is better.

    It is the objective, and the negative validation loss, which decides between equals: on small validation splits many
    trials reach the same accuracy.
    """
    trained = history(trial)
    reported = trained[min(epochs, len(trained)) - 1]
    loss = reported.values.get("val_loss", math.inf)
    return reported[objective], -loss if math.isfinite(loss) else -math.inf


def unbeaten(contenders: Sequence[FrozenTrial], total: int, objective: str) -> list[FrozenTrial]:
    """Return the trials that no other trial has beaten at their number of epochs, those with the most epochs first.

    Among trials with the same number of epochs, the best is unbeaten (the first, if several are equal), unless a trial
    with more epochs was as good after that many. As other trials train on, this only becomes harder to meet: a waiting
    trial never becomes unbeaten later.

    Args:
        contenders: Trials with at least one epoch that meet the limits, including ended ones.
        total: Epochs of a whole trial.
        objective: Metric that is maximised.
    """
    found: list[FrozenTrial] = []
    further: list[FrozenTrial] = []
    for epochs in sorted({reached(trial, total) for trial in contenders}, reverse=True):
        here = [trial for trial in contenders if reached(trial, total) == epochs]
        best = max(here, key=lambda trial: (rank_after(trial, epochs, objective), -trial.number))
        if all(rank_after(best, epochs, objective) > rank_after(other, epochs, objective) for other in further):
            found.append(best)
        further += here
    return found


def leader(contenders: Sequence[FrozenTrial], first: int, total: int, objective: str) -> FrozenTrial | None:
    """Return the leader: the unbeaten trial with the fewest epochs; None if there are no contenders.

    Once a trial has trained beyond the first rung, trials that have only finished the first rung do not lead: one short
    rung is too little to decide.

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
