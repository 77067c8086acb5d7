"""A name that a shell, a path or a registry could take for something else is refused before it is used."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.cli import models
from pipeline.core import names
from pipeline.core.errors import ParamsError
from pipeline.datasets import packing
from pipeline.datasets.source_format import source_format
from pipeline.evaluation import base as evaluation
from pipeline.models import loading
from pipeline.project import check, lock, workspace
from pipeline.retraining import ingest

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = {
    "command": "x; touch P",
    "substitution": "$(touch P)",
    "backticks": "`touch P`",
    "pipe": "x|touch P",
    "redirection": "x>P",
    "variable": "$HOME",
    "quotes": "x' && touch P; '",
    "double quotes": 'x" && touch P; "',
    "newline": "x\ntouch P",
    "newline at the end": "x\n",
    "null": "x\0",
    "dash": "-x",
    "option": "--help",
    "dots": "..",
    "hidden": ".x",
    "dotted": "a.b",
    "parent": "../x",
    "slash": "a/b",
    "absolute": "/tmp/x",
    "backslash": "a\\b",
    "space": "my pets",
    "space at the end": "pets ",
    "empty": "",
    "long": "x" * 300,
    "look-alike": "mn\u0456st",
    "full width": "\uff4dnist",
    "emoji": "pets\U0001f408",
    "right to left": "a\u202eb",
    "glob": "*",
    "home": "~",
    "alias": "x@champion",
    "template": "${datasets}",
    "braces": "{a,b}",
    "comment": "#x",
    "colon": "a:b",
    "equals": "a=b",
    "percent": "%2e%2e",
}
GOOD = ["mnist", "cifar10", "digits", "shapes", "fashion", "my-pets", "my_pets", "R2D2", "a", "0", "x" * 64]
STAGES = {
    "download": "dataset partial output",
    "validate": "dataset raw report details docs",
    "prepare": "dataset raw validated near-duplicates manifest accepted output test",
    "features": "dataset family data output",
    "search": "dataset family data features studies output finalist",
    "train": "dataset family data features studies best finalist model report",
    "evaluate": "dataset family test features model predictions report",
    "register": "dataset models predictions report",
}

SHAPES = {"format": "shapes", "train": 600, "test": 100, "seed": 0, "classes": ["disc", "ring"]}
FEW = ("command", "newline", "dash", "parent", "space", "empty", "long", "look-alike")

hostile = pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
few_hostile = pytest.mark.parametrize("name", [HOSTILE[one] for one in FEW], ids=FEW)
REFUSED = r"not a name: expected a letter or digit, then up to 63 letters, digits, - or _ .*, found .*; next: choose"


def params_with(tmp_path: Path, name: str, place: str) -> Path:
    """Write a params file with a name in a place: a chosen dataset, a dataset that is only declared, or a family."""
    content: dict[str, object] = {"datasets": ["shapes"], "families": ["mlp"], "download": {"shapes": SHAPES}}
    if place != "families":
        content["download"] = {"shapes": SHAPES, name: SHAPES | {"path": "here"}}
    if place != "download":
        content[place] = [name]
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("place", ["datasets", "families", "download"])
@hostile
def test_check_refuses_it(tmp_path: Path, name: str, place: str) -> None:
    with pytest.raises(ParamsError, match=REFUSED) as caught:
        check.check(params_with(tmp_path, name, place))
    message = str(caught.value)
    assert f"{place}: " in message
    assert message.replace("…", "").isascii(), "a look-alike is shown by its code"
    assert len(message) < 300


@pytest.mark.parametrize("name", [*GOOD, *sorted(loading.family_names())])
def test_names_in_use_are_accepted(name: str) -> None:
    assert names.checked(name, "datasets") == name


@pytest.mark.parametrize("name", [1, None, ["mnist"], True])
def test_what_is_no_text_is_no_name(name: object) -> None:
    with pytest.raises(ParamsError, match="not a name"):
        names.checked(name, "datasets")


@few_hostile
def test_a_new_workspace_is_not_begun(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "w"
    for setting in (f"datasets={json.dumps([name])}", f"families={json.dumps([name])}"):
        with pytest.raises(ParamsError, match=REFUSED):
            workspace.prepare(folder, [setting])
    assert not folder.exists()


@hostile
def test_ingest_and_retrain_touch_nothing(tmp_path: Path, name: str) -> None:
    params = params_with(tmp_path, name, "datasets")
    (tmp_path / "here" / "cat").mkdir(parents=True)
    before = params.read_bytes()
    with pytest.raises(ParamsError, match=REFUSED):
        ingest.run(tmp_path, print)
    assert params.read_bytes() == before
    with pytest.raises(ParamsError, match=REFUSED):
        packing.pins(YAML(typ="safe").load(params), tmp_path, tmp_path)
    left = {path.name for path in tmp_path.iterdir()} - {lock.FILE.name, lock.HOLDER.name}
    assert left == {"here", "params.yaml"}


@pytest.mark.parametrize(("stage", "option"), [(s, o) for s in STAGES for o in ("dataset", "family") if o in STAGES[s]])
@few_hostile
def test_a_stage_refuses_it(tmp_path: Path, monkeypatch, stage: str, option: str, name: str) -> None:
    values = dict.fromkeys(STAGES[stage].split(), "digits") | {"family": "mlp"} | {option: name}
    options = [f"--{word}={values[word]}" for word in STAGES[stage].split()]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stage", *options])
    with pytest.raises(ParamsError, match=REFUSED):
        importlib.import_module(f"pipeline.stages.{stage}").main()
    assert list(tmp_path.iterdir()) == []


@hostile
def test_the_leaderboard_reads_nothing_of_it(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    params_with(tmp_path, "digits", "datasets")
    with pytest.raises(ParamsError, match=REFUSED):
        models.main(argparse.Namespace(dataset=name))
    params_with(tmp_path, name, "families")
    with pytest.raises(ParamsError, match=REFUSED):
        models.main(argparse.Namespace(dataset=None))


@few_hostile
def test_what_is_found_by_its_module_is_no_path(name: str) -> None:
    for find in (evaluation.load, loading.load, source_format):
        with pytest.raises(ParamsError, match="unknown"):
            find(name)


def test_a_folder_of_batches_with_such_a_name_is_left_alone(tmp_path: Path) -> None:
    whole = YAML(typ="safe").load(ROOT / "params.yaml")
    lines: list[str] = []
    for name in ("x; touch P", "$(touch P)", "my pets"):
        (tmp_path / "data" / "incoming" / name).mkdir(parents=True)
        (tmp_path / "data" / "incoming" / name / "batch.npz").write_bytes(b"")
    (tmp_path / "params.yaml").write_text(json.dumps(whole))
    ingest.run(tmp_path, lines.append)
    assert len([line for line in lines if "is left alone: expected a dataset of params.yaml" in line]) == 3
    assert len(list((tmp_path / "data" / "incoming").glob("*/batch.npz"))) == 3
    assert not (tmp_path / "P").exists()


def test_a_command_in_a_name_is_not_run(tmp_path: Path) -> None:
    """As a user would meet it: DVC hands its commands to a shell."""
    folder, name = tmp_path / "w", "x; touch P"
    settings = ["-S", f"datasets={json.dumps([name])}", "-S", f"download={json.dumps({name: SHAPES})}"]
    command = [sys.executable, "-m", "pipeline.cli.main", "run", "--workspace", str(folder), *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not (folder / "P").exists()
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: datasets: not a name: expected ")
    assert done.stderr.endswith("found 'x; touch P'; next: choose another\n")
    assert done.stderr.count("\n") == 1
    assert not folder.exists()
