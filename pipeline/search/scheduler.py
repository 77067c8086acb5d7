"""The trial scheduler: decides which trial trains next, which waits, and which ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core import termination
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

_MOST_WAITING = 12  # waiting trials, the best of them: each keeps a checkpoint, so this bounds disk use
_OVER = 1.05  # a search plans for at most this multiple of its minutes (chosen)
_PRESETS = 10  # reference models get at most one in this many epochs of the budget (chosen)


@dataclass
class _Running:
    """A task that is running on a worker."""

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
        """Return the approximate time left, in seconds.

        Args:
            epoch_s: Seconds per epoch, used if the trial has no finished epoch.
            now: The current time, on the same clock as `since`.
        """
        known = history(self.trial)
        each = known[-1].seconds if known else epoch_s
        return max(0.0, self.epochs * each - (now - self.since))


class TrialScheduler:
    """The main loop: create trials, train them rung by rung, and prune between rungs, until the budget is used.

    With successive halving, a trial that finishes a rung waits while other trials reach that rung. The best of them are
    promoted when a worker is idle; trials that are never promoted are pruned at the end.

    The search must end with a leader that has trained all its epochs. So a rung starts only if its trial, should it
    become the leader, can train all its epochs within the budget, exceeding its minutes by at most 5 %. The leader's
    own rungs always start.

    Args:
        study: The study.
        budget: Limits of the search.
        executor: Trains tasks.
        record: Creates the MLflow record. That takes seconds, so workers get tasks first.
        make_task: Creates the task that trains a trial from one epoch to another.
        discard: Removes the checkpoints of the ended trial with a number.
        progress: Displays the progress of the search.
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
        self._exhausted = False  # the study cannot create another trial
        tenth = budget.epochs // _PRESETS // study.rungs[0]
        self._presets = min(study.presets, tenth, budget.trials - 1)  # they come last, and count towards the budget
        self._now = clock
        self._spent_until = clock()

    def run(self) -> MlflowMirror:
        """Run until the budget is used and every trial has ended; return the MLflow record."""
        unfinished = self._study.unfinished()
        for trial in unfinished:
            self._study.suggest(trial)  # a kill may have happened between two suggestions
            self._study.report(trial)
        for known in self._study.trials:
            if known.state.is_finished():
                self._discard(known.number)
        for trial in unfinished:
            self._advance(trial)
        self._fill()
        self._record = record = self._open()
        for known in self._study.trials:
            record.mirror(known)
        while self._running:
            termination.check()
            for event in self._executor.wait(timeout_s=1.0):
                self._handle(event, record)
            self._tick()
            self._fill()
        return record

    def interrupt(self, status: Literal["KILLED", "FAILED"]) -> None:
        """End all RUNNING runs with a status."""
        if self._record is not None:
            self._record.interrupt(status)

    def _fill(self) -> None:
        """Give every idle worker a promoted trial or else a new one; prune waiting trials that cannot be promoted."""
        while len(self._running) < self._executor.slots and (trial := self._promoted() or self._new()) is not None:
            self._advance(trial)
        while len(self._waiting) > (_MOST_WAITING if self._running else 0):
            trial = self._waiting.pop(self._study.halving.last(self._study.contenders(), self._waiting))
            self._end(trial, "pruned", f"not among the best after {len(history(trial))} epochs")

    def _promoted(self) -> optuna.Trial | None:
        """Promote a waiting trial and return it; the leader first, once it has trained beyond the first rung."""
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
        """Return a new trial if the budget and the study allow one; reference models come last."""
        if not self._may_start():
            return None
        sampled = sum(not preset(trial) for trial in self._study.trials)
        trial = self._study.ask() if sampled < self._budget.trials - self._presets else None
        trial = trial or (self._study.ask_preset() if self._presets_left() else None)
        self._exhausted = trial is None
        return trial

    def _presets_left(self) -> bool:
        return sum(bool(preset(trial)) for trial in self._study.trials) < self._presets

    def _may_start(self) -> bool:
        """Return whether the budget allows another trial."""
        within = len(self._study.trials) < self._budget.trials
        return within and not self._exhausted and self._fits(None)

    def _fits(self, trial: optuna.Trial | None) -> bool:
        """Return whether the next rung of a trial, or the first rung of a new one, may start; see the class."""
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
        if leader is not None and waits:  # if this rung takes the last idle worker, the leader has to wait
            first_idle = min([*self._left_s(), (stop - start) * study.epoch_s(trial)])
            behind = first_idle if len(self._running) + 1 >= self._executor.slots else 0.0
            if behind + (whole - len(history(leader))) * study.epoch_s(leader) > limit_s:
                return False
        return needed * study.epoch_s(trial) <= limit_s and limit_s > 0

    def _left_s(self) -> list[float]:
        """Return the approximate time left of each running rung, in seconds."""
        return [running.left_s(self._progress.epoch_s, self._now()) for running in self._running.values()]

    def _advance(self, trial: optuna.Trial) -> None:
        """End a trial that is complete or not good enough, let it wait, or send its next rung to a worker."""
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
        """Return the reason to stop a trial before its next rung; empty if it continues. The leader always does."""
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
                f"trial {trial.number} cannot continue",
                expected="a machine that can train",
                found=event.reason,
                done="finished rungs are kept",
                next_step="fix the cause and run the same command again",
            )

    def _end(self, trial: optuna.Trial, state: Any, reason: str = "") -> None:
        self._study.tell(trial, state, reason)
        self._discard(trial.number)  # at once: only unfinished trials use disk space
        self._mirror(trial.number)

    def _mirror(self, number: int) -> None:
        if self._record is not None:  # otherwise `run` mirrors all trials once the record exists
            self._record.mirror(self._study.trials[number])

    def _tick(self) -> None:
        now = self._now()
        if now - self._spent_until >= 1.0:  # write the study's elapsed time about once a second, not at every event
            self._study.spend(now - self._spent_until)
            self._spent_until = now
            left = max(self._left_s(), default=0.0)
            self._progress.update(self._study, self._budget, len(self._waiting), left)
