"""The mirror of a study in MLflow: each epoch is there once, whatever the server does and whoever shares it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from pipeline.core.errors import TrackingError
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.registry import packaging
from pipeline.search import mlflow_mirror, study_store
from pipeline.search import run as search
from pipeline.search.mlflow_mirror import MlflowMirror
from pipeline.search.study import Best
from pipeline.search.study_definition import Definition
from pipeline.search.trials import add_epochs
from pipeline.tracking.identity import WORKSPACE, workspace_id
from pipeline.tracking.runs import PARENT, Run, Tracker
from tests.tracking_server import MlflowServer

STUDY = Definition("digits", "mlp", "data", "code", {}, {"generation": 1}, 9, "tensorflow")


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MAX_RETRIES", "BACKOFF_FACTOR"):
            patch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "0")
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
        patch.setattr(
            mlflow_mirror, "_SIGN_OF_LIFE_S", 60.0
        )  # a loaded machine answers late; one that refuses does not
        server = MlflowServer(tmp_path_factory.mktemp("server"))
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        yield server
        server.stop()


@pytest.fixture
def server(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    return mlflow_server


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="maximize")


class Clock:
    """Time that passes when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def train(trial: optuna.Trial, epochs: range, at: float = 100.0) -> None:
    values = {"loss": 0.5, "val_accuracy": 0.25}
    add_epochs(trial, [EpochMetrics(epoch, values, seconds=1.0, at=at + epoch) for epoch in epochs])


def steps(tracker: Tracker, run: Run) -> list[int]:
    return [metric.step for metric in tracker.client.get_metric_history(run.run_id, "val_accuracy")]


def opened(folder: Path, clock: Clock | None = None) -> MlflowMirror:
    """Open the mirror of the study in a folder as a search does."""
    folder.mkdir(parents=True, exist_ok=True)
    mirror = search._mirror(STUDY, study_store.identify(folder), workspace_id(folder.parents[1]))
    return replace(mirror, clock=clock) if clock else mirror


def trials_of(mirror: MlflowMirror) -> dict[str, Run]:
    found = mirror.tracker.runs(f"tags.`{PARENT}` = '{mirror.parent.run_id}'")
    return {key.removeprefix(f"{mirror.key}-"): run for key, run in found.items()}


