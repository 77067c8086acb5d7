"""The contract of a task: the interface between a kind of model and the rest of the pipeline.

A task is a module of this package with a class `Task`, and a family names it: ``task = "classify"``. Models of one task
compete with each other for one registered model per dataset. Nothing else in the package names a task.
"""

from __future__ import annotations

import functools
import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.artifacts import evaluate
from pipeline.artifacts.base import read_json
from pipeline.core.errors import DataError, ParamsError, nearest
from pipeline.datasets.arrays import Images, TestSplit
from pipeline.evaluation.interface import Interface
from pipeline.evaluation.labels import Labels, Line, Shares, Tile, percent

Arrays = Mapping[str, npt.NDArray[Any]]
S = TypeVar("S", bound=evaluate.Summary)

_DEFINES_A_TASK = re.compile(r"^class Task\(base\.Task\b", re.MULTILINE)


@dataclass(frozen=True)
class Scored:
    """The scores of a model on a test split.

    Attributes:
        kept: The model's answers image by image, as far as `Task.compare` needs them.
        figures: The fields that the task's summary adds to those of all tasks.
        metrics: The metrics for MLflow, without the prefix ``test_``.
        plots: Plot files, by name.
        text: The figures in a line.
        note: What a person should know who compares the model with others, in a clause; empty for nothing.
    """

    kept: Arrays
    figures: dict[str, Any]
    metrics: dict[str, float]
    plots: dict[str, bytes]
    text: str
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of a candidate with a champion on the same test images.

    Attributes:
        p_value: How likely a candidate no better than the champion does so well.
        text: The result in words.
        figures: The result in numbers.
    """

    p_value: float
    text: str
    figures: dict[str, float] = field(default_factory=dict)


class Task(ABC, Generic[S]):
    """A task that models perform.

    Attributes:
        noun: The noun for a model of the task: a dataset's registered model is ``<prefix><dataset>-<noun>``.
        serving: The modules of `pipeline.serving` that serve its models, each with the libraries that it needs beside
            those of every model. A family names one of them.
        summary_type: The model of evaluate's `summary.json`.
        labels: The texts of the report page.
        picture: The plot that the report page shows; empty for none.
    """

    noun: ClassVar[str]
    serving: ClassVar[Mapping[str, tuple[str, ...]]]
    summary_type: ClassVar[type[evaluate.Summary]]
    labels: ClassVar[Labels]
    picture: ClassVar[str] = ""

    @abstractmethod
    def score(self, model: Any, split: TestSplit, features: Path, confidence: float) -> Scored:
        """Score a model on the test split.

        Args:
            model: As MLflow serves it.
            split: The test split.
            features: Folder written by the stage `features`.
            confidence: Coverage of intervals.
        """

    @abstractmethod
    def compare(self, candidate: Arrays, champion: Arrays, version: str) -> Comparison:
        """Compare two models by their stored predictions for the same test images.

        Args:
            candidate: Stored predictions of the candidate.
            champion: Stored predictions of the champion.
            version: The champion's version.

        Raises:
            DataError: They are not over the same images.
        """

    @abstractmethod
    def headline(self, kept: Arrays) -> dict[str, float]:
        """Return the figures that a decision shows of a model."""

    def against_chance(self, kept: Arrays) -> Comparison | None:
        """Compare stored predictions with answers that do not depend on the images; None if that cannot be compared."""
        del kept
        return None

    def beside(self, kept: Arrays) -> str:
        """Return the test figures of stored predictions with what a constant answer gets, in a clause; or nothing."""
        del kept
        return ""

    def never_predicted(self, summary: S) -> tuple[str, ...]:
        """Return the names of the classes that a model never answers though test images have them."""
        del summary
        return ()

    @abstractmethod
    def interface(self, images: Images) -> Interface:
        """Return what models take and return, with an example made of a few raw images, uint8 (n, H, W, C)."""

    @abstractmethod
    def cells(self, value: float, summary: S) -> tuple[str, ...]:
        """Return a model's cells in the columns of `labels`.

        Args:
            value: The objective on validation data.
            summary: The scores on the test split.
        """

    @abstractmethod
    def line(self, value: float, summary: S) -> Line:
        """Return a model's line in the leaderboard of a terminal; see `cells`."""

    @abstractmethod
    def tile(self, summary: S, version: int, confidence: float) -> Tile:
        """Return the head figure of a registered version; `confidence` is the coverage of intervals."""

    @abstractmethod
    def sentence(self, summary: S) -> str:
        """Return the test figures that have no chart, as a sentence."""

    def shares(self, summary: S) -> Shares | None:
        """Return shares of right answers; the page then shows intervals and the matrix of `plots/confusion.csv`."""
        del summary
        return None

    def value_text(self, value: float) -> str:
        """Return the objective as text: a share, or the distance of which it is the negative."""
        return percent(value) if self.labels.shares else f"{-value:.4g}"

    def registered_name(self, dataset: str, prefix: str) -> str:
        """Return the name of a dataset's registered model; `prefix` is `register.prefix` of params."""
        return f"{prefix}{dataset}-{self.noun}"

    def key(self, split: TestSplit, features: Path) -> str:
        """Return what must be the same for two models' figures to compare: here, the test split's digest."""
        del features
        return split.digest


def task_names() -> set[str]:
    """Return the names of all tasks: the modules beside this one that define a class `Task`."""
    modules = Path(__file__).parent.glob("*.py")
    return {path.stem for path in modules if _DEFINES_A_TASK.search(path.read_text(encoding="utf-8"))}


@functools.cache
def load(name: str) -> Task[Any]:
    """Return a task by its name.

    Raises:
        ParamsError: No module of that name defines a task.
    """
    known = task_names()
    if name not in known:
        raise ParamsError("unknown task", expected=nearest(name, known), found=repr(name))
    task: Task[Any] = importlib.import_module(f"pipeline.evaluation.{name}").Task()
    return task


def read_summary(path: Path) -> evaluate.Summary:
    """Return the scores that evaluate wrote, as the summary of their task.

    Raises:
        DataError: The file is missing or damaged, or its task is unknown.
    """
    general = read_json(path, evaluate.Summary, "evaluate")
    if general.task not in (known := task_names()):
        expected, found = f"task: {nearest(general.task, known)}", repr(general.task)
        raise DataError(f"{path} cannot be used", expected=expected, found=found, next_step="dvc repro evaluate")
    return read_json(path, load(general.task).summary_type, "evaluate")


def read(file: Path) -> Arrays:
    """Return what was kept of a model's answers."""
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
