"""Small models in MLflow's registry, for tests of champions and decisions."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation import base as scores
from pipeline.registry.candidates import Candidate
from pipeline.stages.evaluate import keep_on_run
from pipeline.tracking.runs import Tracker, load_mlflow

NAME = "digits-classifier"
CLASSIFY = scores.load("classify")
IMAGES = 100
CODE = """
from pathlib import Path
import mlflow.models, pandas as pd
from mlflow.pyfunc import PythonModel

class Model(PythonModel):
    def load_context(self, context):
        Path({marker!r}).write_text("ran")
        {then}

    def predict(self, context, model_input, params=None):
        return pd.DataFrame({{"label": [0] * len(model_input), "probabilities": [[1.0, 0.0]] * len(model_input)}})

mlflow.models.set_model(Model())
"""


def answers(right: int) -> scores.Arrays:
    """Return predictions of which as many are right, of a hundred."""
    predicted = (np.arange(IMAGES) < right).astype(np.int64)
    return {"predicted": predicted, "actual": np.ones_like(predicted)}


def candidate(tracker: Tracker, family: str, right: int, key: str = "split") -> Candidate:
    """Return a candidate with a run, a logged model and predictions in MLflow, as train and evaluate leave them."""
    tags = {"study": f"study of {family}", "dataset": tracker.experiment}
    with tracker.running(f"train-{family}", family, tags) as run_id:
        model_id = logged(tracker, run_id)
    keep_on_run(tracker, run_id, key, answers(right))
    return Candidate(family, right / IMAGES, run_id, model_id, key, answers(right))


def logged(tracker: Tracker, run_id: str, marker: Path | None = None, then: str = "pass") -> str:
    """Log a model of a run and return its id; with a marker, one that writes this file when it is loaded."""
    model = tracker.client.create_logged_model(tracker.experiment_id, name="model", source_run_id=run_id)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "model"
        if marker is None:
            files.mkdir()
            (files / "MLmodel").write_text("flavors: {}\n")
        else:
            (Path(folder) / "code.py").write_text(CODE.format(marker=str(marker), then=then))
            load_mlflow().pyfunc.save_model(files, python_model=str(Path(folder) / "code.py"), pip_requirements=[])
        tracker.client.log_model_artifacts(model.model_id, str(files))
    tracker.client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def champion_of_others(tracker: Tracker, name: str, marker: Path) -> None:
    """Register a model that this project has not trained, and make it champion."""
    run = tracker.client.create_run(tracker.experiment_id)
    model_id = logged(tracker, run.info.run_id, marker)
    if not tracker.client.search_registered_models(f"name = '{name}'"):
        tracker.client.create_registered_model(name)
    version = tracker.client.create_model_version(name, f"models:/{model_id}", run.info.run_id, model_id=model_id)
    tracker.client.set_registered_model_alias(name, "champion", version.version)


def registered_by_an_earlier_release(tracker: Tracker, trained: Candidate, name: str = NAME) -> str:
    """Register a candidate without tags of its run and without a ledger, make it champion and return its version."""
    tracker.client.create_registered_model(name)
    version = tracker.client.create_model_version(
        name, f"models:/{trained.model_id}", trained.run_id, model_id=trained.model_id,
        tags={"family": trained.family, "value": "0.9", "decision": "promoted", "decision.reason": "McNemar p = 0.001"},
    )  # fmt: skip
    tracker.client.set_registered_model_alias(name, "champion", version.version)
    return str(version.version)


def store(tracker: Tracker) -> Any:
    """Return the store below a tracker's client, which can remove runs for good, as `mlflow gc` does."""
    return tracker.client._client._tracking_client.store


def champion(tracker: Tracker, name: str = NAME) -> int:
    """Return the version that the alias champion names."""
    return int(tracker.client.get_model_version_by_alias(name, "champion").version)
