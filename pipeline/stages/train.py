"""Stage train: the best hyperparameters at full budget, from several seeds in parallel; the best on validation is kept.

Training is the same task that the search runs, on local workers. This process never loads Keras: workers train and
export, it writes to MLflow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from pipeline.artifacts import base as artifacts
from pipeline.artifacts import train
from pipeline.artifacts.search import Best
from pipeline.backend import configure
from pipeline.core import names, params, process
from pipeline.core.errors import TrackingError
from pipeline.core.files import new_folder, write_text
from pipeline.datasets.arrays import Splits, load_splits
from pipeline.executors.local import LocalExecutor
from pipeline.models import base as models
from pipeline.models import loading
from pipeline.models.training import task
from pipeline.models.training.seeds import Seeds, last_loss
from pipeline.models.training.task import TrainingTask, exported_model
from pipeline.registry import packaging
from pipeline.registry.packaging import TrainedModel
from pipeline.tracking.identity import WORKSPACE, workspace_id
from pipeline.tracking.provenance import code_tags, dvc_hash
from pipeline.tracking.runs import Tracker


class TrainSettings(params.Settings):
    """Section `train` of params.

    Attributes:
        seeds: Number of models to train; the best on validation is kept.
        seed: Seed of the first; the others follow by one. One of more than 32 bits is hashed.
    """

    seeds: int = pydantic.Field(ge=1, le=1000)
    seed: params.Seed


@dataclass(frozen=True)
class LoggedModel:
    """Where MLflow has a trained model: the run that trained it, and its own id."""

    run_id: str
    model_id: str


def save(trained: TrainedModel, logged: LoggedModel, model: Path, report: Path) -> None:
    """Write the model with what later stages need to know of it, and its curves."""
    result, family, data, backend = trained.result, trained.family, trained.data, trained.backend
    with new_folder(model) as folder:
        shutil.copytree(exported_model(result.task), folder, dirs_exist_ok=True)
        described = train.Model(
            family=result.task.family,
            task=family.task,
            value=result.value,
            loss=last_loss(result.trained),
            parameters=result.trained.parameters,
            hyperparameters=result.task.hyperparameters,
            class_names=data.class_names,
            image_shape=data.image_shape,
            data_digest=data.digest,
            backend=backend,
            run_id=logged.run_id,
            model_id=logged.model_id,
        )
        artifacts.write(folder / "model.json", described)
    epochs = [train.Epoch.of(epoch.flat(), family.objective) for epoch in result.trained.epochs]
    write_text(report / "curves.csv", train.curves(epochs))
    summary = train.Summary(
        run=logged.run_id,
        value=result.value,
        mean=statistics.mean(result.values.values()),
        seeds={str(seed): value for seed, value in result.values.items()},
        failed={str(seed): reason for seed, reason in result.failed.items()},
        parameters=result.trained.parameters,
        epochs=len(epochs),
        seconds=round(sum(epoch.seconds for epoch in result.trained.epochs), 1),
    )
    artifacts.write(report / "summary.json", summary)


def main() -> None:
    """Run the stage from the command line."""
    arguments = _parse()
    backend = configure.load_settings()
    settings = params.load("train", TrainSettings)
    family = loading.load(arguments.family)
    best = artifacts.read_json(arguments.best, Best, "search")
    data = load_splits(arguments.data)
    sections = {"train": settings.model_dump(), family.name: family.settings.model_dump(mode="json")}
    tags = _tags(arguments, backend.backend, data, best)
    folder = _folder(best, family, data, backend.backend, arguments)
    tasks = _tasks(best, settings, family, arguments, folder)
    key = f"train-{arguments.dataset}-{family.name}-{folder.name}-{settings.seed}-{settings.seeds}.{tags[WORKSPACE]}"
    with LocalExecutor(task.work(backend.backend), configure.worker_environments(backend.workers)) as executor:
        seeds = Seeds(tasks, family.objective)
        seeds.start(executor)
        tracker = Tracker(arguments.dataset)  # importing MLflow takes seconds: workers start meanwhile
        with tracker.running(key, f"train {family.name}", tags) as run_id:
            result = seeds.finish(executor)
            trained = TrainedModel(result, family, data, backend.backend)
            logged = LoggedModel(run_id, _log(tracker, run_id, trained, sections))
            save(trained, logged, arguments.model, arguments.report)
    print(f"{arguments.dataset} {family.name}: {family.objective} {result.value:.4f}, seeds {result.values}")
    for seed, reason in result.failed.items():
        print(f"{arguments.dataset} {family.name}: seed {seed} has no model: {reason}")


def _log(tracker: Tracker, run_id: str, trained: TrainedModel, settings: Mapping[str, Any]) -> str:
    """Log a finished training and return the id of its model.

    Raises:
        TrackingError: The tracking server does not work. The weights are kept, so the next call only logs.
    """
    try:
        return packaging.log(tracker, run_id, trained, settings)
    except TrackingError as error:
        raise TrackingError(
            f"{tracker.experiment} {trained.family.name}: trained, but not logged",
            found=error,
            done="the weights are kept",
            next_step="run the same command again when the server answers: it only logs",
        ) from None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.stages.train", description=__doc__)
    parser.add_argument("--dataset", required=True, type=names.dataset)
    parser.add_argument("--family", required=True, type=names.family)
    parser.add_argument("--data", required=True, type=Path, help="folder written by prepare")
    parser.add_argument("--features", required=True, type=Path, help="folder written by features")
    parser.add_argument("--studies", required=True, type=Path, help="folder of all studies")
    parser.add_argument("--best", required=True, type=Path, help="best.json written by search")
    parser.add_argument("--model", required=True, type=Path, help="folder for the model")
    parser.add_argument("--report", required=True, type=Path, help="folder for curves and summary")
    return parser.parse_args()


def _tags(arguments: argparse.Namespace, backend: str, data: Splits, best: Best) -> dict[str, str]:
    """Return the tags that record the origin of a run."""
    return {
        "stage": "train",
        "dataset": arguments.dataset,
        "family": arguments.family,
        "backend": backend,
        "study": best.study,
        WORKSPACE: workspace_id(arguments.studies.parent),
        "data.digest": data.digest,
        "dvc.data": dvc_hash(arguments.data),
        **code_tags(),
    }


def _folder(best: Best, family: models.BaseFamily, data: Splits, backend: str, arguments: argparse.Namespace) -> Path:
    """Return the folder of these trainings, named by what defines them, beside no others of the same study."""
    defining = [
        best.hyperparameters,
        best.epochs,
        loading.training_digest(family),
        family.settings.model_dump(mode="json"),
        data.digest,
        backend,
    ]
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:12]
    trained: Path = arguments.studies / (best.study or f"{arguments.dataset}-{family.name}") / "trained"
    for stale in trained.glob("*"):
        if stale.name != digest:
            shutil.rmtree(stale, ignore_errors=True)
    return trained / digest


def _tasks(
    best: Best, settings: TrainSettings, family: models.BaseFamily, arguments: argparse.Namespace, folder: Path
) -> dict[int, TrainingTask]:
    """Return what is to be trained, by seed: each from the first epoch to the last."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        seed: TrainingTask(
            family=best.family,
            settings=family.settings.model_dump(mode="json"),
            hyperparameters=best.hyperparameters,
            data=arguments.data,
            features=arguments.features,
            seed=seed,
            span=models.Span(0, best.epochs, best.epochs),
            folder=folder / f"seed-{seed}",
            ledger=folder / "epochs.log",
            export=True,
        )
        for seed in range(settings.seed, settings.seed + settings.seeds)
    }


if __name__ == "__main__":
    process.stage(main)
