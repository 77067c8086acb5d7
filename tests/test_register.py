"""The paired test that decides who is champion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.register import compare, decide, find_candidate
from pipeline.registry import Version

OLD, NEW = (Version("digits-classifier", number, "run", {}) for number in ("1", "2"))


def right(*pattern: tuple[bool, int]) -> np.ndarray:
    return np.concatenate([np.full(count, value) for value, count in pattern])


def test_the_p_value_is_that_of_the_exact_one_sided_mcnemar_test() -> None:
    # 9 images right only with the candidate, 1 only with the champion: P(X >= 9) with X ~ B(10, 1/2) = 11/1024.
    compared = compare(right((True, 9), (False, 1), (True, 90)), right((False, 9), (True, 1), (True, 90)))
    assert (compared.candidate_only, compared.champion_only) == (9, 1)
    assert compared.p_value == pytest.approx(11 / 1024)


@pytest.mark.parametrize(
    ("wins", "losses", "decision"), [(9, 1, "promoted"), (6, 4, "kept"), (0, 0, "kept"), (1, 9, "kept"), (4, 0, "kept")]
)
def test_only_what_the_test_finds_better_is_promoted(wins: int, losses: int, decision: str) -> None:
    candidate = right((True, wins), (False, losses), (True, 50))
    champion = right((False, wins), (True, losses), (True, 50))
    decided = decide(NEW, candidate, OLD, champion, alpha=0.05)
    assert decided.decision == decision
    assert f"{wins} test images are right only with it, {losses} only with the champion" in decided.reason


def test_the_first_is_promoted_and_the_champion_itself_is_left_alone() -> None:
    assert decide(NEW, right((False, 3)), None, None, 0.05).decision == "promoted"
    assert decide(OLD, right((False, 3)), OLD, None, 0.05).decision == "unchanged"


def test_predictions_over_other_images_do_not_pair() -> None:
    with pytest.raises(DataError, match="expected 3 images, found 4"):
        compare(right((True, 3)), right((True, 4)))


def test_the_candidate_is_chosen_by_validation_and_its_predictions_must_be_its_own(tmp_path: Path) -> None:
    for family, value, loss in (("mlp", 0.9, 0.3), ("cnn", 0.9, 0.2), ("knn", 0.8, 0.1)):
        for folder in (tmp_path / "models" / family, tmp_path / "predictions" / family):
            folder.mkdir(parents=True)
        info = {"value": value, "loss": loss, "run_id": "r", "model_id": f"m-{family}"}
        (tmp_path / "models" / family / "model.json").write_text(json.dumps(info))
        meta = {"test_digest": "d", "model_id": f"m-{family}"}
        (tmp_path / "predictions" / family / "meta.json").write_text(json.dumps(meta))
        np.savez(tmp_path / "predictions" / family / "predictions.npz", predicted=[1, 2], actual=[1, 1])
    found = find_candidate(["mlp", "cnn", "knn"], tmp_path / "models", tmp_path / "predictions")
    assert (found.family, found.right.tolist()) == ("cnn", [True, False])  # equal values: the lower loss
    (tmp_path / "predictions/cnn/meta.json").write_text(json.dumps({"test_digest": "d", "model_id": "m-other"}))
    with pytest.raises(DataError, match="cnn is of another model: expected m-cnn, found m-other"):
        find_candidate(["mlp", "cnn"], tmp_path / "models", tmp_path / "predictions")
