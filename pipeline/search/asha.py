"""Asynchronous successive halving (Li et al., arXiv:1810.05934): which trials wait at a rung, and which of them go on.

Optuna's pruner of that name cannot make a trial wait, so it lets the first ones go far because they came first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from pipeline.search.leader import value_after
from pipeline.search.trials import history, stopped

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_PROMOTED = "promoted"  # attribute of a trial: to which epoch it may go on


class Halving:
    """The rule, for trials that wait with a checkpoint where a rung ends.

    Args:
        rungs: Epochs at which rungs end.
        reduction: One trial in this many goes on from a rung; 0: none ever waits.
        objective: Metric that is maximised.
    """

    def __init__(self, rungs: Sequence[int], reduction: int, objective: str) -> None:
        self._rungs = rungs
        self._reduction = reduction
        self._objective = objective

    def waits(self, trial: optuna.Trial) -> bool:
        """Tell whether a trial has come to a rung at which it has to wait until it is promoted."""
        return bool(self._reduction) and 0 < len(history(trial)) >= trial.user_attrs.get(_PROMOTED, 0)

    def promotable(
        self, contenders: Sequence[FrozenTrial], waiting: Collection[int], *, at_least: int = 0
    ) -> int | None:
        """Return which of the waiting trials goes on: one that is among the best of those that came to its rung.

        One place at least at every rung but the first: there soon is a trial that has come to the end.

        Args:
            contenders: All trials that have a value and keep to the limits, ended ones too.
            waiting: Numbers of those that wait.
            at_least: How many go on from each rung however few have come: when no others will, workers would be idle.
        """
        if not waiting:
            return None
        for end in reversed(self._rungs[:-1]):
            reached = [trial for trial in contenders if len(history(trial)) >= end or stopped(trial)]
            places = max(len(reached) // self._reduction, at_least, int(end > self._rungs[0]))
            best = sorted(reached, key=lambda trial: (-value_after(trial, end, self._objective), trial.number))[:places]
            number = next((t.number for t in best if t.number in waiting and len(history(t)) == end), None)
            if number is not None:
                return number
        return None

    def promote(self, trial: optuna.Trial) -> None:
        """Let a trial go on that has waited. A search that is killed in its next rung finds that written here."""
        done = len(history(trial))
        trial.set_user_attr(_PROMOTED, next((end for end in self._rungs if end > done), self._rungs[-1]))

    def last(self, contenders: Sequence[FrozenTrial], waiting: Collection[int]) -> int:
        """Return which of the waiting trials has come least far, and there was worst."""
        trials = [trial for trial in contenders if trial.number in waiting]
        end = self._rungs[-1]
        return min(trials, key=lambda t: (len(history(t)), value_after(t, end, self._objective), -t.number)).number
