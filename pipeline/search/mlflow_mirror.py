"""Mirrors a study in MLflow: a parent run for the search, and a child run for each trial.

The study is the source of truth. After a kill, `MlflowMirror.mirror` brings the MLflow runs up to date with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.search.study import Best
from pipeline.search.trials import history, hyperparameters, preset
from pipeline.tracking.runs import PARENT, Run, Tracker

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_TAGGED = ("worker", "parameters", "latency_ms")
_RUN_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED", "RUNNING": "RUNNING"}


@dataclass
class MlflowMirror:
    """Mirrors one study.

    Attributes:
        tracker: The MLflow tracker.
        study_name: Key of the parent run, and prefix of the trials' keys.
        label: Part of every run's name.
        tags: Tags of every run.
        parent: The parent run; reused if the study was searched before.
    """

    tracker: Tracker
    study_name: str
    label: str
    tags: Mapping[str, str]
    parent: Run = field(init=False)
    _children: dict[str, Run] = field(init=False)
    _logged: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.parent = self.tracker.start(self.study_name, f"search {self.label}", tags=self.tags)
        self._children = self.tracker.runs(f"tags.`{PARENT}` = '{self.parent.run_id}'")
        self._logged = {key: run.epoch for key, run in self._children.items()}

    def mirror(self, trial: FrozenTrial) -> None:
        """Create, update and end the run of a trial, as needed."""
        key = f"{self.study_name}-{trial.number}"
        wanted = _RUN_STATUS[trial.state.name]
        run = self._children.get(key)
        epochs = history(trial)
        logged = self._logged.get(key, 0)
        if run is not None and run.status == wanted != "RUNNING" and logged == len(epochs):
            return
        if run is None:
            started = trial.datetime_start.timestamp() if trial.datetime_start else None
            name = f"{self.label} trial {trial.number}" + (f" ({preset(trial)})" if preset(trial) else "")
            tags = {**self.tags, PARENT: self.parent.run_id, **({"preset": preset(trial)} if preset(trial) else {})}
            run = self.tracker.start(key, name, tags=tags, started=started)
            self.tracker.log_params(run.run_id, hyperparameters(trial))
        elif wanted == "RUNNING" != run.status:
            self.tracker.resume(run.run_id)
        if logged < len(epochs):
            self.tracker.log_epochs(run.run_id, epochs[logged:])
        if wanted != "RUNNING":
            reason = {"reason": str(trial.user_attrs["reason"])} if "reason" in trial.user_attrs else {}
            measured = {f"trial.{name}": str(trial.user_attrs[name]) for name in _TAGGED if name in trial.user_attrs}
            self.tracker.tag(run.run_id, {"trial.state": trial.state.name.lower(), **measured, **reason})
            ended = trial.datetime_complete.timestamp() if trial.datetime_complete else None
            self.tracker.finish(run.run_id, wanted, ended)
        self._children[key] = Run(run.run_id, wanted, len(epochs))
        self._logged[key] = len(epochs)

    def show(self, number: int, epoch: int, pictures: Sequence[Path]) -> None:
        """Log pictures of a model's output after an epoch to the trial's run, to show how it learns."""
        if pictures:
            self.tracker.log_pictures(self._children[f"{self.study_name}-{number}"].run_id, pictures, epoch)

    def interrupt(self, status: Literal["KILLED", "FAILED"]) -> None:
        """End all RUNNING runs with a status; the next search resumes them."""
        for run in (*self._children.values(), self.parent):
            if run.status == "RUNNING":
                self.tracker.finish(run.run_id, status)

    def close(self, best: Best, counts: Mapping[str, int], epochs: int, files: list[Path]) -> None:
        """Log the summary and the files of the search to the parent run, and end it."""
        point = {f"best.{name}": str(value) for name, value in best.hyperparameters.items()}
        trials = {f"trials_{state}": float(count) for state, count in counts.items()}
        self.tracker.tag(self.parent.run_id, {"best.trial": str(best.number), **point})
        self.tracker.log_metrics(self.parent.run_id, {"best_value": best.value, "epochs": epochs, **trials})
        self.tracker.log_artifacts(self.parent.run_id, [file for file in files if file.suffix != ".png"])
        self.tracker.log_artifacts(self.parent.run_id, [file for file in files if file.suffix == ".png"], "plots")
        self.tracker.finish(self.parent.run_id)
