"""What the stages report, as the page needs it: the JSON and CSV files under reports/, read and checked.

A file that is missing or is not what its stage writes
is told in one line, with that stage's name.
"""

from __future__ import annotations

import base64
import csv
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from pipeline.core.errors import DataError
from pipeline.reporting.written import (
    Best,
    Completed,
    Decision,
    Decisions,
    Epoch,
    Gate,
    Generated,
    Pair,
    Scored,
    Searched,
    Tested,
    Trained,
    Trial,
)

_PLOTS = ("curves", "importances", "timeline", "slices", "parallel")  # the page draws the history itself

W = TypeVar("W", bound=pydantic.BaseModel)


@dataclass(frozen=True)
class OfFamily:
    """All that is known of a family on a dataset.

    Attributes:
        confusion: Test images of a classifier by (actual, predicted) class name.
        picture: The address of a whole picture of what another model gives; empty for a classifier.
        pictures: Those of the search, as in `OfDataset`.
    """

    name: str
    searched: Searched
    best: Best
    trials: tuple[Trial, ...]
    trained: Trained
    curves: tuple[Epoch, ...]
    scored: Scored | Generated | Completed
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
    gate: Gate
    decisions: dict[str, Decision]
    families: tuple[OfFamily, ...]
    pictures: tuple[tuple[str, str], ...] = ()


def of_dataset(reports: Path, dataset: str, families: list[str]) -> OfDataset:
    """Read what the stages wrote about a dataset and some families; whatever else lies there is left alone.

    Raises:
        DataError: A file is missing or is not what its stage writes.
    """
    gate = _json(reports / "validate" / f"{dataset}.json", "validate", Gate)
    path = reports / "register" / f"{dataset}.json"
    decisions = _json(path, "register", Decisions).root
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
    search, train, evaluate = (reports / stage / dataset / family for stage in ("search", "train", "evaluate"))
    plots = [search / "plots" / f"{name}.png" for name in _PLOTS]
    scored = _json(evaluate / "summary.json", "evaluate", Tested).root
    classifies = isinstance(scored, Scored)
    pairs = _rows(evaluate / "plots" / "confusion.csv", "evaluate", Pair) if classifies else ()
    return OfFamily(
        name=family,
        searched=_json(search / "summary.json", "search", Searched),
        best=_json(search / "best.json", "search", Best),
        trials=_rows(search / "trials.csv", "search", Trial),
        trained=_json(train / "summary.json", "train", Trained),
        curves=_rows(train / "curves.csv", "train", Epoch),
        scored=scored,
        confusion=Counter((pair.actual, pair.predicted) for pair in pairs),
        picture="" if classifies else _picture(evaluate / "plots" / "samples.png"),
        pictures=tuple((path.stem, _address(path)) for path in plots if path.exists()),
    )


def _picture(path: Path) -> str:
    with _told(path, "evaluate"):
        return _address(path)


def _address(path: Path) -> str:
    """Return a picture as an address that holds all of it."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _json(path: Path, stage: str, model: type[W]) -> W:
    with _told(path, stage):
        return model.model_validate(json.loads(path.read_text(encoding="utf-8")))


def _rows(path: Path, stage: str, model: type[W]) -> tuple[W, ...]:
    """Return the rows of a CSV file, of which there must be some."""
    with _told(path, stage), path.open(encoding="utf-8", newline="") as file:
        rows = tuple(model.model_validate(row) for row in csv.DictReader(file, restval="", strict=True))
        if not rows:
            raise ValueError("no rows")
        return rows


@contextmanager
def _told(path: Path, stage: str) -> Iterator[None]:
    """Tell what is wrong with a file in one line."""
    try:
        yield
    except FileNotFoundError:
        found: Any = "none"
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        found = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    except (OSError, ValueError, csv.Error) as error:
        found = error
    else:
        return
    raise DataError(
        f"{path} cannot be used", expected=f"the file that {stage} writes", found=found, next_step=f"dvc repro {stage}"
    )
