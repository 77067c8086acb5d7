"""Which champions count, which cannot compete, and aliases that follow the ledger."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core import params
from pipeline.core.errors import TrackingError
from pipeline.datasets.arrays import Labelled, TestSplit
from pipeline.project.preflight import check_champions, registered_names
from pipeline.registry import champions
from pipeline.registry.champions import ForeignModelError, standing
from pipeline.registry.pretrained import pins
from pipeline.registry.promotion import register
from pipeline.registry.versions import Registry
from pipeline.stages.evaluate import Scorer, score_champion
from pipeline.tracking.runs import Tracker, predictions_path
from tests import registered
from tests.conftest import ROOT
from tests.registered import CLASSIFY, NAME, candidate, champion, champion_of_others
from tests.test_end_to_end import PIPELINE, run_arguments

DOES_NOT_COMPETE = f"version 1 of {NAME}, the champion so far, does not compete:"


@pytest.fixture
def tracker(database: Path) -> Tracker:
    return Tracker("digits")


@pytest.fixture
def scorer() -> Scorer:
    images = np.zeros((10, 4, 4, 1), np.uint8)
    split = TestSplit(Labelled(images, np.zeros(10, np.int64)), ("a", "b"), "split")
    return Scorer(CLASSIFY, split, Path(), 0.95)


def settings(**changed: Any) -> dict[str, Any]:
    content = {"datasets": ["digits"], "families": ["mlp"], "mlp": {"space": {}}, "register": {"alpha": 0.05}}
    return {**content, **changed}


def deleted_version(tracker: Tracker, run_id: str) -> None:
    tracker.client.delete_model_version(NAME, "1")


def deleted_run(tracker: Tracker, run_id: str) -> None:
    tracker.client.delete_run(run_id)


def run_removed_by_gc(tracker: Tracker, run_id: str) -> None:
    tracker.client.delete_run(run_id)
    registered.store(tracker)._hard_delete_run(run_id)  # what `mlflow gc` does for each deleted run


def missing_files(tracker: Tracker, run_id: str) -> None:
    source = tracker.client.get_model_version(NAME, "1").source
    model = tracker.client.get_logged_model(source.removeprefix("models:/"))
    shutil.rmtree(model.artifact_location.removeprefix("file://"))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (deleted_version, "it was deleted"),
        (deleted_run, "its run {run} was deleted"),
        (run_removed_by_gc, "its run {run} does not exist"),
        (missing_files, "its files are missing"),
    ],
)
def test_a_dead_champion_is_reported_in_a_line_and_does_not_compete(
    fault: Any, reason: str, tracker: Tracker, scorer: Scorer, tmp_path: Path
) -> None:
    dead = candidate(tracker, "cnn", 90)
    register(tracker, NAME, CLASSIFY, dead, 0.05)
    fault(tracker, dead.run_id)
    expected = f"{DOES_NOT_COMPETE} {reason.format(run=dead.run_id)}"
    assert score_champion(tracker, NAME, scorer) == expected
    lines: list[str] = []
    check_champions(settings(), tmp_path, lines.append)
    assert lines == [expected]
    decided = register(tracker, NAME, CLASSIFY, candidate(tracker, "mlp", 10), 0.05)
    assert (decided.decision, decided.reason, decided.champion) == ("promoted", expected, 2)
    assert champion(tracker) == 2
    assert standing(Registry(tracker), NAME).competes


def test_a_deleted_experiment_is_one_clear_error_and_a_removed_one_a_dead_champion(
    tracker: Tracker, tmp_path: Path
) -> None:
    dead = candidate(tracker, "cnn", 90)
    register(tracker, NAME, CLASSIFY, dead, 0.05)
    tracker.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(TrackingError, match=r"its ledger cannot be read: .*deleted run; next: .*its experiment"):
        standing(Registry(tracker), NAME)
    for run in tracker.client.search_runs([tracker.experiment_id], run_view_type=2):
        registered.store(tracker)._hard_delete_run(run.info.run_id)  # as `mlflow gc` does
    registered.store(tracker)._hard_delete_experiment(tracker.experiment_id)
    decided = register(Tracker("digits"), NAME, CLASSIFY, candidate(Tracker("digits"), "mlp", 10), 0.05)
    assert decided.reason == f"{DOES_NOT_COMPETE} its run {dead.run_id} does not exist"
    assert champion(tracker) == decided.champion == 2


def test_a_champion_that_cannot_be_loaded_does_not_compete(tracker: Tracker, scorer: Scorer, tmp_path: Path) -> None:
    then = "raise ValueError('no weights\\nhere')"
    broken = candidate(tracker, "cnn", 90, key="another split")
    model_id = registered.logged(tracker, broken.run_id, tmp_path / "loaded", then)
    register(tracker, NAME, CLASSIFY, registered.Candidate("cnn", 0.9, broken.run_id, model_id, "another split",
                                                            broken.kept), 0.05)  # fmt: skip
    better = candidate(tracker, "mlp", 10)
    with pytest.raises(TrackingError, match="version 1, the champion, has no predictions for this test split"):
        register(tracker, NAME, CLASSIFY, better, 0.05)
    line = score_champion(tracker, NAME, scorer)
    assert line.startswith(f"{DOES_NOT_COMPETE} it gives no predictions (")
    assert "\n" not in line
    assert (tmp_path / "loaded").exists()
    decided = register(tracker, NAME, CLASSIFY, better, 0.05)
    assert (decided.decision, decided.reason) == ("promoted", line)


def test_a_champion_that_can_be_used_again_competes_again(tracker: Tracker, scorer: Scorer, tmp_path: Path) -> None:
    first = candidate(tracker, "cnn", 90, key="another split")
    flag = tmp_path / "repaired"
    then = f"assert Path({str(flag)!r}).exists()"
    model_id = registered.logged(tracker, first.run_id, tmp_path / "loaded", then)
    register(tracker, NAME, CLASSIFY, registered.Candidate("cnn", 0.9, first.run_id, model_id, "another split",
                                                            first.kept), 0.05)  # fmt: skip
    assert "AssertionError" in score_champion(tracker, NAME, scorer)
    assert champions.UNUSABLE in tracker.client.get_model_version(NAME, "1").tags
    flag.touch()
    assert score_champion(tracker, NAME, scorer) == f"{NAME} version 1, the champion, was scored on this test split"
    assert champions.UNUSABLE not in tracker.client.get_model_version(NAME, "1").tags
    assert tracker.has_artifact(first.run_id, predictions_path(scorer.key()))
    assert score_champion(tracker, NAME, scorer) == ""


def test_a_full_disk_is_not_held_against_the_champion(tracker: Tracker, scorer: Scorer, tmp_path: Path) -> None:
    error = "OSError(28, 'No space left on device')"
    first = candidate(tracker, "cnn", 90, key="another split")
    model_id = registered.logged(tracker, first.run_id, tmp_path / "loaded", f"raise {error}")
    register(tracker, NAME, CLASSIFY, registered.Candidate("cnn", 0.9, first.run_id, model_id, "another split",
                                                            first.kept), 0.05)  # fmt: skip
    with pytest.raises(OSError, match="No space left"):
        score_champion(tracker, NAME, scorer)
    assert champions.UNUSABLE not in tracker.client.get_model_version(NAME, "1").tags


def test_a_model_of_others_is_neither_loaded_nor_changed(tracker: Tracker, scorer: Scorer, tmp_path: Path) -> None:
    marker = tmp_path / "their code ran"
    champion_of_others(tracker, NAME, marker)
    before = tracker.client.get_registered_model(NAME)
    for call in (
        lambda: score_champion(tracker, NAME, scorer),
        lambda: check_champions(settings(), tmp_path, print),
        lambda: register(tracker, NAME, CLASSIFY, candidate(tracker, "mlp", 90), 0.05),
        lambda: pins({"families": ["t"], "t": {"init_from": f"models:/{NAME}@champion"}}, tmp_path),
    ):
        with pytest.raises(ForeignModelError, match=r"version 1, the champion, is not of this project: .*prefix"):
            call()
    assert not marker.exists()
    after = tracker.client.get_registered_model(NAME)
    assert (after.tags, after.aliases) == (before.tags, before.aliases)
    assert len(tracker.client.search_model_versions(f"name = '{NAME}'")) == 1
    tracker.client.delete_registered_model_alias(NAME, "champion")
    with pytest.raises(ForeignModelError, match="found 1 versions of other origin"):
        standing(Registry(tracker), NAME)


@pytest.mark.slow
def test_no_search_begins_beside_a_champion_of_others(tracker: Tracker, tmp_path: Path) -> None:
    champion_of_others(tracker, NAME, tmp_path / "their code ran")
    folder = tmp_path / "workspace"
    run = run_arguments(folder, ["datasets=[digits]", "families=[mlp]"])
    for command, where in ((run, ROOT), ([*PIPELINE, "retrain"], folder)):
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 1, done.stdout
        assert done.stderr.splitlines()[-1].startswith(f"error: {NAME} version 1, the champion, is not of this project")
        assert "Traceback" not in done.stderr
        assert not (folder / "dvc.lock").exists()
    assert not (tmp_path / "their code ran").exists()


def test_an_alias_that_others_moved_to_their_version_is_left_to_them(
    tracker: Tracker, scorer: Scorer, tmp_path: Path
) -> None:
    register(tracker, NAME, CLASSIFY, candidate(tracker, "mlp", 90), 0.05)
    champion_of_others(tracker, NAME, tmp_path / "their code ran")
    with pytest.raises(ForeignModelError, match="version 2, the champion, is not of this project"):
        score_champion(tracker, NAME, scorer)
    assert champion(tracker) == 2
    assert not (tmp_path / "their code ran").exists()


def test_a_champion_without_a_run_is_of_others(tracker: Tracker) -> None:
    model_id = registered.logged(tracker, candidate(tracker, "cnn", 90).run_id)
    location = tracker.client.get_logged_model(model_id).artifact_location
    tracker.client.create_registered_model(NAME)
    tracker.client.create_model_version(NAME, location)
    tracker.client.set_registered_model_alias(NAME, "champion", "1")
    with pytest.raises(ForeignModelError, match="found version 1 of no run"):
        standing(Registry(tracker), NAME)


def test_a_champion_of_an_earlier_release_counts_by_its_run(tracker: Tracker) -> None:
    trained = candidate(tracker, "cnn", 90)
    registered.registered_by_an_earlier_release(tracker, trained)
    found = standing(Registry(tracker), NAME)
    assert (found.champion, found.competes, found.decisions) == ("1", True, [])
    run_removed_by_gc(tracker, trained.run_id)
    with pytest.raises(ForeignModelError, match=f"found version 1 of run {trained.run_id}, which has none or is gone"):
        standing(Registry(tracker), NAME)


def test_aliases_and_tags_are_set_by_who_reads_the_ledger_next(tracker: Tracker) -> None:
    register(tracker, NAME, CLASSIFY, candidate(tracker, "cnn", 50), 0.05)
    register(tracker, NAME, CLASSIFY, candidate(tracker, "mlp", 90), 0.05)
    register(tracker, NAME, CLASSIFY, candidate(tracker, "rnn", 80), 0.05)
    tracker.client.set_registered_model_alias(NAME, "champion", "1")  # a slow process, with an older decision
    tracker.client.set_registered_model_alias(NAME, "challenger", "1")
    tracker.client.delete_model_version_tag(NAME, "3", "decision")
    assert standing(Registry(tracker), NAME).champion == "2"
    assert tracker.client.get_registered_model(NAME).aliases == {"champion": 2, "challenger": 3}
    assert tracker.client.get_model_version(NAME, "3").tags["decision"] == "kept"


def test_a_champion_is_withdrawn_by_deleting_it_and_moving_the_alias(tracker: Tracker) -> None:
    register(tracker, NAME, CLASSIFY, candidate(tracker, "cnn", 50), 0.05)
    register(tracker, NAME, CLASSIFY, candidate(tracker, "mlp", 90), 0.05)
    tracker.client.delete_model_version(NAME, "2")
    tracker.client.set_registered_model_alias(NAME, "champion", "1")
    found = standing(Registry(tracker), NAME)
    assert (found.champion, found.competes) == ("1", True)
    decided = register(tracker, NAME, CLASSIFY, candidate(tracker, "rnn", 40), 0.05)
    assert (decided.decision, decided.champion, champion(tracker)) == ("kept", 1, 1)


def test_the_names_of_registered_models_begin_with_the_prefix() -> None:
    content = settings(families=["mlp", "knn", "gan"], gan={"space": {}}, knn={}, register={"prefix": "blue-"})
    assert registered_names(content) == ["blue-digits-classifier", "blue-digits-generator"]
    assert registered_names(settings()) == [NAME]


@pytest.mark.parametrize("prefix", ["a/b", "a:", " ", "-x", "x" * 65, "a'b", "..", "a\n", None])
def test_a_prefix_that_is_no_name_is_refused(prefix: Any) -> None:
    from pipeline.registry.settings import RegisterSettings

    with pytest.raises(params.ParamsError, match=r"register\.prefix"):
        params.parse("register", {"alpha": 0.05, "prefix": prefix}, RegisterSettings)
    assert params.load("register", RegisterSettings, ROOT / "params.yaml").prefix == ""


def test_a_search_does_not_wait_for_a_server_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    check_champions(settings(), tmp_path, lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("champions are not checked before the search: the tracking server cannot be used")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    check_champions(settings(), tmp_path, lines.append)
    assert not list(tmp_path.iterdir()), "no database is created"
