"""The paired test that decides who is champion, and who is a candidate."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts import register as report
from pipeline.core.errors import DataError, TrackingError
from pipeline.evaluation import base as scores
from pipeline.evaluation.base import Arrays, Comparison
from pipeline.evaluation.classify import Task, chance, compare
from pipeline.registry import ledger as ledgers
from pipeline.registry.candidates import find_candidates
from pipeline.registry.promotion import decide, register
from pipeline.registry.versions import Registry, Version
from pipeline.reporting.dataset import headline
from pipeline.search import study_store
from pipeline.tracking.runs import Tracker
from tests import registered
from tests.registered import NAME, candidate, champion, registered_by_an_earlier_release
from tests.test_ledger import at_once

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


def answered(*rows: tuple[int, int, int]) -> scores.Arrays:
    """Return answers, given as (actual, predicted, count)."""
    actual, predicted, count = (np.array(column) for column in zip(*rows, strict=True))
    return {"actual": np.repeat(actual, count), "predicted": np.repeat(predicted, count)}


CHANCE = {
    "always the largest of two classes": answered((0, 0, 180), (1, 0, 2)),
    "always the largest of three": answered((0, 0, 60), (1, 0, 20), (2, 0, 5)),
    "both, whatever the image": answered((0, 0, 90), (0, 1, 90), (1, 0, 5), (1, 1, 5)),
    "worse than chance": answered((0, 1, 30), (1, 0, 30)),
    "right about one rare image": answered((0, 0, 150), (0, 1, 30), (1, 1, 1), (1, 0, 1)),
    "no class of the test split": answered((0, -1, 30), (1, -1, 30)),
}
ABOVE = {
    "half of a rare class": answered((0, 0, 179), (0, 1, 1), (1, 0, 6), (1, 1, 6)),
    "three classes": answered((0, 0, 30), (1, 1, 10), (1, 0, 10), (2, 2, 5), (2, 0, 5)),
    "no image of one of three classes": answered((0, 0, 30), (1, 1, 30), (2, 0, 10)),
}


@pytest.mark.parametrize("name", [*CHANCE, *ABOVE])
def test_a_first_champion_is_better_than_chance_in_all_classes_together(name: str) -> None:
    decided = decide(CLASSIFY, NEW, (CHANCE | ABOVE)[name], None, None, 0.05)
    assert decided.decision == ("kept" if name in CHANCE else "promoted")
    assert ("must be better than chance, and its balanced accuracy is" in decided.reason) == (name in CHANCE)


def test_the_exact_test_has_its_level_and_is_fishers_for_two_classes() -> None:
    assert chance(answered((0, 0, 3), (0, 1, 1), (1, 0, 1), (1, 1, 3))) == pytest.approx(17 / 70)  # the tea tasting
    generator = np.random.default_rng(0)
    random = [
        {"actual": np.repeat([0, 1, 2], (30, 10, 5)), "predicted": generator.integers(0, 3, 45)} for _ in range(60)
    ]
    assert np.mean([chance(kept) < 0.05 for kept in random]) <= 0.1


def test_a_first_candidate_at_chance_is_challenger_until_a_better_one_comes(tracker: Tracker) -> None:
    blind = replace(candidate(tracker, "cnn", 60), kept=CHANCE["always the largest of two classes"])
    decided = register(tracker, NAME, CLASSIFY, blind, 0.05)
    assert (decided.decision, decided.champion, decided.version) == ("kept", 0, 1)
    assert "balanced accuracy is 0.5000, by chance 1/2: one-sided exact p = 1 >= 0.05" in decided.reason
    model = tracker.client.get_registered_model(NAME)
    assert {alias: int(version) for alias, version in model.aliases.items()} == {"challenger": 1}
    assert register(tracker, NAME, CLASSIFY, blind, 0.05) == decided, "decided once"
    assert "has no champion; version 1 (cnn) is registered as challenger, because" in headline(decided)
    seeing = replace(candidate(tracker, "mlp", 70), kept=ABOVE["half of a rare class"])
    better = register(tracker, NAME, CLASSIFY, seeing, 0.05)
    assert (better.decision, better.champion, champion(tracker)) == ("promoted", 2, 2)
    assert "challenger" not in tracker.client.get_registered_model(NAME).aliases


def test_predictions_over_other_images_do_not_pair() -> None:
    with pytest.raises(DataError, match="expected 3 images, found 4"):
        CLASSIFY.compare(kept((True, 3)), kept((True, 4)), "1")


def test_each_task_has_a_candidate_chosen_by_validation_whose_answers_must_be_its_own(tmp_path: Path) -> None:
    families = (("gan", "generate", -9.0, -9.0, 0.5), ("mlp", "classify", 0.9, 0.9, 0.3),
                ("cnn", "classify", 0.91, 0.9, 0.2), ("rnn", "classify", 0.99, 0.85, 0.1))  # fmt: skip
    for family, task, value, mean, loss in families:
        for folder in (tmp_path / "models" / family, tmp_path / "predictions" / family):
            folder.mkdir(parents=True)
        info = {"task": task, "value": value, "mean": mean, "loss": loss, "run_id": "r", "model_id": f"m-{family}"}
        info |= {"family": family, "parameters": 1, "hyperparameters": {}, "class_names": ["a", "b"]}
        info |= {"image_shape": [8, 8, 1], "data_digest": "d", "backend": "jax"}
        (tmp_path / "models" / family / "model.json").write_text(json.dumps(info))
        (tmp_path / "predictions" / family / "meta.json").write_text(
            json.dumps({"key": "d", "model_id": f"m-{family}"})
        )
        np.savez(tmp_path / "predictions" / family / "predictions.npz", predicted=[1, 2], actual=[1, 1])
    found = find_candidates(["gan", "mlp", "cnn", "rnn"], tmp_path / "models", tmp_path / "predictions")
    assert {task: candidate.family for task, candidate in found.items()} == {"generate": "gan", "classify": "cnn"}
    assert CLASSIFY.headline(found["classify"].kept)["accuracy"] == 0.5  # equal means: the lower loss
    (tmp_path / "predictions/cnn/meta.json").write_text(json.dumps({"key": "d", "model_id": "m-other"}))
    with pytest.raises(DataError, match="cnn is of another model: expected m-cnn, found m-other"):
        find_candidates(["mlp", "cnn"], tmp_path / "models", tmp_path / "predictions")


@pytest.fixture
def tracker(database: Path) -> Tracker:
    return Tracker("digits")


class Interleaved(Task):
    """Both registrations compare their candidate with the same champion before one of them is let go on."""

    both_compared = threading.Barrier(2)

    def __init__(self, waits_for: threading.Event | None) -> None:
        self._waits_for = waits_for
        self.compared_with: list[str] = []

    def compare(self, candidate: Arrays, champion: Arrays, version: str) -> Comparison:
        self.compared_with.append(version)
        if len(self.compared_with) == 1:
            self.both_compared.wait(30)
            if self._waits_for is not None:
                assert self._waits_for.wait(30)
        return super().compare(candidate, champion, version)


@pytest.mark.parametrize("better_first", [True, False])
def test_of_two_registrations_at_once_the_better_candidate_is_champion(better_first: bool, tracker: Tracker) -> None:
    register(tracker, NAME, CLASSIFY, candidate(tracker, "cnn", 60), 0.05)
    rights = (99, 85) if better_first else (85, 99)
    first, second = (candidate(tracker, f"mlp-{right}", right) for right in rights)
    ended = threading.Event()
    ahead, behind = Interleaved(None), Interleaved(ended)

    def go_ahead() -> report.Decision:
        try:
            return register(tracker, NAME, ahead, first, 0.05)
        finally:
            ended.set()

    one, other = at_once(go_ahead, lambda: register(tracker, NAME, behind, second, 0.05))
    assert ahead.compared_with == ["1"]
    assert behind.compared_with == ["1", str(one.version)], "who came second decides again, against the new champion"
    assert (one.decision, other.decision) == ("promoted", "kept" if better_first else "promoted")
    best = one if better_first else other
    assert champion(tracker) == best.version == other.champion
    decisions = ledgers.ensure(tracker, Registry(tracker), NAME).decisions()
    assert decisions[1:] == [one, other]


def test_two_registrations_of_the_same_model_at_once_make_one_version(tracker: Tracker) -> None:
    trained, barrier = candidate(tracker, "cnn", 60), threading.Barrier(2)

    class Together(Registry):
        def _holding(self, name: str, model_id: str, run_id: str) -> list[Version]:
            found = super()._holding(name, model_id, run_id)
            barrier.wait(30)  # none has created a version; then both have
            return found if not found else super()._holding(name, model_id, run_id)

    ledgers.ensure(tracker, Registry(tracker), NAME)
    found = at_once(*(lambda: Together(tracker).register(NAME, trained.model_id, trained.run_id, {}) for _ in range(2)))
    assert [version.version for version in found] == ["1", "1"]
    assert [version.version for version in Registry(tracker).versions(NAME)] == ["1"]


def test_a_write_to_the_registry_that_lost_a_race_is_tried_again(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import BAD_REQUEST, MlflowException
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    insert, failures = SqlAlchemyStore.set_model_version_tag, [MlflowException("UNIQUE constraint failed", BAD_REQUEST)]

    def lost_once(*arguments: object) -> None:
        insert(*arguments)  # by the other process
        if failures:
            raise failures.pop()

    monkeypatch.setattr(SqlAlchemyStore, "set_model_version_tag", lost_once)
    assert register(tracker, NAME, CLASSIFY, candidate(tracker, "a", 50), 0.05).number == 1
    assert not failures
    assert tracker.client.get_model_version(NAME, "1").tags["decision"] == "promoted"
    failures += [MlflowException("it is broken", BAD_REQUEST)] * 3
    with pytest.raises(TrackingError, match="it is broken"):
        register(tracker, NAME, CLASSIFY, candidate(tracker, "b", 90), 0.05)


def test_a_rerun_reports_the_same_decision_with_its_evidence(tracker: Tracker) -> None:
    first, better, worse = (candidate(tracker, family, right) for family, right in (("a", 50), ("b", 90), ("c", 80)))
    made = [register(tracker, NAME, CLASSIFY, each, 0.05) for each in (first, better)]
    assert [decision.decision for decision in made] == ["promoted", "promoted"]
    assert made[1].comparison is not None
    assert made[1].comparison["p_value"] < 1e-9
    tags = tracker.client.get_model_version(NAME, "2").tags
    assert register(tracker, NAME, CLASSIFY, better, 0.05) == made[1]
    assert tracker.client.get_model_version(NAME, "2").tags == tags
    assert "McNemar p =" in tags["decision.reason"]
    kept_one = register(tracker, NAME, CLASSIFY, worse, 0.05)
    assert kept_one.decision == "kept"
    assert register(tracker, NAME, CLASSIFY, worse, 0.05) == kept_one
    assert register(tracker, NAME, CLASSIFY, better, 0.05) == made[1], "back to earlier params: still the champion"
    assert len(ledgers.ensure(tracker, Registry(tracker), NAME).decisions()) == 3


def test_a_decision_is_made_anew_when_what_it_was_about_has_changed(tracker: Tracker) -> None:
    first, better = candidate(tracker, "a", 50), candidate(tracker, "b", 57)
    register(tracker, NAME, CLASSIFY, first, 0.001)
    assert register(tracker, NAME, CLASSIFY, better, 0.001).decision == "kept"
    promoted = register(tracker, NAME, CLASSIFY, better, 0.05)  # the level of the test
    assert (promoted.decision, promoted.number) == ("promoted", 3)
    again = register(tracker, NAME, CLASSIFY, first, 0.05)  # the champion
    assert (again.decision, again.champion, again.number) == ("kept", 2, 4)
    other_split = replace(better, key="another split")
    unchanged = register(tracker, NAME, CLASSIFY, other_split, 0.05)
    assert (unchanged.decision, unchanged.key, unchanged.number) == ("unchanged", "another split", 5)
    assert "McNemar p =" in tracker.client.get_model_version(NAME, "2").tags["decision.reason"]
    assert register(tracker, NAME, CLASSIFY, other_split, 0.05) == unchanged


@pytest.mark.parametrize("killed_before", ["tag_version", "set_alias", "remove_alias"])
def test_a_kill_after_the_decision_loses_nothing_of_it(
    killed_before: str, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    trained = [candidate(tracker, family, right) for family, right in (("a", 80), ("b", 81), ("c", 99))]
    for each in trained[:2]:
        register(tracker, NAME, CLASSIFY, each, 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(Registry, killed_before, kill)
        with pytest.raises(KeyboardInterrupt):
            register(tracker, NAME, CLASSIFY, trained[2], 0.05)
    made = register(tracker, NAME, CLASSIFY, trained[2], 0.05)
    assert (made.decision, made.number) == ("promoted", 3)
    assert made.comparison is not None
    assert tracker.client.get_registered_model(NAME).aliases == {"champion": 3}
    tags = tracker.client.get_model_version(NAME, "3").tags
    assert (tags["decision"], tags["decision.reason"]) == ("promoted", made.reason)


def test_a_model_of_an_earlier_release_goes_on_with_its_champion(tracker: Tracker) -> None:
    old = candidate(tracker, "old", 60)
    registered_by_an_earlier_release(tracker, old)
    unchanged = register(tracker, NAME, CLASSIFY, old, 0.05)
    assert (unchanged.decision, unchanged.champion, unchanged.number) == ("unchanged", 1, 1)
    assert tracker.client.get_model_version(NAME, "1").tags["decision.reason"] == "McNemar p = 0.001"
    assert register(tracker, NAME, CLASSIFY, candidate(tracker, "worse", 50), 0.05).decision == "kept"
    assert register(tracker, NAME, CLASSIFY, candidate(tracker, "better", 90), 0.05).decision == "promoted"
    assert champion(tracker) == 3


def test_the_studies_of_every_registered_model_of_a_dataset_are_kept(tracker: Tracker, tmp_path: Path) -> None:
    registry = Registry(tracker)
    kept_studies = set()
    for noun in ("classifier", "generator", "completer"):
        earlier, now = (candidate(tracker, f"{name}-{noun}", 60) for name in ("earlier", "now"))
        registered_by_an_earlier_release(tracker, earlier, f"digits-{noun}")
        register(tracker, f"blue-digits-{noun}", CLASSIFY, now, 0.05)
        kept_studies |= {f"study of earlier-{noun}", f"study of now-{noun}"}
    mnist = Tracker("mnist")
    register(mnist, "mnist-classifier", CLASSIFY, candidate(mnist, "other", 60), 0.05)
    assert registry.studies("digits") == kept_studies
    assert registry.studies("shapes") == set()
    tracker.client.delete_run(now.run_id)
    registered.store(tracker)._hard_delete_run(now.run_id)  # as `mlflow gc` does
    assert registry.studies("digits") == kept_studies
    studies = [tmp_path / name for name in (*sorted(kept_studies), "a", "b")]
    for study in studies:
        study.mkdir()
    assert study_store.sweep(studies, 2, registry.studies("digits")) == ["b"]
    assert [path.name for path in studies if path.exists()] == [*sorted(kept_studies), "a"]


def test_tasks_do_not_share_a_registered_model() -> None:
    names = {task: scores.load(task).registered_name("digits", "") for task in scores.task_names()}
    assert names == {"classify": "digits-classifier", "generate": "digits-generator", "complete": "digits-completer"}
