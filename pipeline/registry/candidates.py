"""The candidate of each task: the family with the best mean validation value, with its stored predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import base as artifacts
from pipeline.artifacts.evaluate import Predictions
from pipeline.artifacts.train import Model
from pipeline.core.errors import DataError
from pipeline.evaluation import base as scores


@dataclass(frozen=True)
class Candidate:
    """The family with the best validation value of a task, as the mean of its seeds.

    Attributes:
        value: Validation value of its kept model.
        key: Figures with the same key are comparable with the candidate's.
        kept: Its stored predictions for the test images.
    """

    family: str
    value: float
    run_id: str
    model_id: str
    key: str
    kept: scores.Arrays


def find_candidates(families: list[str], models: Path, predictions: Path) -> dict[str, Candidate]:
    """Return, by task, the family whose seeds have the best mean validation value; of equals, the lower loss.

    Raises:
        DataError: A file of train or evaluate is missing or damaged.
    """
    trained = {family: artifacts.read_json(models / family / "model.json", Model, "train") for family in families}
    tasks = dict.fromkeys(model.task for model in trained.values())  # in the order of the families
    return {
        task: _candidate({name: model for name, model in trained.items() if model.task == task}, predictions)
        for task in tasks
    }


def _candidate(trained: Mapping[str, Model], predictions: Path) -> Candidate:
    family = max(trained, key=lambda name: (trained[name].mean, -trained[name].loss))
    model, meta = trained[family], artifacts.read_json(predictions / family / "meta.json", Predictions, "evaluate")
    if meta.model_id != model.model_id:
        raise DataError(
            f"{predictions / family} is of another model",
            expected=model.model_id,
            found=meta.model_id,
            next_step="dvc repro evaluate",
        )
    kept = scores.read(predictions / family / "predictions.npz")
    return Candidate(family, model.value, model.run_id, model.model_id, meta.key, kept)
