"""What a task is to the stages evaluate and register: how its models are scored, and when one is better than another.

Models of one task compete with each other, for one registered model per dataset. A task is a module of this package
with a class `Task`, called as families call it: ``classify``, ``generate``, ``complete``.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ParamsError, nearest
from pipeline.datasets.arrays import TestSplit

_NOT_TASKS = frozenset({"__init__", "base", "feature_network", "generative_metrics", "image_grid"})

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Scored:
    """How a model did on a test split.

    Attributes:
        kept: What is kept of its answers, image by image: all that `Task.compare` needs.
        figures: What the summary tells.
        metrics: What MLflow shows of that, without the prefix ``test_``.
        plots: Files to look at, by name.
        told: The figures in a line.
    """

    kept: Arrays
    figures: dict[str, Any]
    metrics: dict[str, float]
    plots: dict[str, bytes]
    told: str


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of a candidate with a champion on the same test images.

    Attributes:
        p_value: How likely a candidate no better than the champion does so well.
        told: What was found, in words.
        figures: The same in numbers.
    """

    p_value: float
    told: str
    figures: dict[str, float] = field(default_factory=dict)


class Task(ABC):
    """What models are for."""

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
        """Compare what was kept of two models over the same test images.

        Args:
            candidate: What was kept of the one.
            champion: What was kept of the other.
            version: What the champion is called.

        Raises:
            DataError: They are not over the same images.
        """

    @abstractmethod
    def headline(self, kept: Arrays) -> dict[str, float]:
        """Return the figures that a decision shows of a model."""

    def key(self, split: TestSplit, features: Path) -> str:
        """Return what must be the same for two models' figures to compare: here, the test split's digest."""
        del features
        return split.digest


def load(name: str) -> Task:
    """Return a task by its name.

    Raises:
        ParamsError: No module has that name.
    """
    known = {path.stem for path in Path(__file__).parent.glob("*.py")} - _NOT_TASKS
    if name not in known:
        raise ParamsError("unknown task", expected=nearest(name, known), found=repr(name))
    task: Task = importlib.import_module(f"pipeline.evaluation.{name}").Task()
    return task


def read(file: Path) -> Arrays:
    """Return what was kept of a model's answers."""
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
