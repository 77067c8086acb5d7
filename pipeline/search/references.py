"""Trains reference models of a dataset on demand, to compare with the models that a search finds.

Each is trained once, from one seed, for as many epochs as a whole trial of its family. A training is cut into pieces,
as that of the best hyperparameters is: what is trained is never trained again, and a kill costs a piece at most.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.artifacts.base import read_json, write
from pipeline.artifacts.references import Reference, References
from pipeline.core.errors import DataError, EngineError
from pipeline.core.files import write_json
from pipeline.datasets.arrays import Splits
from pipeline.executors.base import Done, Event, Executor, Failed, Progress
from pipeline.models import loading
from pipeline.models.base import BaseFamily, Preset, Span
from pipeline.models.training.task import TaskResult, TrainingTask
from pipeline.search import lengths
from pipeline.search.settings import SearchSettings
from pipeline.tracking.identity import WORKSPACE, workspace_id
from pipeline.tracking.provenance import code_tags
from pipeline.tracking.runs import Tracker

_CHOOSING = {"space", "space_for", "presets"}  # settings of a family that decide what is trained, not how
_PIECES = 4  # of a training (chosen, as for the models of the stage train)


@dataclass(frozen=True)
class Wanted:
    """A reference model to train.

    Attributes:
        family: Its family.
        preset: The preset.
        task: The whole training, in a folder that is named by what defines it.
    """

    family: BaseFamily
    preset: Preset
    task: TrainingTask

    @property
    def key(self) -> str:
        """Identifies what is trained."""
        return self.task.folder.name


@dataclass(frozen=True)
class Place:
    """What reference models are trained on, and where.

    Attributes:
        dataset: Name of the dataset.
        data: Its train and validation splits.
        backend: Backend of Keras.
        folder: Folder of all data of the workspace.
        report: The file to write.
    """

    dataset: str
    data: Splits
    backend: str
    folder: Path
    report: Path


def wanted(families: Sequence[BaseFamily], place: Place, settings: SearchSettings) -> list[Wanted]:
    """Return the reference models of some families for a dataset."""
    found = []
    for family in families:
        names = family.presets_for(place.dataset)
        steps = lengths.steps_per_epoch(family, len(place.data.train))
        epochs = settings.budget_for(place.dataset, family.name, steps).trial_epochs
        section = family.settings.model_dump(mode="json")
        decisive = {name: value for name, value in section.items() if name not in _CHOOSING}
        shared = [epochs, settings.seed, loading.training_digest(family), decisive, place.data.digest, place.backend]
        for preset in (preset for preset in family.presets if preset.name in names):
            defining = json.dumps([preset.hyperparameters, *shared], sort_keys=True)
            digest = hashlib.sha256(defining.encode()).hexdigest()[:12]
            kept = place.folder / "references" / place.dataset
            features = place.folder / "features" / place.dataset / family.name
            task = TrainingTask(
                family=family.name,
                settings=section,
                hyperparameters=preset.hyperparameters,
                data=place.folder / "prepared" / place.dataset,
                seed=settings.seed,
                span=Span(0, epochs, epochs),
                folder=kept / f"{preset.name}-{digest}",
                ledger=kept / "epochs.log",
                features=features if family.needs_feature_network else None,
            )
            found.append(Wanted(family, preset, task))
    return found


class Trainings:
    """The trainings of reference models. Each is logged to MLflow and added to the report when it ends.

    Models that the report has already are not trained. Others that it has stay, if their data is the same.

    Args:
        models: What to train; see `wanted`.
        place: What to train on, and where.
        print_line: Prints a line about the progress.
    """

    def __init__(self, models: Sequence[Wanted], place: Place, print_line: Callable[[str], None]) -> None:
        self._models, self._place, self._print = models, place, print_line
        self._tracker: Tracker | None = None
        self._known = {model.name: model for model in _known(place)}

    def run(self, executor: Executor) -> References:
        """Train what is not trained yet, and return the report.

        Raises:
            EngineError: This machine cannot train.
            TrackingError: The tracking server does not work. What is trained is kept.
        """
        left = {number for number, model in enumerate(self._models) if not self._reported(model)}
        for number in sorted(left):
            model = self._models[number]
            for stale in model.task.folder.parent.glob(f"{model.preset.name}-*"):
                if stale.name != model.key:
                    shutil.rmtree(stale, ignore_errors=True)
            model.task.folder.mkdir(parents=True, exist_ok=True)
            if not self._submit_next(executor, number):
                left.remove(number)
        while left:
            for event in executor.wait(timeout_s=1.0):
                if not isinstance(event, Progress) and not self._handle(executor, event):
                    left.remove(event.key)
        return self._report()

    def _reported(self, model: Wanted) -> bool:
        known = self._known.get(model.preset.name)
        return known is not None and known.key == model.key and not known.failed

    def _handle(self, executor: Executor, event: Event) -> bool:
        """Keep a piece or a failure; return whether the training continues."""
        model = self._models[event.key]
        if isinstance(event, Failed):
            self._add(model, None, failed=event.reason)
            self._print(f"{model.preset.name}: failed: {event.reason}")
            return False
        if not isinstance(event, Done):
            raise EngineError(
                f"the training of {model.preset.name} cannot continue",
                expected="a machine that can train",
                found=getattr(event, "reason", event),
                done="finished pieces are kept",
                next_step="fix the cause and run the same command again",
            )
        trained = _keep(model, event.result)
        objective = model.family.objective
        value = f"{objective} {trained.epochs[-1][objective]:.4f}"
        self._print(f"{model.preset.name}: epoch {len(trained.epochs)}/{model.task.span.total}, {value}")
        return self._submit_next(executor, event.key)

    def _submit_next(self, executor: Executor, number: int) -> bool:
        """Submit the next piece of a training; log the training and return False if there is none."""
        model = self._models[number]
        trained = _read(model.task)
        done = trained.epochs if trained else []
        if trained is None or (len(done) < model.task.span.total and not done[-1].stopped):
            stop = next(end for end in _ends(model.task.span.total) if end > len(done))
            executor.submit(number, replace(model.task, span=Span(len(done), stop, model.task.span.total)))
            return True
        if wrong := [name for name, value in done[-1].values.items() if not math.isfinite(value)]:
            self._add(model, trained, failed=f"{wrong[0]} is {done[-1][wrong[0]]}")
        else:
            self._add(model, trained, run=self._log(model, trained))
        for checkpoint in model.task.folder.glob("epoch-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)
        return False

    def _log(self, model: Wanted, trained: TaskResult) -> str:
        """Log a training to MLflow, and return the id of its run."""
        self._tracker = tracker = self._tracker or Tracker(self._place.dataset)  # importing MLflow takes seconds
        workspace = workspace_id(self._place.folder)
        tags = {
            "stage": "references",
            "dataset": self._place.dataset,
            "family": model.family.name,
            "preset": model.preset.name,
            "backend": self._place.backend,
            WORKSPACE: workspace,
            "data.digest": self._place.data.digest,
            **code_tags(),
        }
        key = f"reference-{self._place.dataset}-{model.key}.{workspace}"
        with tracker.running(key, f"reference {model.preset.name}", tags) as run_id:
            tracker.log_params(run_id, model.task.hyperparameters)
            tracker.log_epochs(run_id, trained.epochs)
            value = trained.epochs[-1][model.family.objective]
            tracker.log_metrics(run_id, {"value": value, "parameters": trained.parameters})
        return run_id

    def _add(self, model: Wanted, trained: TaskResult | None, *, failed: str = "", run: str = "") -> None:
        """Write the report with one more model."""
        epochs = trained.epochs if trained else []
        self._known[model.preset.name] = Reference(
            name=model.preset.name,
            title=model.preset.title,
            family=model.family.name,
            task=model.family.task,
            key=model.key,
            value=None if failed else epochs[-1][model.family.objective],
            failed=failed,
            parameters=trained.parameters if trained else 0,
            epochs=len(epochs),
            seconds=round(sum(epoch.seconds for epoch in epochs), 1),
            run=run,
        )
        write(self._place.report, self._report())

    def _report(self) -> References:
        models = sorted(self._known.values(), key=lambda model: (model.family, len(model.name), model.name))
        return References(data_digest=self._place.data.digest, models=tuple(models))


def _known(place: Place) -> tuple[Reference, ...]:
    """Return the models in the report that were trained on the same data."""
    try:
        report = read_json(place.report, References, "references")
    except DataError:
        return ()  # missing or damaged: it is written again
    return report.models if report.data_digest == place.data.digest else ()


def _keep(model: Wanted, piece: TaskResult) -> TaskResult:
    """Store the epochs of a piece behind those before it, and return all of them."""
    known = _read(model.task)
    before = [epoch for epoch in (known.epochs if known else []) if epoch.epoch < piece.epochs[0].epoch]
    whole = replace(piece, epochs=[*before, *piece.epochs])
    write_json(_written(model.task), whole.plain())
    return whole


def _written(task: TrainingTask) -> Path:
    return task.folder / "trained.json"


def _read(task: TrainingTask) -> TaskResult | None:
    try:
        return TaskResult.read(_written(task))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing, or written by other code: train it again


def _ends(total: int) -> list[int]:
    """Return the epochs at which pieces end."""
    return sorted({math.ceil(total * piece / _PIECES) for piece in range(1, _PIECES + 1)})
