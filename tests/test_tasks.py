"""Families that do different things, in one run: each task has its own registered model and champion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from pipeline.datasets.arrays import load_test
from pipeline.project import dvc
from pipeline.registry.loading import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
FAMILIES = {"mlp": "classifier", "gan": "generator", "seq2seq": "completer"}
SETTINGS = [
    "datasets=[digits]",
    f"families=[{','.join(FAMILIES)}]",
    "features.steps=100",
    "search.budget.digits={trials: 2, epochs: 6, trial_epochs: 2}",
    "train.seeds=1",
    "gan.space={width: 16}",
    "seq2seq.space={units: 32}",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "workspace"
    settings = [part for setting in SETTINGS for part in ("-S", setting)]
    command = [sys.executable, "-m", "pipeline.cli.main", "run", "--workspace", str(folder), *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in FAMILIES.values():
        assert f"models:/digits-{name}@champion" in done.stdout
    return folder


def test_each_task_has_its_champion(finished: Path) -> None:
    decided = json.loads((finished / "reports/register/digits.json").read_text())
    assert {task: (of["family"], of["model"]) for task, of in decided.items()} == {
        "classify": ("mlp", "digits-classifier"),
        "generate": ("gan", "digits-generator"),
        "complete": ("seq2seq", "digits-completer"),
    }
    client = MlflowClient(f"sqlite:///{finished / 'mlflow.db'}")
    for name in FAMILIES.values():
        assert int(client.get_model_version_by_alias(f"digits-{name}", "champion").version) == 1


def test_only_what_generates_has_a_scale_and_its_digest_is_with_the_figures(finished: Path) -> None:
    scales = {
        family: json.loads((finished / f"data/features/digits/{family}/scale.json").read_text()) for family in FAMILIES
    }
    assert [family for family, of in scales.items() if of["needed"]] == ["gan"]
    scored = json.loads((finished / "reports/evaluate/digits/gan/summary.json").read_text())
    assert scored["features"] == scales["gan"]["digest"]
    assert scored["floor_fid"] < scored["fid"]


def test_samples_can_be_watched_in_mlflow(finished: Path) -> None:
    client = MlflowClient(f"sqlite:///{finished / 'mlflow.db'}")
    runs = client.search_runs(["1"], "tags.family = 'gan'")
    shown = {run.info.run_id: client.list_artifacts(run.info.run_id, "images") for run in runs}
    trials = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    trained = [run for run in runs if run.data.tags["stage"] == "train"]
    assert trials
    for run in (*trials, *trained):
        assert any("samples" in file.path for file in shown[run.info.run_id]), run.data.tags["mlflow.runName"]


def test_registered_models_answer_from_anywhere(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished / 'mlflow.db'}")
    drawn = load_model("models:/digits-generator@champion").predict(pd.DataFrame({"n": [4], "seed": [0]}))
    assert (drawn.shape, drawn.dtype) == ((4, 28, 28, 1), np.uint8)
    images = np.asarray(load_test(finished / "data/test/digits").test.images[:3])
    whole = load_model("models:/digits-completer@champion").predict(images[:, :14])
    np.testing.assert_array_equal(whole[:, :14], images[:, :14])
    assert whole.shape == images.shape


def test_a_second_run_does_nothing(finished: Path) -> None:
    again = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"], cwd=finished, env=dvc.environment(finished), capture_output=True,
        text=True, timeout=600, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Running stage" not in again.stdout
