"""Stages whose tracking server goes away: training goes on, one line ends the stage, and the next call only logs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.project import dvc, workspace
from pipeline.tracking.identity import WORKSPACE, workspace_id
from pipeline.tracking.runs import PARENT, Run, Tracker
from tests.tracking_server import MlflowServer

TRIALS, EPOCHS = 4, 3
SETTINGS = ["datasets=[digits]", "families=[mlp]", "runtime.workers=2", "train.seeds=1"]
SETTINGS += [f"search.budget.digits={{trials: {TRIALS}, epochs: 100, trial_epochs: {EPOCHS}}}"]
PATHS = {
    "search": "--output reports/search --finalist data/finalist",
    "train": "--best reports/search/best.json --finalist data/finalist --model data/models --report reports/train",
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    server = MlflowServer(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    server.stop()


def start(stage: str, folder: Path, data: Path, server: MlflowServer) -> subprocess.Popen[str]:
    """Start a stage as DVC would, with a password in the address of the server."""
    env = {**dvc.environment(folder), "CUDA_VISIBLE_DEVICES": "", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    env["MLFLOW_TRACKING_URI"] = server.uri.replace("//", "//ada:love/lace@")
    arguments = f"--dataset digits --family mlp --data {data} --features data/features --studies data/studies"
    command = [sys.executable, "-m", f"pipeline.stages.{stage}", *arguments.split(), *PATHS[stage].split()]
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def epochs(folder: Path) -> list[str]:
    """Every epoch that was computed, by whichever call."""
    return [
        line for file in sorted(folder.glob("data/studies/**/epochs.log")) for line in file.read_text().splitlines()
    ]


def runs(folder: Path, stage: str) -> dict[str, Run]:
    own = f"tags.`{WORKSPACE}` = '{workspace_id(folder / 'data')}'"  # the server keeps runs of other tests, too
    return Tracker("digits").runs(f"tags.stage = '{stage}' and {own}")


@pytest.mark.slow
def test_a_server_that_goes_away_costs_no_training(server: MlflowServer, tmp_path: Path, few_digits: Path) -> None:
    folder = tmp_path / "workspace"
    workspace.prepare(folder, SETTINGS)
    for stage, outage, message in (
        ("search", "refuses", "the search has ended, but not all of its runs could be logged"),
        ("train", "503 Service Unavailable", "trained, but not logged"),
    ):
        known = len(epochs(folder))
        process = start(stage, folder, few_digits, server)
        wait_for(lambda: runs(folder, stage) != {}, process)  # noqa: B023 - called before the next round
        server.fail(outage)
        _, errors = process.communicate(timeout=200)
        server.recover()
        assert process.returncode == 1, errors
        assert message in errors.splitlines()[-1]
        assert errors.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in errors
        assert "lace" not in errors
        trained = epochs(folder)
        assert len(trained) - known >= EPOCHS
        again = start(stage, folder, few_digits, server)
        _, errors = again.communicate(timeout=200)
        assert again.returncode == 0, errors
        assert epochs(folder) == trained
        assert {run.status for run in runs(folder, stage).values()} == {"FINISHED"}

    tracker = Tracker("digits")
    [parent] = [run for run in runs(folder, "search").values() if not tracker.tag_of(run.run_id, PARENT)]
    children = tracker.runs(f"tags.`{PARENT}` = '{parent.run_id}'")
    logged = {key.rpartition("-")[2]: [m.step for m in tracker.client.get_metric_history(run.run_id, "loss")]
              for key, run in children.items()}  # fmt: skip
    assert len(logged) == TRIALS
    assert sorted(f"trial-{int(number):05d} {step}" for number, steps in logged.items() for step in steps) == sorted(
        set(trained[:known])
    )
    [run] = runs(folder, "train").values()
    assert tracker.tag_of(run.run_id, "model_id")
    assert [metric.step for metric in tracker.client.get_metric_history(run.run_id, "loss")] == [1, 2, 3]
    assert os.environ["MLFLOW_TRACKING_URI"] == server.uri
