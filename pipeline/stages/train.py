"""Stage train: the best hyperparameters at full budget, from several seeds in parallel; the best on validation is kept.

Training is the same task that the search runs, on the same engine. This process never loads Keras: workers train and
export, it writes to MLflow.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from pipeline.backend import configure
from pipeline.core import params, process
from pipeline.core.errors import DataError
from pipeline.core.files import new_folder, write_json, write_text
from pipeline.datasets.arrays import Splits, load_splits
from pipeline.executors.local import LocalExecutor
from pipeline.models import base as models
from pipeline.models import loading
from pipeline.models.training import task
from pipeline.models.training.seeds import Seeds, SeedsResult, last_loss
from pipeline.models.training.task import TrainingTask, exported_model
from pipeline.registry.versions import log_model
from pipeline.tracking.provenance import code_tags, dvc_hash
from pipeline.tracking.runs import Tracker, log_dataset

_EXAMPLES = 4
_MODEL_ID = "model_id"  # tag of a run whose model has been logged
# How a family may be served: the module that MLflow stores, and what it needs beside the libraries of every model.
_SERVING = {
    "classifier": ("pipeline.serving.classifier", ("keras",)),
    "neighbours": ("pipeline.serving.neighbours", ("scikit-learn",)),
    "generator": ("pipeline.serving.generator", ("keras",)),
    "completer": ("pipeline.serving.completer", ("keras",)),
}


class TrainSettings(params.Settings):
    """Section `train` of params.

    Attributes:
        seeds: Number of models to train; the best on validation is kept.
        seed: Seed of the first; the others follow by one.
    """

    seeds: int = pydantic.Field(ge=1)
    seed: int = pydantic.Field(ge=0)


@dataclass(frozen=True)
class Best:
    """What train needs of a search: `best.json`."""

    family: str
    hyperparameters: dict[str, Any]
    epochs: int
    value: float
    study: str = ""


def log(
    tracker: Tracker,
    run_id: str,
    result: SeedsResult,
    family: models.BaseFamily,
    data: Splits,
    backend: configure.Backend,
    settings: Mapping[str, Any],
) -> str:
    """Write a finished training to its MLflow run and return the id of the logged model.

    A run that has been written before stays as it is: the same training is the same model.
    """
    if known := tracker.tag_of(run_id, _MODEL_ID):
        return known
    tracker.log_params(run_id, {**result.rung.hyperparameters, "seed": result.rung.seed})
    tracker.tag(run_id, {"dvc.params": json.dumps(settings), "parameters": str(result.trained.parameters)})
    logged = max((run.epoch for run in tracker.runs(f"attributes.run_id = '{run_id}'").values()), default=0)
    tracker.log_epochs(run_id, result.trained.epochs[logged:])
    pictures = [result.rung.folder / name for name in result.trained.pictures]
    tracker.log_pictures(run_id, pictures, len(result.trained.epochs))
    for seed, value in result.values.items():
        tracker.log_metrics(run_id, {f"seed_{seed}_value": value})
    name, digest = tracker.experiment, data.digest
    log_dataset(tracker, run_id, f"{name}-train", digest, data.train.images, data.train.labels, "training")
    log_dataset(tracker, run_id, f"{name}-val", digest, data.val.images, data.val.labels, "validation")
    model_id = log_model(
        tracker,
        run_id,
        code=serving_code(family),
        files={path.stem: path for path in sorted(exported_model(result.rung).iterdir())},
        config={"class_names": list(data.class_names), "backend": backend},
        task=family.task,
        images=np.asarray(data.val.images[:_EXAMPLES]),
        requirements=requirements(family, backend),
    )
    tracker.tag(run_id, {_MODEL_ID: model_id})
    return model_id


def serving_code(family: models.BaseFamily) -> Path:
    """Return the file that MLflow stores and runs with the model. It is not imported here: that would load Keras."""
    spec = importlib.util.find_spec(_SERVING[family.serving][0])
    assert spec is not None
    return Path(str(spec.origin))


def requirements(family: models.BaseFamily, backend: configure.Backend) -> list[str]:
    """Return what the served model needs, pinned to what is installed here."""
    needed = _SERVING[family.serving][1]
    builds = {"tensorflow": ("tensorflow-cpu", "tensorflow")}.get(backend, (backend,)) if "keras" in needed else ()
    pinned = []
    for name in ("mlflow", "numpy", "pandas", *needed, *builds):
        try:
            pinned.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue  # the other build of TensorFlow
    return pinned


def load_best(path: Path) -> Best:
    """Return what the search found.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        return Best(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} cannot be used", expected="best.json of a search", found=str(error), next_step="dvc repro search"
        ) from None


