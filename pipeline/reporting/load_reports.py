"""Reads the artifacts under reports/ that the page shows."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import register, search, train, validate
from pipeline.artifacts.base import read_json, read_rows, usable
from pipeline.artifacts.evaluate import AnySummary, ClassifierSummary, Known, Pair
from pipeline.core.errors import DataError

_PLOTS = ("curves", "importances", "timeline", "slices", "parallel")  # the page draws the history itself


@dataclass(frozen=True)
class OfFamily:
    """All that is known of a family on a dataset.

    Attributes:
        confusion: Test images of a classifier by (actual, predicted) class name.
        picture: The address of a whole picture of what another model gives; empty for a classifier.
        pictures: Those of the search, as in `OfDataset`.
    """

    name: str
    searched: search.Summary
    best: search.Best
    trials: tuple[search.Trial, ...]
    trained: train.Summary
    curves: tuple[train.Epoch, ...]
    scored: Known
    confusion: Counter[tuple[str, str]]
    picture: str = ""
    pictures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class OfDataset:
    """All that is known of a dataset.

    Attributes:
        decisions: By task.
        pictures: Its images by name, each as the address of a whole picture.
    """

    name: str
    gate: validate.Report
    decisions: dict[str, register.Decision]
    families: tuple[OfFamily, ...]
    pictures: tuple[tuple[str, str], ...] = ()


def of_dataset(reports: Path, dataset: str, families: list[str]) -> OfDataset:
    """Read what the stages wrote about a dataset and some families; whatever else lies there is left alone.

    Raises:
        DataError: A file is missing or is not what its stage writes.
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
    )


def _of_family(reports: Path, dataset: str, family: str) -> OfFamily:
    searched, trained, evaluated = (reports / stage / dataset / family for stage in ("search", "train", "evaluate"))
    plots = [searched / "plots" / f"{name}.png" for name in _PLOTS]
    scored = read_json(evaluated / "summary.json", AnySummary, "evaluate").root
    classifies = isinstance(scored, ClassifierSummary)
    pairs = read_rows(evaluated / "plots" / "confusion.csv", Pair, "evaluate") if classifies else ()
    return OfFamily(
        name=family,
        searched=read_json(searched / "summary.json", search.Summary, "search"),
        best=read_json(searched / "best.json", search.Best, "search"),
        trials=read_rows(searched / "trials.csv", search.Trial, "search"),
        trained=read_json(trained / "summary.json", train.Summary, "train"),
        curves=read_rows(trained / "curves.csv", train.Epoch, "train"),
        scored=scored,
        confusion=Counter((pair.actual, pair.predicted) for pair in pairs),
        picture="" if classifies else _picture(evaluated / "plots" / "samples.png"),
        pictures=tuple((path.stem, _address(path)) for path in plots if path.exists()),
    )


def _picture(path: Path) -> str:
    with usable(path, "evaluate"):
        return _address(path)


def _address(path: Path) -> str:
    """Return a picture as an address that holds all of it."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
