"""The paired test that decides who is champion, and who is a candidate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import DataError
from pipeline.evaluation import base as scores
from pipeline.evaluation.classify import compare
from pipeline.registry.promotion import decide, find_candidates
from pipeline.registry.versions import Registry, Version
from pipeline.tracking.runs import Tracker

OLD, NEW = (Version("digits-classifier", number, "run", {}) for number in ("1", "2"))
CLASSIFY = scores.load("classify")


def right(*pattern: tuple[bool, int]) -> np.ndarray:
    return np.concatenate([np.full(count, value) for value, count in pattern])


def kept(*pattern: tuple[bool, int]) -> scores.Arrays:
    """Return answers of which as many are right as asked for, in that order."""
    labels = right(*pattern).astype(np.int64)
    return {"predicted": labels, "actual": np.ones_like(labels)}


def test_the_p_value_is_that_of_the_exact_one_sided_mcnemar_test() -> None:
    # 9 images right only with the candidate, 1 only with the champion: P(X >= 9) with X ~ B(10, 1/2) = 11/1024.
    compared = compare(right((True, 9), (False, 1), (True, 90)), right((False, 9), (True, 1), (True, 90)), "1")
    assert compared.figures == {"candidate_only": 9, "champion_only": 1}
    assert compared.p_value == pytest.approx(11 / 1024)


@pytest.mark.parametrize(
    ("wins", "losses", "decision"), [(9, 1, "promoted"), (6, 4, "kept"), (0, 0, "kept"), (1, 9, "kept"), (4, 0, "kept")]
)
def test_only_what_the_test_finds_better_is_promoted(wins: int, losses: int, decision: str) -> None:
    candidate = kept((True, wins), (False, losses), (True, 50))
    champion = kept((False, wins), (True, losses), (True, 50))
    decided = decide(CLASSIFY, NEW, candidate, OLD, champion, alpha=0.05)
    assert decided.decision == decision
    assert f"{wins} test images are right only with it, {losses} only with the champion" in decided.reason


def test_the_first_is_promoted_and_the_champion_itself_is_left_alone() -> None:
    assert decide(CLASSIFY, NEW, kept((False, 3)), None, None, 0.05).decision == "promoted"
    assert decide(CLASSIFY, OLD, kept((False, 3)), OLD, None, 0.05).decision == "unchanged"


def test_predictions_over_other_images_do_not_pair() -> None:
    with pytest.raises(DataError, match="expected 3 images, found 4"):
        CLASSIFY.compare(kept((True, 3)), kept((True, 4)), "1")


def test_each_task_has_a_candidate_chosen_by_validation_whose_answers_must_be_its_own(tmp_path: Path) -> None:
    families = (("gan", "generate", -9.0, 0.5), ("mlp", "classify", 0.9, 0.3), ("cnn", "classify", 0.9, 0.2),
                ("knn", "classify", 0.8, 0.1))  # fmt: skip
    for family, task, value, loss in families:
        for folder in (tmp_path / "models" / family, tmp_path / "predictions" / family):
            folder.mkdir(parents=True)
        info = {"task": task, "value": value, "loss": loss, "run_id": "r", "model_id": f"m-{family}"}
        info |= {"family": family, "parameters": 1, "hyperparameters": {}, "class_names": ["a", "b"]}
        info |= {"image_shape": [8, 8, 1], "data_digest": "d", "backend": "jax"}
        (tmp_path / "models" / family / "model.json").write_text(json.dumps(info))
        (tmp_path / "predictions" / family / "meta.json").write_text(
            json.dumps({"key": "d", "model_id": f"m-{family}"})
        )
        np.savez(tmp_path / "predictions" / family / "predictions.npz", predicted=[1, 2], actual=[1, 1])
    found = find_candidates(["gan", "mlp", "cnn", "knn"], tmp_path / "models", tmp_path / "predictions")
    assert {task: candidate.family for task, candidate in found.items()} == {"generate": "gan", "classify": "cnn"}
    assert CLASSIFY.headline(found["classify"].kept) == {"accuracy": 0.5}  # equal values: the lower loss
    (tmp_path / "predictions/cnn/meta.json").write_text(json.dumps({"key": "d", "model_id": "m-other"}))
    with pytest.raises(DataError, match="cnn is of another model: expected m-cnn, found m-other"):
        find_candidates(["mlp", "cnn"], tmp_path / "models", tmp_path / "predictions")


def test_the_studies_of_every_registered_model_of_a_dataset_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    tracker = Tracker("digits")
    registry = Registry(tracker)
    for name in ("digits-classifier", "digits-generator", "mnist-classifier"):
        with tracker.running(name, name, {"study": f"study of {name}"}) as run_id:
            pass
        model = tracker.client.create_logged_model(tracker.experiment_id, source_run_id=run_id)
        registry.register(name, model.model_id, run_id, {})
    assert registry.studies("digits") == {"study of digits-classifier", "study of digits-generator"}
    assert registry.studies("shapes") == set()


def test_tasks_do_not_share_a_registered_model() -> None:
    names = {task: scores.load(task).registered_name("digits") for task in scores.task_names()}
    assert names == {"classify": "digits-classifier", "generate": "digits-generator", "complete": "digits-completer"}
