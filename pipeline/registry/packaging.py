"""Packages a trained model for MLflow: its run, the code that serves it, its signature and its pinned requirements."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.backend import configure
from pipeline.datasets.arrays import Splits
from pipeline.evaluation import base as scores
from pipeline.evaluation.interface import Interface, Pixels
from pipeline.models import base as models
from pipeline.models.training.seeds import SeedsResult
from pipeline.models.training.task import exported_model
from pipeline.tracking.errors import translated
from pipeline.tracking.runs import Tracker, load_mlflow, log_dataset, tracking_uri

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

_EXAMPLES = 4
_MODEL_ID = "model_id"  # tag of a run whose model has been logged
_CLASSES = "pipeline.class_names"  # tag of a logged model: a digest of the names that it answers


@dataclass(frozen=True)
class TrainedModel:
    """A finished training, with the family and the data.

    Attributes:
        result: The kept model, and the values of all seeds.
        family: Its family.
        data: Train and validation splits.
        backend: The backend of Keras.
    """

    result: SeedsResult
    family: models.BaseFamily
    data: Splits
    backend: configure.Backend


@dataclass(frozen=True)
class Package:
    """The parts of a model that MLflow stores.

    Attributes:
        code: Python file that calls `mlflow.models.set_model`.
        files: Artifacts by name, for the context of the code.
        config: The ``context.model_config`` of the code.
        interface: Inputs and outputs of the model.
        requirements: Pinned packages that the model needs.
    """

    code: Path
    files: Mapping[str, Path]
    config: Mapping[str, Any]
    interface: Interface
    requirements: Sequence[str]


def log(tracker: Tracker, run_id: str, trained: TrainedModel, settings: Mapping[str, Any]) -> str:
    """Write a finished training to its MLflow run and return the id of the logged model.

    A run that has a model already is not changed: the same training gives the same model. One that somebody has deleted
    in MLflow is logged again, and so is one that answers other names: classes may be renamed without a new training.
    """
    known = tracker.tag_of(run_id, _MODEL_ID)
    if known and tracker.has_model(known) and _answers(tracker, known, trained.data.class_names):
        return known
    _log_training(tracker, run_id, trained.result, settings)
    data = trained.data
    for name, part, context in (("train", data.train, "training"), ("val", data.val, "validation")):
        log_dataset(tracker, run_id, f"{tracker.experiment}-{name}", data.digest, part.images, part.labels, context)
    before = _model_logged_before(tracker, run_id, data.class_names)
    model_id = before or log_model(tracker, run_id, package(trained))
    tracker.tag(run_id, {_MODEL_ID: model_id})
    return model_id


def _answers(tracker: Tracker, model_id: str, class_names: tuple[str, ...]) -> bool:
    """Return whether a logged model answers with these names of classes. Nothing of it is loaded."""
    stated = tracker.client.get_logged_model(model_id).tags.get(_CLASSES)
    if stated is not None:
        return bool(stated == _digest(class_names))
    mlflow = load_mlflow()  # a model of an earlier release has no tag
    with translated():
        mlflow.set_tracking_uri(tracking_uri())
        flavors = mlflow.models.get_model_info(f"models:/{model_id}").flavors
    return tuple(flavors["python_function"]["config"]["class_names"]) == class_names


def _digest(class_names: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(class_names)).encode()).hexdigest()


def _model_logged_before(tracker: Tracker, run_id: str, class_names: tuple[str, ...]) -> str | None:
    """Return the model that a killed process logged for a run; delete those that it only began to log."""
    from mlflow.entities import LoggedModelOutput

    found = tracker.client.search_logged_models([tracker.experiment_id], f"source_run_id = '{run_id}'")
    ready = [str(model.model_id) for model in found if model.status == "READY"]
    whole = [model_id for model_id in ready if _answers(tracker, model_id, class_names)]
    for model in found:
        if model.status != "READY":
            tracker.client.delete_logged_model(model.model_id)
    if whole and not tracker.client.get_run(run_id).outputs.model_outputs:
        tracker.client.log_outputs(run_id, [LoggedModelOutput(whole[0], step=0)])
    return whole[0] if whole else None


def _log_training(tracker: Tracker, run_id: str, result: SeedsResult, settings: Mapping[str, Any]) -> None:
    """Log hyperparameters, settings, epochs, pictures, the values of all seeds, and why some have none."""
    tracker.log_params(run_id, {**result.task.hyperparameters, "seed": result.task.seed})
    tracker.tag(run_id, {"dvc.params": json.dumps(settings), "parameters": str(result.trained.parameters)})
    logged = max((run.epoch for run in tracker.runs(f"attributes.run_id = '{run_id}'").values()), default=0)
    tracker.log_epochs(run_id, result.trained.epochs[logged:])
    pictures = [result.task.folder / name for name in result.trained.pictures]
    tracker.log_pictures(run_id, pictures, len(result.trained.epochs))
    for seed, value in result.values.items():
        tracker.log_metrics(run_id, {f"seed_{seed}_value": value})
    if result.failed:
        tracker.tag(run_id, {f"seed_{seed}_failed": reason for seed, reason in result.failed.items()})


def package(trained: TrainedModel) -> Package:
    """Return the parts of a trained model that MLflow stores."""
    data, family = trained.data, trained.family
    return Package(
        code=serving_code(family),
        files={path.stem: path for path in sorted(exported_model(trained.result.task).iterdir())},
        config={"class_names": list(data.class_names), "backend": trained.backend},
        interface=scores.load(family.task).interface(np.asarray(data.val.images[:_EXAMPLES])),
        requirements=requirements(family, trained.backend),
    )


def serving_code(family: models.BaseFamily) -> Path:
    """Return the file that MLflow stores and runs with the model. It is not imported here: that would load Keras."""
    spec = importlib.util.find_spec(f"pipeline.serving.{family.serving}")
    assert spec is not None
    return Path(str(spec.origin))


def requirements(family: models.BaseFamily, backend: configure.Backend) -> list[str]:
    """Return the packages that the served model needs, pinned to the installed versions."""
    needed = scores.load(family.task).serving[family.serving]
    builds = {"tensorflow": ("tensorflow-cpu", "tensorflow")}.get(backend, (backend,)) if "keras" in needed else ()
    pinned = []
    for name in ("mlflow", "numpy", "pandas", *needed, *builds):
        try:
            pinned.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue  # the other build of TensorFlow
    return pinned


def log_model(tracker: Tracker, run_id: str, packed: Package) -> str:
    """Log a model as code that loads files, with the signature of its task; return its model id.

    `mlflow.pyfunc.log_model` would load the model to try the example, and Keras with it: 8 s that evaluate, which runs
    the logged model on the whole test split, makes needless. Naming the requirements saves another 11 s.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    mlflow = load_mlflow()
    tags = {_CLASSES: _digest(packed.config["class_names"])}
    logged = tracker.client.create_logged_model(tracker.experiment_id, name="model", source_run_id=run_id, tags=tags)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        mlflow.pyfunc.save_model(
            path,
            mlflow_model=Model(run_id=run_id, model_id=logged.model_id),
            python_model=str(packed.code),
            artifacts={name: str(file) for name, file in packed.files.items()},
            model_config=dict(packed.config),
            signature=signature(packed.interface),
            input_example=packed.interface.example,
            pip_requirements=list(packed.requirements),
        )
        tracker.client.log_model_artifacts(logged.model_id, str(path))
    tracker.client.finalize_logged_model(logged.model_id, "READY")
    tracker.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def signature(interface: Interface) -> ModelSignature:
    """Return MLflow's signature of models with an interface."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Array

    kinds = {"long": DataType.long, "string": DataType.string, "doubles": Array(DataType.double)}

    def schema(side: Any) -> Schema:
        if isinstance(side, Pixels):
            return Schema([TensorSpec(np.dtype("uint8"), (-1, *side.shape))])
        return Schema([ColSpec(kinds[column.kind], column.name, required=column.required) for column in side])

    return ModelSignature(schema(interface.inputs), schema(interface.outputs))
