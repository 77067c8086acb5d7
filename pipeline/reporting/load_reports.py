"""Reads the artifacts in reports/ that the page shows."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import references, register, search, train, validate
from pipeline.artifacts.base import read_json, read_rows, usable
from pipeline.artifacts.evaluate import Pair, Summary
from pipeline.core.errors import DataError
from pipeline.evaluation import base as tasks

_PLOTS = ("curves", "importances", "timeline", "slices", "parallel")  # the page draws the history itself


@dataclass(frozen=True)
class OfFamily:
    """The artifacts of a family on a dataset.

    Attributes:
        task: The family's task.
        confusion: Test images by (actual, predicted) class name; empty if the task has no correct answers.
        picture: The task's plot as a data URL; empty if it has none.
        pictures: The search's plots, as in `OfDataset`.
    """

    name: str
    task: tasks.Task[Any]
    searched: search.Summary
    best: search.Best
    trials: tuple[search.Trial, ...]
    trained: train.Summary
    curves: tuple[train.Epoch, ...]
    scored: Summary
    confusion: Counter[tuple[str, str]]
    picture: str = ""
    pictures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class OfDataset:
    """The artifacts of a dataset.

    Attributes:
        decisions: Decisions of the stage register, by task.
        pictures: Names and data URLs of its pictures.
        references: Reference models that `pipeline references` has trained.
    """

    name: str
    gate: validate.Report
    decisions: dict[str, register.Decision]
    families: tuple[OfFamily, ...]
    pictures: tuple[tuple[str, str], ...] = ()
    references: tuple[references.Reference, ...] = ()


def of_dataset(reports: Path, dataset: str, families: list[str]) -> OfDataset:
    """Read the artifacts of a dataset and some of its families; other files are ignored.

    Raises:
        DataError: A file is missing or invalid.
    """
    gate = read_json(reports / "validate" / f"{dataset}.json", validate.Report, "validate")
    path = reports / "register" / f"{dataset}.json"
    decisions = read_json(path, register.Report, "register").root
    for decision in decisions.values():
        if decision.family not in families:
            found = decision.family
            raise DataError(f"{path}", expected=f"one of {families}", found=found, next_step="dvc repro register")
    pictures = sorted((reports / "validate" / dataset / "pictures").glob("*.png"), reverse=True)  # samples first
    return OfDataset(
        dataset,
        gate,
        decisions,
        tuple(_of_family(reports, dataset, name) for name in families),
        tuple((path.stem, _address(path)) for path in pictures),
        _references(reports / "references" / f"{dataset}.json"),
    )


def _references(path: Path) -> tuple[references.Reference, ...]:
    """Return the reference models in a file; none where there is no file."""
    if not path.exists():
        return ()
    try:
        return read_json(path, references.References, "references").models
    except DataError:
        dataset = path.stem
        raise DataError(
            f"{path}",
            expected="what `pipeline references` writes",
            found="a damaged file",
            next_step=f"`pipeline references {dataset}` writes it again, or remove it",
        ) from None


def _of_family(reports: Path, dataset: str, family: str) -> OfFamily:
    searched, trained, evaluated = (reports / stage / dataset / family for stage in ("search", "train", "evaluate"))
    plots = [searched / "plots" / f"{name}.png" for name in _PLOTS]
    scored = tasks.read_summary(evaluated / "summary.json")
    task = tasks.load(scored.task)
    pairs = read_rows(evaluated / "plots" / "confusion.csv", Pair, "evaluate") if task.shares(scored) else ()
    return OfFamily(
        name=family,
        task=task,
        searched=read_json(searched / "summary.json", search.Summary, "search"),
        best=read_json(searched / "best.json", search.Best, "search"),
        trials=read_rows(searched / "trials.csv", search.Trial, "search"),
        trained=read_json(trained / "summary.json", train.Summary, "train"),
        curves=read_rows(trained / "curves.csv", train.Epoch, "train"),
        scored=scored,
        confusion=Counter((pair.actual, pair.predicted) for pair in pairs),
        picture=_picture(evaluated / "plots" / task.picture) if task.picture else "",
        pictures=tuple((path.stem, _address(path)) for path in plots if path.exists()),
    )


def _picture(path: Path) -> str:
    with usable(path, "evaluate"):
        return _address(path)


def _address(path: Path) -> str:
    """Return a PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
