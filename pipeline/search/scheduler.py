"""The trial scheduler: which trial trains next, which waits, and which ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core.errors import EngineError
from pipeline.executors.base import Done, Event, Executor, Failed, Progress
from pipeline.models.training.task import TrainingTask
from pipeline.search.mlflow_mirror import MlflowMirror
from pipeline.search.progress import SearchProgress
from pipeline.search.settings import Budget
from pipeline.search.study import Study
from pipeline.search.trials import history, preset

if TYPE_CHECKING:
    import optuna

_MOST_WAITING = 12  # trials, the best of them: each keeps a checkpoint, and disk use is bounded
_OVER = 1.05  # of its minutes, the most that a search plans for (chosen)
_PRESETS = 10  # reference models get one epoch in so many, at most (chosen)


@dataclass
class _Running:
    """A task that a worker trains."""

    trial: optuna.Trial
    task: TrainingTask
    start: int
    stop: int
    since: float

    @property
    def epochs(self) -> int:
        """Number of epochs that it trains."""
        return self.stop - self.start

    def left_s(self, epoch_s: float, now: float) -> float:
        """Return about how many seconds it will take yet.

        Args:
            epoch_s: What an epoch takes, where the trial itself has not shown it.
            now: The time, on the clock that `since` was read from.
        """
        known = history(self.trial)
        each = known[-1].seconds if known else epoch_s
        return max(0.0, self.epochs * each - (now - self.since))


class TrialScheduler:
    """The loop: ask for trials, train them rung by rung, prune between rungs, until the budget is met.

    Where the study makes trials wait, one that has come to a rung lets others come, too. The best of them go on when a
    worker is free; those that are never promoted are pruned at the end.

    The search ends with a leader that has trained all its epochs. So a rung begins only if its trial, should it lead
    then, can train to its end within the budget and 5 % more; the leader's own rungs begin in any case.

    Args:
        study: The study to work on.
        budget: When to end.
        executor: Trains tasks.
        record: Creates the MLflow record. That takes seconds, so workers get tasks first.
        make_task: Makes the task for a trial, from and to an epoch.
        discard: Removes the checkpoints of a trial that has ended, by number.
        progress: Shows how far the search is.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        study: Study,
        budget: Budget,
        executor: Executor,
        record: Callable[[], MlflowMirror],
        make_task: Callable[[optuna.Trial, int, int], TrainingTask],
        discard: Callable[[int], None],
        progress: SearchProgress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study = study
        self._budget = budget
        self._executor = executor
        self._open = record
        self._record: MlflowMirror | None = None
        self._make_task = make_task
        self._discard = discard
        self._progress = progress
        self._running: dict[int, _Running] = {}
        self._waiting: dict[int, optuna.Trial] = {}
        self._exhausted = False  # the study has no more trials to ask for
        tenth = budget.epochs // _PRESETS // study.rungs[0]
        self._presets = min(study.presets, tenth, budget.trials - 1)  # they come last, and take places of the budget
        self._now = clock
        self._spent_until = clock()

    def run(self) -> MlflowMirror:
        """Work until the budget is met and every trial has ended; return the record."""
        left_behind = self._study.unfinished()
        for trial in left_behind:
            self._study.suggest(trial)  # a kill may have come between two suggestions
            self._study.report(trial)
        for known in self._study.trials:
            if known.state.is_finished():
                self._discard(known.number)
        for trial in left_behind:
            self._advance(trial)
        self._fill()
        self._record = record = self._open()
        for known in self._study.trials:
            record.mirror(known)
        while self._running:
            for event in self._executor.wait(timeout_s=1.0):
                self._handle(event, record)
            self._tick()
            self._fill()
        return record

    def interrupt(self, status: Literal["KILLED", "FAILED"]) -> None:
        """End every run that is RUNNING with a status."""
        if self._record is not None:
            self._record.interrupt(status)

    def _fill(self) -> None:
        """Give every idle worker a trial that may go on, else a new one; end those that wait in vain."""
        while len(self._running) < self._executor.slots and (trial := self._promoted() or self._new()) is not None:
            self._advance(trial)
        while len(self._waiting) > (_MOST_WAITING if self._running else 0):
            trial = self._waiting.pop(self._study.halving.last(self._study.contenders(), self._waiting))
            self._end(trial, "pruned", f"not among the best after {len(history(trial))} epochs")

    def _promoted(self) -> optuna.Trial | None:
        """Return a trial that has waited and may go on; the leader before others, once it has left the first rung."""
        if not self._waiting:
            return None
        may_start = self._may_start()
        leader = self._study.leader()
        first = self._study.rungs[0]
        number: int | None
        if leader is not None and leader.number in self._waiting and (len(history(leader)) > first or not may_start):
            number = leader.number
        else:
            eligible = [n for n, trial in self._waiting.items() if self._fits(trial) and not self._study.lost(trial)]
            idle_otherwise = 0 if may_start else self._executor.slots
            contenders = self._study.contenders()
            number = self._study.halving.promotable(contenders, eligible, at_least=idle_otherwise)
        if number is None:
            return None
        trial = self._waiting.pop(number)
        self._study.halving.promote(trial)
        return trial

    def _new(self) -> optuna.Trial | None:
        """Return a new trial, where the budget allows one and the study has one; reference models come last."""
        if not self._may_start():
            return None
        sampled = sum(not preset(trial) for trial in self._study.trials)
        asked = self._study.ask() if sampled < self._budget.trials - self._presets else None
        asked = asked or (self._study.ask_preset() if self._presets_left() else None)
        self._exhausted = asked is None
        return asked

    def _presets_left(self) -> bool:
        return sum(bool(preset(trial)) for trial in self._study.trials) < self._presets

    def _may_start(self) -> bool:
        """Tell whether the budget allows another trial."""
        within = len(self._study.trials) < self._budget.trials
        return within and not self._exhausted and self._fits(None)

    def _fits(self, trial: optuna.Trial | None) -> bool:
        """Tell whether a rung may begin, the next one of a trial or the first one of a new trial: see the class."""
        study, leader = self._study, self._study.leader()
        if trial is not None and leader is not None and trial.number == leader.number:
            return True
        start, stop = (0, study.rungs[0]) if trial is None else study.next_rung(trial) or (study.total, study.total)
        whole = study.whole()
        ends = [stop, *(running.stop for running in self._running.values())]
        waits = leader is not None and leader.number not in self._running and leader.state.name == "RUNNING"
        if leader is not None and waits:
            ends.append(len(history(leader)))
        promised = sum(running.epochs for running in self._running.values())
        if study.epochs() + promised + stop - start + max(0, whole - min(ends)) > self._budget.epochs:
            return False
        needed = max(stop, whole) - start
        limit_s = self._budget.minutes * 60 * _OVER - study.elapsed_s
        if leader is not None and waits:  # where this rung takes the last worker, the leader waits for one
            first_idle = min([*self._left_s(), (stop - start) * study.epoch_s(trial)])
            behind = first_idle if len(self._running) + 1 >= self._executor.slots else 0.0
            if behind + (whole - len(history(leader))) * study.epoch_s(leader) > limit_s:
                return False
        return needed * study.epoch_s(trial) <= limit_s and limit_s > 0

    def _left_s(self) -> list[float]:
        """Return about how many seconds each rung that is trained now will take yet."""
        return [running.left_s(self._progress.epoch_s, self._now()) for running in self._running.values()]

    def _advance(self, trial: optuna.Trial) -> None:
        """End a trial that is trained or not good enough, let it wait, or send its next rung to a worker."""
        rung = self._study.next_rung(trial)
        if violation := self._study.violation(trial):
            self._end(trial, "pruned", violation)
        elif rung is None:
            self._end(trial, "complete")
        elif self._study.lost(trial):
            self._end(trial, "pruned", f"a preset that does not lead after {len(history(trial))} epochs")
        elif self._study.halving.waits(trial):
            self._waiting[trial.number] = trial
            self._mirror(trial.number)
        elif history(trial) and (reason := self._stops(trial)):
            self._end(trial, "pruned", reason)
        else:
            task = self._make_task(trial, *rung)
            self._running[trial.number] = _Running(trial, task, *rung, since=self._now())
            self._executor.submit(trial.number, task)
            self._mirror(trial.number)

    def _stops(self, trial: optuna.Trial) -> str:
        """Return why a trial does not begin its next rung; nothing where it does. The leader always does."""
        leader = self._study.leader()
        if leader is not None and leader.number == trial.number:
            return ""
        if trial.should_prune():
            return f"not among the best after {len(history(trial))} epochs"
        return "" if self._fits(trial) else "the budget of the search was met"

    def _handle(self, event: Event, record: MlflowMirror) -> None:
        if isinstance(event, Progress):
            return
        running = self._running.pop(event.key)
        trial, task = running.trial, running.task
        if isinstance(event, Done):
            measured = {"worker": event.worker, **event.result.measured()}
            for name, value in measured.items():
                trial.set_user_attr(name, value)
            self._study.record(trial, event.result.epochs)
            record.show(trial.number, len(history(trial)), [task.folder / name for name in event.result.pictures])
            self._progress.task_done(event.result.epochs, event.result.checkpoint_bytes)
            self._tick()
            self._advance(trial)
        elif isinstance(event, Failed):
            self._end(trial, "failed", event.reason)
        else:
            raise EngineError(
                f"trial {trial.number} cannot go on",
                expected="a machine that can train",
                found=event.reason,
                done="finished rungs are kept",
                next_step="mend it and run the same command again",
            )

    def _end(self, trial: optuna.Trial, state: Any, reason: str = "") -> None:
        self._study.tell(trial, state, reason)
        self._discard(trial.number)  # at once: disk use is bounded by the trials that run
        self._mirror(trial.number)

    def _mirror(self, number: int) -> None:
        if self._record is not None:  # else it mirrors all trials once it is open
            self._record.mirror(self._study.trials[number])

    def _tick(self) -> None:
        now = self._now()
        if now - self._spent_until >= 1.0:  # the study's clock is written about once a second, not at every event
            self._study.spend(now - self._spent_until)
            self._spent_until = now
            left = max(self._left_s(), default=0.0)
            self._progress.update(self._study, self._budget, len(self._waiting), left)
