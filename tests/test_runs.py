"""Runs in MLflow: each that is opened ends, whatever raises; one in the trash is never used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from pipeline.backend.configure import RuntimeSettings
from pipeline.core import params
from pipeline.core.errors import TrackingError
from pipeline.core.termination import Terminated
from pipeline.models import loading
from pipeline.models.base import Span
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.training.seeds import SeedsResult
from pipeline.models.training.task import TaskResult, TrainingTask
from pipeline.registry import ledger, packaging, promotion
from pipeline.registry.versions import Registry
from pipeline.search.mlflow_mirror import MlflowMirror
from pipeline.search.run import FinishedSearch, SearchResult
from pipeline.search.settings import SearchSettings
from pipeline.search.study import Best
from pipeline.stages import search as stage
from pipeline.tracking.runs import Tracker, ended_runs
from tests.registered import CLASSIFY, NAME, candidate, logged, store

FILE = Path(__file__).parents[1] / "params.yaml"
SETTINGS, FAMILY = params.load("search", SearchSettings, FILE), loading.load("mlp", {})
ARGUMENTS = ("dataset=digits", "family=mlp", "features=none", "studies=none/studies", "output=none", "finalist=none")


class Faulty:
    """A client of MLflow of which one call raises, before or after the server has done what it asks for."""

    def __init__(self, client: Any, number: int, error: BaseException, *, after: bool) -> None:
        self._client, self._left, self._error, self._after = client, number, error, after
        self.raised = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            self._left -= 1
            now = self._left == -1
            self.raised |= now
            if now and not self._after:
                raise self._error
            answer = method(*arguments, **keywords)
            if now:
                raise self._error
            return answer

        return call


def training(tracker: Tracker, key: str, folder: Path) -> None:
    file = folder / "curves.csv"
    file.write_text("epoch\n")
    with tracker.running(key, "train mlp", {"stage": "train"}) as run_id:
        tracker.log_params(run_id, {"units": 3})
        tracker.log_metrics(run_id, {"seed_0_value": 0.5})
        tracker.log_artifacts(run_id, [file])
        tracker.tag(run_id, {"model_id": "m"})


def searching(tracker: Tracker, key: str, folder: Path) -> None:
    """Run the stage, except that no trial is trained."""
    file = folder / "best.json"
    file.write_text("{}\n")

    def run(*_: Any) -> FinishedSearch:
        mirror = MlflowMirror(tracker, key, "mlp g1", {"stage": "search"})
        result = SearchResult(key, Best(0, {"units": 3}, 0.5), {"complete": 1}, 2, 1.0, mirror.parent.run_id)
        return FinishedSearch(result, None, mirror, None)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.configure, "load_settings", lambda: RuntimeSettings(backend="tensorflow", workers=1))
        patch.setattr(stage.params, "load", lambda *_: SETTINGS)
        patch.setattr(stage.loading, "load", lambda *_, **__: FAMILY)
        patch.setattr(
            stage,
            "load_splits",
            lambda _: type("Data", (), {"image_shape": (28, 28, 1), "digest": "d", "train": range(99)}),
        )
        patch.setattr(stage.search, "run", run)
        patch.setattr(stage.search, "tidy", lambda *_: tracker.runs("attributes.status = 'RUNNING'"))
        patch.setattr(stage.search, "save_finalist", lambda *_: None)
        patch.setattr(stage.search, "save", lambda *_: [file])
        patch.setattr(sys, "argv", ["search", *(f"--{argument}" for argument in (*ARGUMENTS, f"data={folder}"))])
        stage.main()


def registering(tracker: Tracker, key: str, folder: Path) -> None:
    del folder
    ledger.ensure(tracker, Registry(tracker), f"model-{key}")


def statuses(tracker: Tracker) -> list[str]:
    return [run.status for run in tracker.runs("").values()]


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (training, RuntimeError),
        (training, Terminated),
        (searching, MlflowException),
        (registering, MlflowException),
    ],
)
def test_every_run_ends_whichever_call_raises(
    work: Callable[[Tracker, str, Path], None], error: type[BaseException], database: Path, tmp_path: Path
) -> None:
    tracker, healthy = Tracker("digits"), Tracker("digits")
    client, faults = tracker.client._client, 0
    for after in (False, True):
        for number in range(99):
            tracker.client._client = faulty = Faulty(client, number, error("no"), after=after)
            try:
                work(tracker, f"{after}-{number}", tmp_path)
            except (TrackingError, RuntimeError, Terminated):
                faults += 1
            assert "RUNNING" not in statuses(healthy), (after, number)
            if not faulty.raised:
                break
    assert faults > 10
    found = set(statuses(healthy))
    assert found == {"FINISHED", "KILLED" if error is Terminated else "FAILED"}


def test_what_a_block_has_opened_ends_with_it_and_nothing_else(database: Path) -> None:
    tracker, inner = Tracker("digits"), ""

    def fail() -> None:
        nonlocal inner
        with ended_runs():
            inner = tracker.create("inner", {"a": "3"}, "a")
            tracker.finish(tracker.create("ended", {"a": "4"}, "a"), "KILLED")
            raise ValueError("no")

    other = tracker.create("of nobody", {"a": "1"}, "a")
    with ended_runs():
        outer = tracker.create("outer", {"a": "2"}, "a")
        with pytest.raises(ValueError, match="no"):
            fail()
    found = {run.run_id: run.status for run in tracker.runs("").values()}
    assert (found[other], found[outer], found[inner]) == ("RUNNING", "FINISHED", "FAILED")
    assert sorted(found.values()) == ["FAILED", "FINISHED", "KILLED", "RUNNING"]


def trained(tracker: Tracker, folder: Path) -> tuple[str, str]:
    """Log a training as the stage does, except for the model's files; return the ids of run and model."""
    with tracker.running("train-digits-mlp", "train mlp", {}) as run_id, pytest.MonkeyPatch.context() as patch:
        patch.setattr(packaging, "_log_training", lambda *_: None)
        patch.setattr(packaging, "log_dataset", lambda *_: None)
        patch.setattr(packaging, "package", lambda _: None)
        patch.setattr(packaging, "log_model", lambda *_: logged(tracker, run_id))
        part = SimpleNamespace(images=None, labels=None)
        data = SimpleNamespace(train=part, val=part, digest="d", class_names=("a", "b"))
        return run_id, packaging.log(tracker, run_id, SimpleNamespace(result=None, data=data), {})  # type: ignore[arg-type]


