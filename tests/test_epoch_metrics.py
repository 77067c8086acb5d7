"""The record of an epoch, and the flat form in which files and studies keep it."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest

from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.training.task import TaskResult
from pipeline.search.trials import add_epochs, history, stopped

FLAT = {"epoch": 3, "loss": 0.5, "val_accuracy": 0.9, "seconds": 1.5, "at": 7.25}
RECORD = EpochMetrics(3, {"loss": 0.5, "val_accuracy": 0.9}, seconds=1.5, at=7.25)


def test_the_flat_form_is_that_of_older_studies_and_leads_back_to_the_record() -> None:
    assert RECORD.flat() == FLAT
    assert EpochMetrics.from_flat(FLAT) == RECORD
    last = EpochMetrics.from_flat({**FLAT, "epoch": 4.0, "stopped": 1.0})  # as JSON of before wrote it
    assert (last.epoch, last.stopped, last.values) == (4, True, RECORD.values)
    assert last.flat() == {**FLAT, "epoch": 4, "stopped": 1.0}


def test_a_named_value_is_found_and_a_field_is_none_of_them() -> None:
    assert RECORD["val_accuracy"] == 0.9
    with pytest.raises(KeyError):
        RECORD["seconds"]


def test_the_result_of_a_task_is_read_from_a_file_of_flat_epochs(tmp_path: Path) -> None:
    file = tmp_path / "trained.json"
    file.write_text(json.dumps({"epochs": [FLAT], "parameters": 10, "latency_ms": None, "checkpoint_bytes": 4,
                                "pictures": [], "device": ""}))  # fmt: skip
    result = TaskResult.read(file)
    assert result == TaskResult([RECORD], 10, checkpoint_bytes=4)
    assert result.plain() == json.loads(file.read_text())


def test_a_trial_remembers_its_epochs_in_the_flat_form() -> None:
    trial = optuna.create_study().ask()
    assert not history(trial)
    assert not stopped(trial)
    add_epochs(trial, [RECORD])
    add_epochs(trial, [EpochMetrics(4, {"loss": 0.4}, seconds=1.0, at=9.0, stopped=True)])
    assert [epoch.epoch for epoch in history(trial)] == [3, 4]
    assert history(trial)[-1]["loss"] == 0.4
    assert [epoch.epoch for epoch in history(trial)[1:]] == [4]
    assert stopped(trial)
    assert trial.user_attrs["history"][0] == FLAT
