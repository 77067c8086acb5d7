"""The files between stages: read back as written, and one clear error for a file that cannot be used."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import base, register, search, train
from pipeline.core.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
MODEL: dict[str, Any] = {
    "family": "gan",
    "task": "generate",
    "value": -7.5,
    "mean": -7.5,
    "loss": math.inf,
    "parameters": 12,
    "hyperparameters": {"units": 64, "rate": 0.5, "norm": True, "cell": "gru"},
    "class_names": ["caf\N{LATIN SMALL LETTER E WITH ACUTE}"],
    "image_shape": [8, 8, 1],
    "data_digest": "d",
    "backend": "jax",
    "run_id": "r",
    "model_id": "m",
}
DECISION: dict[str, Any] = {
    "model": "pets-classifier",
    "decision": "promoted",
    "reason": "p = 0.01 < 0.05",
    "version": 2,
    "champion": 2,
    "family": "mlp",
    "value": 0.9,
    "accuracy": 0.875,
    "comparison": {"candidate_only": 9, "champion_only": 1, "p_value": 0.01},
    "run": "r",
    "key": "d",
    "number": 3,
    "time": "2026-01-31T12:00:00+00:00",
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli.main", "schema", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("model", "content"), [(train.Model, MODEL), (register.Report, {"classify": DECISION, "generate": DECISION})]
)
def test_what_is_written_is_what_was_read_to_the_byte(model: Any, content: dict[str, Any], tmp_path: Path) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    base.write(tmp_path / "b.json", base.read_json(tmp_path / "a.json", model, "train"))
    assert (tmp_path / "b.json").read_text(encoding="utf-8") == text


def test_a_value_that_json_cannot_hold_is_never_written() -> None:
    with pytest.raises(ValueError, match="finite number"):
        search.Best(family="mlp", hyperparameters={}, epochs=1, value=math.nan, study="s")


def test_rows_keep_the_columns_that_no_field_declares(tmp_path: Path) -> None:
    lines = ["trial,state,value,epochs,reason,preset,units,rate", "0,complete,0.5,3,,R1,64,0.1",
             "1,failed,,0,worker died,,,0.2", "2,pruned,inf,1,,,8,"]  # fmt: skip
    (tmp_path / "trials.csv").write_text("\n".join(lines) + "\n")
    first, second, third = base.read_rows(tmp_path / "trials.csv", search.Trial, "search")
    assert (first.value, first.preset, first.hyperparameters) == (0.5, "R1", {"units": "64", "rate": "0.1"})
    assert (second.value, second.reason, second.hyperparameters) == (
        None,
        "worker died",
        {"units": None, "rate": "0.2"},
    )
    assert third.value is None
    assert list(first.cells()) == lines[0].split(",")


def test_curves_come_back_as_they_were_written(tmp_path: Path) -> None:
    reported = {"epoch": 1.0, "loss": 0.123456789, "val_fid": -3.0, "seconds": 2.0, "at": 1e9, "stopped": 1.0}
    epoch = train.Epoch.of(reported, "val_fid")
    text = train.curves([epoch, epoch])
    assert text.splitlines()[:2] == ["epoch,loss,val_fid,seconds,value", "1,0.123457,-3,2,-3"]
    (tmp_path / "curves.csv").write_text(text)
    read = base.read_rows(tmp_path / "curves.csv", train.Epoch, "train")
    assert [row.metrics for row in read] == [{"loss": 0.123457, "val_fid": -3, "seconds": 2}] * 2


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (None, "none"),
        ("{", "Expecting property name"),
        ("[]", r"valid dictionary or instance of Model \(\[\]\)"),
        ({"model_id": ...}, "model_id: Field required"),  # of an older version
        ({"value": "good", "loss": None}, r'value: .*valid number.* \("good"\); loss: .*valid number \(null\)'),
        ({"value": math.nan}, "value: .*finite number"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_error(change: Any, found: str, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    if isinstance(change, dict):
        changed = {key: value for key, value in {**MODEL, **change}.items() if value is not ...}
        path.write_text(json.dumps(changed))
    elif change is not None:
        path.write_text(change)
    with pytest.raises(DataError, match=found) as caught:
        base.read_json(path, train.Model, "train")
    text = str(caught.value)
    assert text.startswith(f"{path} cannot be used: expected the file that train writes, found ")
    assert text.endswith("; next: dvc repro train")
    assert "\n" not in text


def test_the_command_prints_a_schema_that_lists_every_field() -> None:
    schema = json.loads(run("train/model").stdout)
    assert set(schema["properties"]) == set(schema["required"]) == set(MODEL)
    assert {part["type"] for part in schema["properties"]["hyperparameters"]["additionalProperties"]["anyOf"]} == {
        "boolean", "integer", "number", "string",
    }  # fmt: skip


@pytest.mark.slow
def test_the_command_lists_every_artifact_and_names_the_nearest() -> None:
    names = [line.split()[0] for line in run().stdout.splitlines()]
    assert {"validate/report", "search/best", "evaluate/summary", "register/report"} <= set(names)
    for name in names:
        assert json.loads(run(name).stdout)["description"], name
    wrong = run("search/bets")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(
        "error: schema: unknown artifact: expected 'search/best'? (one of evaluate/confusion"
    )
