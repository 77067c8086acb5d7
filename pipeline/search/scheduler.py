"""The trial scheduler: decides which trial trains next, which waits, and which ends, on a logical clock.

Decisions are a function of the study's definition, its budget and the recorded results of rungs. They do not depend on
the number of workers, their speed, kills or resumes: the scheduler simulates a fixed number of slots, on which a rung
takes a time that follows from its hyperparameters. Workers only supply the results that the simulation needs next.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core import termination
from pipeline.core.errors import EngineError
from pipeline.executors.base import Done, Event, Executor, Failed, Progress
from pipeline.models.training.task import TrainingTask
from pipeline.models.values import Hyperparameters
from pipeline.search.further_seeds import FurtherSeeds
from pipeline.search.mlflow_mirror import MlflowMirror
from pipeline.search.progress import SearchProgress
from pipeline.search.rung_results import RungResult, RungResults
from pipeline.search.settings import Budget
from pipeline.search.study import Study
from pipeline.search.trials import history, hyperparameters, preset

if TYPE_CHECKING:
    import optuna

_MOST_WAITING = 12  # waiting trials, the best of them: each keeps a checkpoint, so this bounds disk use
_PRESETS = 10  # reference models get at most one in this many epochs of the budget (chosen)
_STANDSTILL_S = 60.0  # between two looks at the workers: usually there is one a second
_PROBE = -1  # key of the task that finds out whether this machine can train at all
_BY_DEADLINE = "the deadline of the search was met"

MakeTask = Callable[[int, Hyperparameters, int, int], TrainingTask]


@dataclass(frozen=True)
class _Flight:
    """A rung that is in training on the logical clock.

    Attributes:
        trial: Its trial.
        start: Epochs that the trial has trained before.
        stop: Epochs that it has trained after.
        end: When the rung ends, on the logical clock.
    """

    trial: optuna.Trial
    start: int
    stop: int
    end: float

    @property
    def epochs(self) -> int:
        """Number of epochs that it trains."""
        return self.stop - self.start

    @property
    def order(self) -> tuple[float, int]:
        """Key by which rungs end one after the other."""
        return self.end, self.trial.number


class TrialScheduler:
    """Creates trials, trains them rung by rung, and prunes between rungs, until the budget is used.

    With successive halving, a trial that finishes a rung waits while other trials reach that rung. The best of them are
    promoted when a slot is free; trials that are never promoted are pruned at the end.

    The search must end with a leader that has trained all its epochs. So a rung starts only if its trial, should it
    become the leader, can train all its epochs within the budget. So does the leader's own, which else waits until
    nothing is in training that could overtake it.

    Once the budget has refused anything, no new trial starts. So a search with a larger budget creates the same trials
    and then more: all results of the smaller one count, and nothing is trained twice.

    Args:
        study: A new study, without trials.
        budget: Limits of the search.
        slots: Number of logical slots.
        cost: Returns what an epoch costs with some hyperparameters, in any unit.
        results: The recorded results.
        executor: Trains tasks.
        record: Creates the MLflow record. That takes seconds, so workers get tasks first.
        make_task: Creates the task that trains a trial, by number and hyperparameters, from one epoch to another.
        discard: Removes the checkpoints of the trial with a number.
        progress: Displays the progress of the search.
        further: Trains the leader with further seeds while workers are idle and no new trial may start; None: nothing.
        deadline_s: Seconds after which only the leader continues; None for no limit.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        study: Study,
        budget: Budget,
        slots: int,
        cost: Callable[[Hyperparameters], float],
        results: RungResults,
        executor: Executor,
        record: Callable[[], MlflowMirror],
        make_task: MakeTask,
        discard: Callable[[int], None],
        progress: SearchProgress,
        further: FurtherSeeds | None = None,
        deadline_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study = study
        self._budget = budget
        self._slots = slots
        self._cost = cost
        self._results = results
        self._executor = executor
        self._open = record
        self._record: MlflowMirror | None = None
        self._make_task = make_task
        self._discard = discard
        self._progress = progress
        self._logical_time = 0.0
        self._flying: dict[int, _Flight] = {}
        self._waiting: dict[int, optuna.Trial] = {}
        self._exhausted = False  # the study cannot create another trial
        self._refused = False  # the budget has refused something that a larger one would have allowed
        tenth = budget.epochs // _PRESETS // study.rungs[0]
        self._presets = min(study.presets, tenth, budget.trials - 1)  # they come last, and count towards the budget
        self._submitted: dict[int, TrainingTask] = {}
        # Results of rungs, by their last epoch, that failed before anything has trained: the machine may be the cause.
        self._unproven: dict[int, tuple[int, RungResult]] = {}
        self._trained = False  # whether any rung of the study has been trained
        self._further = further
        self._now = clock
        self._started = self._spent_until = self._ticked_at = clock()
        self._deadline_s = deadline_s
        self._alone: deque[int] = deque()  # keys of tasks for which memory ran out, to be tried again with no other
        self._tried_alone: set[int] = set()
        self.cut = False  # whether the deadline ended the search
        self.disturbed = False  # whether a failure that may be due to the machine is among the results

    def run(self) -> MlflowMirror:
        """Run until the budget is used and every trial has ended; return the MLflow record.

        Raises:
            EngineError: This machine cannot train.
        """
        self._fill()
        self._replay()
        self._submit()
        self._record = record = self._open()
        for known in self._study.trials:
            record.mirror(known)
        self._ticked_at = self._now()
        # A piece of a further seed may end, unless there is a deadline: no worker has anything else to do.
        while self._flying or (self._further and self._further.running and self._deadline_s is None):
            termination.check()
            for event in self._executor.wait(timeout_s=1.0):
                self._handle(event, record)
            self._replay()
            self._meet_deadline()
            self._submit()
            self._tick()
        return record

    def interrupt(self, status: Literal["KILLED", "FAILED"]) -> None:
        """End all RUNNING runs with a status."""
        if self._record is not None:
            self._record.interrupt(status)

    # ---------------------------------------------------------------- the logical clock

    def _replay(self) -> None:
        """Let rungs end in their order on the logical clock, as far as their results are recorded."""
        while self._flying:
            flight = min(self._flying.values(), key=lambda flight: flight.order)
            result = self._results.get(flight.trial.number, flight.stop)
            if result is None:
                return
            self._logical_time = flight.end
            del self._flying[flight.trial.number]
            self._apply(flight, result)
            self._fill()

    def _apply(self, flight: _Flight, result: RungResult) -> None:
        trial = flight.trial
        self.disturbed |= result.disturbed
        if result.failed:
            self._end(trial, "failed", result.failed)
            return
        self._trained = True
        self._study.record(trial, result.epochs, {"worker": result.worker, **result.measured})
        self._advance(trial)

    def _fill(self) -> None:
        """Give every free slot a promoted trial or else a new one; prune waiting trials that cannot be promoted."""
        while len(self._flying) < self._slots and (trial := self._next()) is not None:
            self._advance(trial)
        while len(self._waiting) > (_MOST_WAITING if self._flying else 0):
            trial = self._waiting.pop(self._study.halving.last(self._study.contenders(), self._waiting))
            reason = _BY_DEADLINE if self.cut else f"not among the best after {len(history(trial))} epochs"
            self._end(trial, "pruned", reason)

    def _next(self) -> optuna.Trial | None:
        """Return the trial for a free slot: a promoted one, or else a new one; None if there is neither."""
        number = self._promotable(self._fits, may_start=self._may_start())
        if not self._refused:
            without_limit = self._promotable(lambda _: True, may_start=not self._exhausted and not self.cut)
            if number != without_limit or (number is None and not self._may_start()):
                self._refused = True
                number = self._promotable(self._fits, may_start=False)
        if number is None:
            return self._new() if self._may_start() else None
        trial = self._waiting.pop(number)
        self._study.halving.promote(trial)
        return trial

    def _promotable(self, fits: Callable[[optuna.Trial], bool], *, may_start: bool) -> int | None:
        """Return the number of the waiting trial to promote; the leader first, once it is beyond the first rung.

        Args:
            fits: Returns whether the budget allows a trial's next rung.
            may_start: Whether a new trial could start instead.
        """
        if not self._waiting:
            return None
        leader = self._study.leader()
        leads = leader is not None and leader.number in self._waiting and fits(self._waiting[leader.number])
        if leader is not None and leads and (len(history(leader)) > self._study.rungs[0] or not may_start):
            return leader.number
        if self.cut:
            return None
        eligible = [n for n, trial in self._waiting.items() if fits(trial) and not self._study.lost(trial)]
        idle_otherwise = 0 if may_start else self._slots
        return self._study.halving.promotable(self._study.contenders(), eligible, at_least=idle_otherwise)

    def _new(self) -> optuna.Trial | None:
        """Return a new trial; None if the study cannot create another one. Reference models come last."""
        sampled = sum(not preset(trial) for trial in self._study.trials)
        trial = self._study.ask() if sampled < self._budget.trials - self._presets else None
        trial = trial or (self._study.ask_preset() if self._presets_left() else None)
        self._exhausted = trial is None
        if trial is not None:
            self._results.claim(trial.number, hyperparameters(trial))
        return trial

    def _presets_left(self) -> bool:
        return sum(bool(preset(trial)) for trial in self._study.trials) < self._presets

    def _may_start(self) -> bool:
        """Return whether the budget allows another trial."""
        within = len(self._study.trials) < self._budget.trials
        return within and not self._exhausted and not self._frozen() and not self.cut and self._fits(None)

    def _frozen(self) -> bool:
        """Return whether no new trial starts, as the budget has refused something; if all have failed, one does."""
        return self._refused and bool(self._flying or self._waiting or self._study.leader())

    def _fits(self, trial: optuna.Trial | None) -> bool:
        """Return whether the next rung of a trial, or the first rung of a new one, may start; see the class."""
        study, leader = self._study, self._study.leader()
        if not self._flying and trial is not None and leader is not None and trial.number == leader.number:
            return True  # nobody can overtake it: what it needs was reserved
        start, stop = (0, study.rungs[0]) if trial is None else study.next_rung(trial) or (study.total, study.total)
        whole = study.whole()
        ends = [stop, *(flight.stop for flight in self._flying.values())]
        if leader is not None and leader.number not in self._flying and leader.state.name == "RUNNING":
            ends.append(len(history(leader)))
        promised = sum(flight.epochs for flight in self._flying.values())
        return study.epochs() + promised + stop - start + max(0, whole - min(ends)) <= self._budget.epochs

    def _advance(self, trial: optuna.Trial) -> None:
        """End a trial that is complete or not good enough, let it wait, or begin its next rung."""
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
        elif history(trial) and not self._fits(trial):
            self._refused = True
            self._waiting[trial.number] = trial  # the leader: one in training may overtake it and need the rest
            self._mirror(trial.number)
        else:
            start, stop = rung
            end = self._logical_time + (stop - start) * self._cost(hyperparameters(trial))
            self._flying[trial.number] = _Flight(trial, start, stop, end)
            self._mirror(trial.number)

    def _stops(self, trial: optuna.Trial) -> str:
        """Return the reason to stop a trial before its next rung; empty if it continues. The leader always does."""
        leader = self._study.leader()
        if leader is not None and leader.number == trial.number:
            return ""
        if self.cut:
            return _BY_DEADLINE
        if trial.should_prune():
            return f"not among the best after {len(history(trial))} epochs"
        if self._fits(trial):
            return ""
        self._refused = True
        return "the budget of the search was met"

    def _end(self, trial: optuna.Trial, state: Any, reason: str = "") -> None:
        self._study.tell(trial, state, reason)
        # At once: only unfinished trials use disk space. But a larger budget may continue what this one ends.
        if state == "complete":
            self._discard_beaten()
        elif state == "failed" or not (self._refused or self.cut):
            self._discard(trial.number)
        self._mirror(trial.number)

    def _discard_beaten(self) -> None:
        """Keep the checkpoint, with the model, of the best complete trial only."""
        complete = [trial for trial in self._study.trials if trial.state.name == "COMPLETE"]
        best = self._study.leader(complete)
        for trial in complete:
            if best is None or trial.number != best.number:
                self._discard(trial.number)

    def _mirror(self, number: int) -> None:
        if self._record is not None:  # otherwise `run` mirrors all trials once the record exists
            self._record.mirror(self._study.trials[number])

    # ---------------------------------------------------------------- workers

    def _submit(self) -> None:
        """Send to idle workers the rungs that the clock needs first; a task that must be alone waits for all others."""
        if self._tried_alone & set(self._submitted):
            return
        if self._alone:
            if not self._submitted:
                self._send_alone(self._alone.popleft())
            return
        for flight in sorted(self._flying.values(), key=lambda flight: flight.order):
            number = flight.trial.number
            if len(self._submitted) >= self._executor.slots:
                return
            known = number in self._submitted or number in self._unproven
            if not known and self._results.get(number, flight.stop) is None:
                self._send(number, self._make_task(number, hyperparameters(flight.trial), flight.start, flight.stop))
        if self._unproven and not self._submitted:
            self._send(_PROBE, self._make_task(_PROBE, self._study.centre, 0, self._study.rungs[0]))
        while len(self._submitted) < self._executor.slots and (further := self._further_piece()) is not None:
            self._send(*further)

    def _further_piece(self) -> tuple[int, TrainingTask] | None:
        """Return a piece of the leader's training with a further seed, if there is a leader that is likely to win."""
        if self._further is None or not self._flying or self.cut or self._may_start():
            return None
        leader = self._study.leader()
        if leader is None or (len(history(leader)) <= self._study.rungs[0] < self._study.total):
            return None
        return self._further.next(leader.number, hyperparameters(leader))

    def _send_alone(self, number: int) -> None:
        self._tried_alone.add(number)
        flight = self._flying.get(number)
        if flight is not None:  # otherwise the deadline has ended it
            self._send(number, self._make_task(number, hyperparameters(flight.trial), flight.start, flight.stop))

    def _send(self, key: int, task: TrainingTask) -> None:
        self._submitted[key] = task
        self._executor.submit(key, task)

    def _handle(self, event: Event, record: MlflowMirror) -> None:
        if isinstance(event, Progress):
            return
        task = self._submitted.pop(event.key)
        if self._further and isinstance(event, Done | Failed) and self._further.handle(event):
            return
        if isinstance(event, Done):
            self._trained = True
            for number, (stop, failure) in self._unproven.items():
                self._results.put(number, stop, failure)
            self._unproven.clear()
            self._keep(event, task, record)
        elif isinstance(event, Failed):
            self._fail(event, task)
        else:
            raise EngineError(
                f"trial {event.key} cannot continue",
                expected="a machine that can train",
                found=event.reason,
                done="finished rungs are kept",
                next_step="fix the cause and run the same command again",
            )

    def _keep(self, event: Done, task: TrainingTask, record: MlflowMirror) -> None:
        """Record the result of a rung; that of the probe is of no trial."""
        number, result = event.key, event.result
        self._tried_alone.discard(number)
        if number == _PROBE:
            self._discard(_PROBE)
            return
        epochs = [epoch for epoch in result.epochs if epoch.epoch > task.span.start]  # more, if a checkpoint was lost
        foreign = bool(result.device) and result.device != self._study.device
        if foreign and not self.disturbed:
            self.disturbed = True
            print(
                f"{event.worker} is a {result.device} device, and the study began on {self._study.device}: its results"
                " differ in their last digits, so another set of workers may give another search",
                file=sys.stderr,
                flush=True,
            )
        known = RungResult(epochs, result.measured(), event.worker, disturbed=foreign)
        self._results.put(number, task.span.stop, known)
        record.show(number, task.span.stop, [task.folder / name for name in result.pictures])
        self._progress.task_done(epochs, result.checkpoint_bytes)
        self._spend()

    def _fail(self, event: Failed, task: TrainingTask) -> None:
        """Record a failure as a result if this machine can train; find out whether it can.

        Where memory ran out or workers died, other tasks may be the cause: the task is tried again alone.

        Raises:
            EngineError: Nothing has been trained, not even the centre of the space.
        """
        if event.key == _PROBE:
            reasons = Counter(failure.failed for _, failure in self._unproven.values())
            reason, _ = reasons.most_common(1)[0]
            raise EngineError(
                f"{self._study.folder.name}: every trial failed, and so did the centre of the search space",
                expected="at least one trained trial",
                found=f"{len(self._unproven)} failed, most with: {reason}",
                done="no failure was recorded",
                next_step="give this machine what the message asks for, or narrow the search space in params.yaml;"
                " then run the same command again",
            )
        crowded = event.died or event.reason.startswith("out of memory")
        if crowded and self._executor.slots > 1 and event.key not in self._tried_alone:
            self._alone.append(event.key)
            return
        self._tried_alone.discard(event.key)
        failure = RungResult(failed=event.reason, disturbed=crowded)
        if self._trained:
            self._results.put(event.key, task.span.stop, failure)
        else:
            self._unproven[event.key] = (task.span.stop, failure)

    # ---------------------------------------------------------------- time

    def _meet_deadline(self) -> None:
        """After the deadline, end every trial but the leader, early enough for the leader to train to its end."""
        if self.cut or self._deadline_s is None:
            return
        leader = self._study.leader()
        if leader is None:
            return
        # Each rung in training may make its trial the leader, which then trains to its end.
        starts = [len(history(leader)), *(flight.start for flight in self._flying.values())]
        epochs = self._study.total - min(starts)
        if self._now() - self._started + epochs * self._progress.epoch_s < self._deadline_s:
            return
        self.cut = True
        for number, flight in list(self._flying.items()):
            if number != leader.number:
                del self._flying[number]
                self._end(flight.trial, "pruned", _BY_DEADLINE)
        self._fill()
        self._replay()  # results that waited for those rungs on the clock count now

    def _spend(self) -> None:
        now = self._now()
        self._results.elapsed_s += now - self._spent_until
        self._spent_until = now

    def _tick(self) -> None:
        now = self._now()
        if now - self._ticked_at > _STANDSTILL_S:  # stopped by Ctrl-Z or `docker pause`: nobody's time
            self._started += now - self._ticked_at
            self._spent_until += now - self._ticked_at
        self._ticked_at = now
        self._progress.update(self._study, self._budget, len(self._waiting), len(self._submitted))
