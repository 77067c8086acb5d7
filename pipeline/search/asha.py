"""Asynchronous successive halving (Li et al., arXiv:1810.05934): decides which waiting trials are promoted.

Optuna's pruner of that name cannot make a trial wait, so it favours the trials that started first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from pipeline.search.leader import rank_after
from pipeline.search.trials import history, stopped

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_PROMOTED = "promoted"  # attribute of a trial: the epoch up to which it may train


class Halving:
    """The promotion rule for trials that wait, with a checkpoint, at the end of a rung.

    Args:
        rungs: Epochs at which rungs end.
        reduction: One trial in this many is promoted from a rung. With 0, no trial waits.
        objective: Metric that is maximised.
    """

    def __init__(self, rungs: Sequence[int], reduction: int, objective: str) -> None:
        self._rungs = rungs
        self._reduction = reduction
        self._objective = objective

    def waits(self, trial: optuna.Trial) -> bool:
        """Return whether a trial has reached a rung at which it must wait for promotion."""
        return bool(self._reduction) and 0 < len(history(trial)) >= trial.user_attrs.get(_PROMOTED, 0)

    def promotable(
        self, contenders: Sequence[FrozenTrial], waiting: Collection[int], *, at_least: int = 0
    ) -> int | None:
        """Return the number of a waiting trial that is among the best at its rung; None if there is none.

        Every rung but the first promotes at least one trial, so that one trial soon trains all its epochs.

        Args:
            contenders: All trials that have a value and meet the limits, including ended ones.
            waiting: Numbers of the waiting trials.
            at_least: Minimum number of promotions from each rung. It keeps workers busy when no new trials will start.
        """
        if not waiting or not self._reduction:
            return None
        for end in reversed(self._rungs[:-1]):
            reached = [trial for trial in contenders if len(history(trial)) >= end or stopped(trial)]
            places = max(len(reached) // self._reduction, at_least, int(end > self._rungs[0]))
            best = sorted(reached, key=lambda trial: rank_after(trial, end, self._objective), reverse=True)[:places]
            number = next((t.number for t in best if t.number in waiting and len(history(t)) == end), None)
            if number is not None:
                return number
        return None

    def promote(self, trial: optuna.Trial) -> None:
        """Promote a waiting trial. The study stores the promotion, so it survives a kill."""
        done = len(history(trial))
        trial.set_user_attr(_PROMOTED, next((end for end in self._rungs if end > done), self._rungs[-1]))

    def last(self, contenders: Sequence[FrozenTrial], waiting: Collection[int]) -> int:
        """Return the number of the waiting trial with the fewest epochs; of several, the one with the lowest value."""
        trials = [trial for trial in contenders if trial.number in waiting]
        end = self._rungs[-1]
        return min(trials, key=lambda t: (len(history(t)), rank_after(t, end, self._objective), -t.number)).number
