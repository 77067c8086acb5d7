"""Stage train: the best trial, trained again with further seeds in parallel; the best model on validation is kept.

The training of the search is not repeated: it counts as one of the seeds. Training is the same task that the search
runs, on local workers. This process never loads Keras: workers train and
export, it writes to MLflow.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import base as artifacts
from pipeline.artifacts import train
from pipeline.artifacts.search import Best
from pipeline.backend import configure
from pipeline.core import names, params, process
from pipeline.core.errors import DataError, TrackingError
from pipeline.core.files import new_folder, write_text
from pipeline.datasets.arrays import Splits, load_splits
from pipeline.executors.local import LocalExecutor
from pipeline.models import base as models
from pipeline.models import loading
from pipeline.models.training import task
from pipeline.models.training.seeds import (
    Seeds,
    SeedsResult,
    TrainSettings,
    finished,
    further,
    further_folder,
    last_loss,
)
from pipeline.models.training.task import TrainingTask, exported_model
from pipeline.registry import packaging
from pipeline.registry.packaging import TrainedModel
from pipeline.tracking.identity import WORKSPACE, workspace_id
from pipeline.tracking.provenance import code_tags, dvc_hash
from pipeline.tracking.runs import Tracker


@dataclass(frozen=True)
class LoggedModel:
    """Where MLflow has a trained model: the run that trained it, and its own id."""

    run_id: str
    model_id: str


def save(trained: TrainedModel, logged: LoggedModel, own_seed: int, model: Path, report: Path) -> None:
    """Write the model with what later stages need to know of it, and its curves.

    Args:
        trained: The finished trainings.
        logged: The kept model in MLflow.
        own_seed: Seed of the search's training.
        model: Folder for the model.
        report: Folder for curves and summary.
    """
    result, family, data, backend = trained.result, trained.family, trained.data, trained.backend
    with new_folder(model) as folder:
        shutil.copytree(exported_model(result.task), folder, dirs_exist_ok=True)
        described = train.Model(
            family=result.task.family,
            task=family.task,
            value=result.value,
            mean=result.mean,
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
        mean=result.mean,
        standard_error=result.standard_error,
        seeds={str(seed): value for seed, value in result.values.items()},
        failed={str(seed): reason for seed, reason in result.failed.items()},
        parameters=result.trained.parameters,
        epochs=len(epochs),
        seconds=round(sum(epoch.seconds for epoch in result.trained.epochs), 1),
        added_seconds=round(result.added_seconds(own_seed), 1),
    )
    artifacts.write(report / "summary.json", summary)


def main() -> None:
    """Run the stage from the command line."""
    arguments = _parse()
    backend = configure.load_settings()
    settings = params.load("train", TrainSettings)
    family = loading.load(arguments.family, dataset=arguments.dataset)
    best = artifacts.read_json(arguments.best, Best, "search")
    data = load_splits(arguments.data)
    sections = {"train": settings.model_dump(), family.name: family.settings.model_dump(mode="json")}
    tags = _tags(arguments, backend.backend, data, best)
    folder = _folder(best, family, data, backend.backend, arguments)
    tasks = _tasks(best, settings, family, arguments, folder)
    seeds_key = f"{best.seed}-{settings.seed}-{settings.seeds}"
    key = f"train-{arguments.dataset}-{family.name}-{folder.name}-{seeds_key}.{tags[WORKSPACE]}"
    with LocalExecutor(task.work(backend.backend), configure.worker_environments(backend.workers)) as executor:
        seeds = Seeds(tasks, family.objective)
        seeds.start(executor)
        tracker = Tracker(arguments.dataset)  # importing MLflow takes seconds: workers start meanwhile
        with tracker.running(key, f"train {family.name}", tags) as run_id:
            result = seeds.finish(executor)
            trained = TrainedModel(result, family, data, backend.backend)
            logged = LoggedModel(run_id, _log(tracker, run_id, trained, sections))
            save(trained, logged, best.seed, arguments.model, arguments.report)
    print(f"{arguments.dataset} {family.name}: {family.objective} {result.value:.4f}, {_seeds(result)}")
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
    parser.add_argument("--finalist", required=True, type=Path, help="folder of the best training, written by search")
    parser.add_argument("--model", required=True, type=Path, help="folder for the model")
    parser.add_argument("--report", required=True, type=Path, help="folder for curves and summary")
    return parser.parse_args()


def _seeds(result: SeedsResult) -> str:
    """Return the values of all seeds as text."""
    if result.standard_error is None:
        return "one seed"
    values = ", ".join(f"{value:.4f}" for value in result.values.values())
    return f"the best of {len(result.values)} seeds ({values}; mean {result.mean:.4f} ± {result.standard_error:.4f})"


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
    """Return the folder of the trainings with further seeds, beside no others of the same study."""
    study: Path = arguments.studies / (best.study or f"{arguments.dataset}-{family.name}")
    settings = family.settings.model_dump(mode="json")
    code = loading.training_digest(family)
    folder = further_folder(study, best.hyperparameters, best.epochs, code, settings, data.digest, backend)
    for stale in folder.parent.glob("*"):
        if stale.name != folder.name:
            shutil.rmtree(stale, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tasks(
    best: Best, settings: TrainSettings, family: models.BaseFamily, arguments: argparse.Namespace, folder: Path
) -> dict[int, TrainingTask]:
    """Return the trainings by seed: further ones, and that of the search, which is finished.

    Raises:
        DataError: The training of the search is missing.
    """
    finalist = TrainingTask(
        family=best.family,
        settings=family.settings.model_dump(mode="json"),
        hyperparameters=best.hyperparameters,
        data=arguments.data,
        features=arguments.features,
        seed=best.seed,
        span=models.Span(0, best.epochs, best.epochs),
        folder=arguments.finalist,
        ledger=folder / "epochs.log",
        export=True,
    )
    if not finished(finalist):
        raise DataError(
            f"{arguments.finalist}: not a finished training",
            expected="the training of the best trial, written by search",
            next_step="dvc repro search",
        )
    return {**further(folder, settings, finalist), best.seed: finalist}


if __name__ == "__main__":
    process.stage(main)