def test_a_run_in_the_trash_is_one_line_and_both_ways_on_work(database: Path, tmp_path: Path) -> None:
    tracker = Tracker("digits")
    run_id, model_id = trained(tracker, tmp_path)
    tracker.require_model(run_id, model_id, "mlp")
    tracker.client.delete_run(run_id)
    retrain = r"`dvc repro --single-item --force train@digits-mlp`, then `dvc repro`"
    with pytest.raises(TrackingError, match=rf"run {run_id} was deleted in MLflow: .*{retrain}") as error:
        tracker.require_model(run_id, model_id, "mlp")
    assert f"`mlflow runs restore --run-id {run_id}`" in str(error.value)
    again = trained(tracker, tmp_path)
    assert again[0] != run_id
    assert again[1] != model_id
    tracker.require_model(*again, "mlp")
    tracker.client.restore_run(run_id)
    tracker.require_model(run_id, model_id, "mlp")


def test_a_model_that_was_deleted_is_one_line_and_is_logged_again(database: Path, tmp_path: Path) -> None:
    tracker = Tracker("digits")
    run_id, model_id = trained(tracker, tmp_path)
    tracker.client.delete_logged_model(model_id)
    with pytest.raises(TrackingError, match=f"model {model_id} of run {run_id} is not on .*--force train@digits-mlp"):
        tracker.require_model(run_id, model_id, "mlp")
    again = trained(tracker, tmp_path)
    assert again == (run_id, again[1])
    tracker.require_model(*again, "mlp")


def test_a_run_that_was_removed_for_good_is_one_line(database: Path, tmp_path: Path) -> None:
    tracker = Tracker("digits")
    run_id, model_id = trained(tracker, tmp_path)
    tracker.client.delete_run(run_id)
    store(tracker)._hard_delete_run(run_id)
    with pytest.raises(TrackingError, match=f"run {run_id} is not on the tracking server: .*--force train@digits-mlp"):
        tracker.require_model(run_id, model_id, "mlp")


def test_register_refuses_a_candidate_whose_run_is_in_the_trash(database: Path) -> None:
    tracker = Tracker("digits")
    deleted = candidate(tracker, "mlp", 80)
    tracker.client.delete_run(deleted.run_id)
    with pytest.raises(TrackingError, match="was deleted in MLflow"):
        promotion.register(tracker, NAME, CLASSIFY, deleted, 0.05)
    assert Registry(tracker).model(NAME) is None
    tracker.client.restore_run(deleted.run_id)
    assert promotion.register(tracker, NAME, CLASSIFY, deleted, 0.05).decision == "promoted"


def test_a_run_names_the_seeds_without_a_model(database: Path, tmp_path: Path) -> None:
    task = TrainingTask("mlp", {}, {"units": 3}, tmp_path, 4, Span(0, 1, 1), tmp_path, tmp_path / "log")
    trained = TaskResult([EpochMetrics(1, {"val_accuracy": 0.5}, 1.0, 100.0)], 7)
    result = SeedsResult(task, trained, {4: 0.5}, 0.5, failed={3: "the loss diverged in epoch 1"})
    tracker = Tracker("digits")
    with tracker.running("key", "train mlp", {}) as run_id:
        packaging._log_training(tracker, run_id, result, {})
    assert tracker.tag_of(run_id, "seed_3_failed") == "the loss diverged in epoch 1"