@pytest.mark.parametrize("outage", ["refuses", "503 Service Unavailable"])
def test_a_search_outlives_its_server_and_catches_up(
    outage: str, server: MlflowServer, study: optuna.Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    mirror = opened(tmp_path / "data" / "studies" / STUDY.name, clock)
    first, second = study.ask(), study.ask()
    train(first, range(1, 4))
    mirror.mirror(study.trials[0])
    server.fail(outage)
    try:
        train(first, range(4, 10))
        mirror.mirror(study.trials[0])
        train(second, range(1, 2))
        mirror.mirror(study.trials[1])
        clock.now += 31  # it is asked again, in vain
        mirror.mirror(study.trials[1])
        mirror.show(0, 9, [Path("no.png")])
        mirror.interrupt("KILLED")
        with pytest.raises(TrackingError, match="the search has ended, but not all of its runs could be logged"):
            mirror.catch_up()
    finally:
        server.recover()
    study.tell(second, state=optuna.trial.TrialState.PRUNED)
    clock.now += 1  # not yet
    mirror.mirror(study.trials[1])
    assert set(trials_of(mirror)) == {"0"}
    clock.now += 1000
    mirror.mirror(study.trials[1])
    assert [line.count("the search continues") for line in capsys.readouterr().err.splitlines()] == [1]
    runs = trials_of(mirror)
    assert [steps(mirror.tracker, runs[number]) for number in "01"] == [[*range(1, 10)], [1]]
    assert [runs[number].status for number in "01"] == ["RUNNING", "FINISHED"]


def test_the_next_call_logs_what_was_left(server: MlflowServer, study: optuna.Study, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "studies" / STUDY.name
    mirror = opened(folder)
    (folder / "study.db").touch()
    trial = study.ask()
    train(trial, range(1, 3))
    server.fail("refuses")
    mirror.mirror(study.trials[0])
    study.tell(trial, 0.5)
    mirror.mirror(study.trials[0])
    server.recover()
    again = opened(folder)
    assert again.parent.run_id == mirror.parent.run_id
    again.mirror(study.trials[0])
    again.catch_up()
    again.close(Best(0, {"units": 3}, 0.5), {"complete": 1}, 2, [], cut_by_deadline=True)
    assert again.tracker.tag_of(again.parent.run_id, "cut_by_deadline") == "true"
    [run] = trials_of(again).values()
    assert steps(again.tracker, run) == [1, 2]
    assert {run.status, again.tracker.client.get_run(again.parent.run_id).info.status} == {"FINISHED"}


def test_a_run_that_was_created_just_before_a_kill_gets_its_parameters(
    server: MlflowServer, study: optuna.Study, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "studies" / STUDY.name
    study.ask().suggest_int("units", 3, 3)
    killed = opened(folder)
    (folder / "study.db").touch()
    killed.tracker.start(f"{killed.key}-0", "mlp g1 trial 0", tags={PARENT: killed.parent.run_id})
    again = opened(folder)
    again.mirror(study.trials[0])
    [run] = trials_of(again).values()
    assert again.tracker.client.get_run(run.run_id).data.params == {"units": "3"}


def test_a_model_that_a_killed_training_logged_is_found_and_one_that_it_began_is_deleted(server: MlflowServer) -> None:
    tracker = Tracker("digits")
    run = tracker.start("train", "train mlp", tags={})
    assert packaging._model_logged_before(tracker, run.run_id, ()) is None

    def begin() -> str:
        tags = {packaging._CLASSES: packaging._digest(())}
        begun = tracker.client.create_logged_model(tracker.experiment_id, "model", run.run_id, tags=tags)
        return str(begun.model_id)

    begin()
    assert packaging._model_logged_before(tracker, run.run_id, ()) is None
    whole = begin()
    tracker.client.finalize_logged_model(whole, "READY")
    assert packaging._model_logged_before(tracker, run.run_id, ()) == whole
    left = tracker.client.search_logged_models([tracker.experiment_id], f"source_run_id = '{run.run_id}'")
    assert [model.model_id for model in left] == [whole]
    assert [each.model_id for each in tracker.client.get_run(run.run_id).outputs.model_outputs] == [whole]


def test_a_lost_study_is_logged_anew_and_what_it_left_is_ended(
    server: MlflowServer, study: optuna.Study, tmp_path: Path
) -> None:
    """So are the runs of a study in this workspace that nobody searches again; those of others are left alone."""
    folder = tmp_path / "data" / "studies" / STUDY.name
    lost, other = opened(folder), opened(tmp_path / "other" / "data" / "studies" / STUDY.name)
    trial = study.ask()
    train(trial, range(1, 4))
    for mirror in (lost, other):
        mirror.mirror(study.trials[0])
    (folder / "id").unlink()
    folder.rmdir()
    anew = opened(folder)
    repeated = optuna.create_study()
    trial = repeated.ask()
    for epochs in (range(1, 2), range(2, 4)):  # the same epochs, at other times
        train(trial, epochs, at=500.0)
        anew.mirror(repeated.trials[0])
    assert len({lost.parent.run_id, other.parent.run_id, anew.parent.run_id}) == 3
    for mirror in (lost, other, anew):
        assert steps(mirror.tracker, trials_of(mirror)["0"]) == [1, 2, 3]
    search.tidy(STUDY, folder.parent, 3, anew.tracker)
    ended = {mirror.key: {run.status for run in trials_of(mirror).values()} for mirror in (lost, other, anew)}
    assert ended == {lost.key: {"KILLED"}, other.key: {"RUNNING"}, anew.key: {"RUNNING"}}
    assert anew.tracker.client.get_run(lost.parent.run_id).info.status == "KILLED"
    assert anew.tracker.tag_of(anew.parent.run_id, WORKSPACE) == workspace_id(tmp_path / "data")


def test_a_study_of_an_earlier_release_keeps_its_runs_and_logs_beyond_what_is_there(
    server: MlflowServer, study: optuna.Study, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "studies" / f"{STUDY.name}0"
    folder.mkdir(parents=True)
    (folder / "study.db").touch()
    assert study_store.identify(folder) == folder.name
    mirror = MlflowMirror(Tracker("digits"), folder.name, "mlp g1", {"stage": "search"})
    trial = study.ask()
    train(trial, range(1, 4))
    mirror.mirror(study.trials[0])
    again = MlflowMirror(Tracker("digits"), folder.name, "mlp g1", {"stage": "search"})
    repeated = optuna.create_study()  # the studies folder was lost before there were ids
    trial = repeated.ask()
    for epochs in (range(1, 2), range(2, 4), range(4, 10)):
        train(trial, epochs, at=500.0)
        again.mirror(repeated.trials[0])
    assert steps(again.tracker, trials_of(again)["0"]) == [*range(1, 10)]
    assert os.environ["MLFLOW_TRACKING_URI"] == server.uri