def save(
    result: SeedsResult,
    family: models.BaseFamily,
    data: Splits,
    backend: str,
    ids: Mapping[str, str],
    model: Path,
    report: Path,
) -> None:
    """Write the model with what later stages need to know of it, and its curves."""
    with new_folder(model) as folder:
        shutil.copytree(exported_model(result.rung), folder, dirs_exist_ok=True)
        told = {
            "family": result.rung.family,
            "task": family.task,
            "value": result.value,
            "loss": last_loss(result.trained),
            "parameters": result.trained.parameters,
            "hyperparameters": result.rung.hyperparameters,
            "class_names": data.class_names,
            "image_shape": data.image_shape,
            "data_digest": data.digest,
            "backend": backend,
            **ids,
        }
        (folder / "model.json").write_text(json.dumps(told, indent=2) + "\n")
    names = [name for name in result.trained.epochs[0] if name not in ("at", "stopped")]
    # The last column is what the search maximised, under one name for every family: DVC plots it.
    rows = [[*(epoch[name] for name in names), epoch[family.objective]] for epoch in result.trained.epochs]
    lines = [",".join([*names, "value"]), *(",".join(f"{value:.6g}" for value in row) for row in rows)]
    write_text(report / "curves.csv", "\n".join(lines) + "\n")
    summary = {
        "run": ids["run_id"],
        "value": result.value,
        "mean": statistics.mean(result.values.values()),
        "seeds": {str(seed): value for seed, value in result.values.items()},
        "parameters": result.trained.parameters,
        "epochs": len(result.trained.epochs),
        "seconds": round(sum(epoch["seconds"] for epoch in result.trained.epochs), 1),
    }
    write_json(report / "summary.json", summary)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.stages.train", description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--family", required=True)
    parser.add_argument("--data", required=True, type=Path, help="folder written by prepare")
    parser.add_argument("--features", required=True, type=Path, help="folder written by features")
    parser.add_argument("--studies", required=True, type=Path, help="folder of all studies")
    parser.add_argument("--best", required=True, type=Path, help="best.json written by search")
    parser.add_argument("--model", required=True, type=Path, help="folder for the model")
    parser.add_argument("--report", required=True, type=Path, help="folder for curves and summary")
    arguments = parser.parse_args()
    backend = configure.load_settings()
    settings = params.load("train", TrainSettings)
    family = loading.load(arguments.family)
    best = load_best(arguments.best)
    data = load_splits(arguments.data)
    sections = {"train": settings.model_dump(), family.name: family.settings.model_dump(mode="json")}
    tags = _tags(arguments, backend.backend, data, best)
    folder = _folder(best, family, data, backend.backend, arguments)
    rungs = _rungs(best, settings, family, arguments, folder)
    key = f"train-{arguments.dataset}-{family.name}-{folder.name}-{settings.seed}-{settings.seeds}"
    with LocalExecutor(task.work(backend.backend), configure.worker_environments(backend.workers)) as executor:
        seeds = Seeds(rungs, family.objective)
        seeds.start(executor)
        tracker = Tracker(arguments.dataset)  # importing MLflow takes seconds: workers start meanwhile
        with tracker.running(key, f"train {family.name}", tags) as run_id:
            result = seeds.finish(executor)
            model_id = log(tracker, run_id, result, family, data, backend.backend, sections)
            ids = {"run_id": run_id, "model_id": model_id}
            save(result, family, data, backend.backend, ids, arguments.model, arguments.report)
    print(f"{arguments.dataset} {family.name}: {family.objective} {result.value:.4f}, seeds {result.values}")


def _tags(arguments: argparse.Namespace, backend: str, data: Splits, best: Best) -> dict[str, str]:
    """Return what a run tells of where it comes from."""
    return {
        "stage": "train",
        "dataset": arguments.dataset,
        "family": arguments.family,
        "backend": backend,
        "study": best.study,
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


def _rungs(
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
