"""Logs models to MLflow: as code that loads files, with a signature, an example and pinned requirements."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.interface import Interface, Pixels
from pipeline.tracking.runs import Tracker, load_mlflow

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


def log_model(
    tracker: Tracker,
    run_id: str,
    *,
    code: Path,
    files: Mapping[str, Path],
    config: Mapping[str, Any],
    interface: Interface,
    requirements: Sequence[str],
) -> str:
    """Log a model as code that loads files; return its model id.

    `mlflow.pyfunc.log_model` would load the model to try the example, and Keras with it: 8 s that evaluate, which runs
    the logged model on the whole test split, makes needless. Naming the requirements saves another 11 s.

    Args:
        tracker: Where the run is.
        run_id: The run that trained it.
        code: Python file that calls `mlflow.models.set_model`.
        files: Artifacts by name; the code finds them in its context.
        config: What the code finds as ``context.model_config``.
        interface: What it takes and returns.
        requirements: What the model needs, pinned.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    mlflow = load_mlflow()
    logged = tracker.client.create_logged_model(tracker.experiment_id, name="model", source_run_id=run_id)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        mlflow.pyfunc.save_model(
            path,
            mlflow_model=Model(run_id=run_id, model_id=logged.model_id),
            python_model=str(code),
            artifacts={name: str(file) for name, file in files.items()},
            model_config=dict(config),
            signature=signature(interface),
            input_example=interface.example,
            pip_requirements=list(requirements),
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
