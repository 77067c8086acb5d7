"""The base classes of artifacts, which are pydantic models, and functions to read and write their files.

Example:
    best = base.read_json(path, search.Best, "search")
    base.write(path, best)
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import pydantic

from pipeline.core import pydantic_errors
from pipeline.core.conflicts import conflict_in
from pipeline.core.errors import DataError
from pipeline.core.files import write_text

Number = int | float  # an integer stays one
Scalar = bool | int | float | str  # a hyperparameter


class Writable(Protocol):
    """A model that can be written as JSON."""

    def content(self) -> dict[str, Any]:
        """Return the file's content as plain values."""


class Artifact(pydantic.BaseModel):
    """A JSON file. Readers ignore keys that are not declared.

    Attributes:
        written_last: Fields at the end of the file, after those of subclasses and undeclared ones.
    """

    model_config = pydantic.ConfigDict(frozen=True, allow_inf_nan=False, protected_namespaces=())

    written_last: ClassVar[tuple[str, ...]] = ()

    def content(self) -> dict[str, Any]:
        """Return the file's content as plain values, in the order of the file."""
        return _reordered(self.model_dump(), self.written_last)


class Row(pydantic.BaseModel):
    """A row of a CSV file. An empty cell is a missing value.

    Attributes:
        other_columns: Name of the field that holds all undeclared columns; empty for none.
        written_last: Fields whose columns come last.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    other_columns: ClassVar[str] = ""
    written_last: ClassVar[tuple[str, ...]] = ()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _collect(cls, row: dict[str, Any]) -> dict[str, Any]:
        if not cls.other_columns:
            return row
        others = {name: cell for name, cell in row.items() if name not in cls.model_fields}
        return {**row, cls.other_columns: row.get(cls.other_columns, {}) | others}

    def cells(self) -> dict[str, Any]:
        """Return the row's cells by column, in the order of the file."""
        cells = self.model_dump()
        others = cells.pop(self.other_columns, {})
        return _reordered({**cells, **others}, self.written_last)


A = TypeVar("A", bound=pydantic.BaseModel)
R = TypeVar("R", bound=Row)


def read_json(path: Path, model: type[A], stage: str) -> A:
    """Return a JSON file as its model.

    Args:
        path: The file.
        model: The model of its content.
        stage: The stage that writes it.

    Raises:
        DataError: The file is missing, damaged, or was written by an older version.
    """
    with usable(path, stage):
        return model.model_validate(json.loads(path.read_text(encoding="utf-8")))


def read_rows(path: Path, model: type[R], stage: str) -> tuple[R, ...]:
    """Return the rows of a CSV file, at least one; see `read_json`."""
    with usable(path, stage), path.open(encoding="utf-8", newline="") as file:
        rows = tuple(_row(row, model) for row in csv.DictReader(file, restval="", strict=True))
        if not rows:
            raise ValueError("no rows")
        return rows


def write(path: Path, artifact: Writable, *, indent: int | None = 2) -> None:
    """Write an artifact as JSON, atomically, with a final newline so that git diffs stay small."""
    write_text(path, json.dumps(artifact.content(), indent=indent, ensure_ascii=False) + "\n")


@contextmanager
def usable(path: Path, stage: str) -> Iterator[None]:
    """Raise a `DataError` for any error while a file is read in the block.

    Args:
        path: The file.
        stage: The stage that writes it.
    """
    try:
        yield
    except FileNotFoundError:
        found = "none"
    except pydantic.ValidationError as error:
        found = pydantic_errors.summary(error)
    except (OSError, ValueError, csv.Error) as error:
        found = str(error)
    else:
        return
    raise DataError(
        f"{path} cannot be used",
        expected=f"the file that {stage} writes",
        found=conflict_in(path) or found,
        next_step=f"dvc repro {stage}",
    )


def _row(row: dict[str | None, Any], model: type[R]) -> R:
    if None in row:
        raise ValueError("more cells in a row than columns")
    declared = {name: cell for name, cell in row.items() if name in model.model_fields and cell != ""}
    others = {name: cell or None for name, cell in row.items() if name not in model.model_fields}
    return model.model_validate({**declared, **others})


def _reordered(content: dict[str, Any], last: tuple[str, ...]) -> dict[str, Any]:
    first = {name: value for name, value in content.items() if name not in last}
    return {**first, **{name: content[name] for name in last}}
