"""Mirrors a study in MLflow: a parent run for the search, and a child run for each trial.

The study is the source of truth, and the queue of what is still to be logged: while the tracking server is away, the
search continues, and the runs are brought up to date when it answers, at the end of the search, or by the next one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.core.errors import TrackingError
from pipeline.search.study import Best
from pipeline.search.trials import began, ended, history, hyperparameters, preset
from pipeline.tracking import server
from pipeline.tracking.runs import PARENT, Run, Tracker

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_TAGGED = ("worker", "parameters", "latency_ms")
_RUN_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED", "RUNNING": "RUNNING"}
_WAIT_S, _LONGEST_WAIT_S = 30.0, 600.0  # between two tries at a server that is away; the wait doubles (chosen)
_SIGN_OF_LIFE_S = 3.0  # what a server may take to answer while the search, or a user who pressed Ctrl-C, waits


@dataclass
class _Outage:
    """A time in which the tracking server does not work.

    Attributes:
        reason: Why the last call failed.
        retry_at: When to try again, in seconds on the mirror's clock.
        wait_s: How long to wait after the next failure.
    """

    reason: str
    retry_at: float
    wait_s: float


@dataclass
class MlflowMirror:
    """Mirrors one study.

    Attributes:
        tracker: The MLflow tracker.
        key: Key of the parent run, and prefix of the trials' keys; see `study_store.key`.
        label: Part of every run's name.
        tags: Tags of every run.
        clock: Returns the time in seconds.
        parent: The parent run; reused if the study was searched before.
    """

    tracker: Tracker
    key: str
    label: str
    tags: Mapping[str, str]
    clock: Callable[[], float] = time.monotonic
    parent: Run = field(init=False)
    _children: dict[str, Run] = field(init=False)
    _pending: dict[int, FrozenTrial] = field(init=False, default_factory=dict)
    _outage: _Outage | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.parent = self.tracker.start(self.key, f"search {self.label}", tags=self.tags)
        self._read_children()

    def mirror(self, trial: FrozenTrial) -> None:
        """Create, update and end the run of a trial, as needed; later, if the server is away."""
        self._pending[trial.number] = trial
        if self._outage is None or self.clock() >= self._outage.retry_at:
            try:
                self._log_pending(_SIGN_OF_LIFE_S)
            except TrackingError as error:
                self._postpone(error)

    def catch_up(self) -> None:
        """Log everything that is still to be logged.

        Raises:
            TrackingError: The server is still away.
        """
        try:
            self._log_pending(server.ANSWER_S)
        except TrackingError as error:
            self._postpone(error)
            raise TrackingError(
                f"{self.label}: the search has ended, but not all of its runs could be logged",
                found=error,
                done="the study is kept",
                next_step="run the same command again when the server answers: it only logs",
            ) from None

    def show(self, number: int, epoch: int, pictures: Sequence[Path]) -> None:
        """Log pictures of a model's output after an epoch to the trial's run; not while the server is away."""
        run = self._children.get(self._key(number))
        if pictures and run is not None and self._outage is None:
            try:
                self.tracker.log_pictures(run.run_id, pictures, epoch)
            except TrackingError as error:
                self._postpone(error)

    def interrupt(self, status: Literal["KILLED", "FAILED"]) -> None:
        """End all RUNNING runs with a status, unless the server is away; the next search resumes them."""
        if self._outage is None and server.unavailable(_SIGN_OF_LIFE_S) is None:
            for run in (*self._children.values(), self.parent):
                if run.status == "RUNNING":
                    self.tracker.finish(run.run_id, status)

    def close(
        self,
        best: Best,
        counts: Mapping[str, int],
        epochs: int,
        files: list[Path],
        *,
        cut_by_deadline: bool | None = None,
    ) -> None:
        """Log the summary and the files of the search to the parent run, and end it; None sets no tag."""
        point = {f"best.{name}": str(value) for name, value in best.hyperparameters.items()}
        trials = {f"trials_{state}": float(count) for state, count in counts.items()}
        cut = {} if cut_by_deadline is None else {"cut_by_deadline": str(cut_by_deadline).lower()}
        self.tracker.tag(
            self.parent.run_id,
            {"best.trial": str(best.number), **point, **cut},
        )
        self.tracker.log_metrics(self.parent.run_id, {"best_value": best.value, "epochs": epochs, **trials})
        self.tracker.log_artifacts(self.parent.run_id, [file for file in files if file.suffix != ".png"])
        self.tracker.log_artifacts(self.parent.run_id, [file for file in files if file.suffix == ".png"], "plots")
        self.tracker.finish(self.parent.run_id)

    def _key(self, number: int) -> str:
        return f"{self.key}-{number}"

    def _read_children(self) -> None:
        """Read from the server which trials have a run, and how far those are logged."""
        self._children = self.tracker.runs(f"tags.`{PARENT}` = '{self.parent.run_id}'")

    def _postpone(self, error: TrackingError) -> None:
        """Try again later; print a line at the first failure."""
        before = self._outage
        wait_s = _WAIT_S if before is None else before.wait_s
        self._outage = _Outage(str(error), self.clock() + wait_s, min(2 * wait_s, _LONGEST_WAIT_S))
        if before is None:
            print(f"the search continues, and its runs are logged later: {error}", file=sys.stderr, flush=True)

    def _log_pending(self, answer_s: float) -> None:
        """Log all trials that have changed.

        Args:
            answer_s: What a server that was away may take to give a sign of life.
        """
        if self._outage is not None:
            if reason := server.unavailable(answer_s):
                raise server.unusable(reason)
            self._read_children()  # a call that failed here may have succeeded there
        for number, trial in list(self._pending.items()):
            self._log(trial)
            del self._pending[number]
        self._outage = None

    def _log(self, trial: FrozenTrial) -> None:
        key, wanted, epochs = self._key(trial.number), _RUN_STATUS[trial.state.name], history(trial)
        run = self._children.get(key)
        if run is not None and run.status == wanted != "RUNNING" and run.epoch >= len(epochs):
            return
        if run is None:
            run = self._create(trial)
        elif wanted == "RUNNING" != run.status:
            self.tracker.resume(run.run_id)
        if run.epoch == 0:  # again where it is not new: a kill may have come between its creation and this
            self.tracker.log_params(run.run_id, hyperparameters(trial))
        self._children[key] = Run(run.run_id, "RUNNING", run.epoch)  # so that `interrupt` ends it, whatever fails below
        if run.epoch < len(epochs):
            self.tracker.log_epochs(run.run_id, epochs[run.epoch :])
        if wanted != "RUNNING":
            self._end(run, trial, wanted)
        self._children[key] = Run(run.run_id, wanted, max(run.epoch, len(epochs)))

    def _create(self, trial: FrozenTrial) -> Run:
        started = began(trial)
        name = f"{self.label} trial {trial.number}" + (f" ({preset(trial)})" if preset(trial) else "")
        tags = {**self.tags, PARENT: self.parent.run_id, **({"preset": preset(trial)} if preset(trial) else {})}
        return self.tracker.start(self._key(trial.number), name, tags=tags, started=started)

    def _end(self, run: Run, trial: FrozenTrial, status: str) -> None:
        reason = {"reason": str(trial.user_attrs["reason"])} if "reason" in trial.user_attrs else {}
        measured = {f"trial.{name}": str(trial.user_attrs[name]) for name in _TAGGED if name in trial.user_attrs}
        self.tracker.tag(run.run_id, {"trial.state": trial.state.name.lower(), **measured, **reason})
        self.tracker.finish(run.run_id, status, ended(trial))
