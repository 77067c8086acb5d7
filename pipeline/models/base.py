"""What a family of models is: its settings, its search space, how it builds, trains and is scored.

A family is a module of this package with a class `Family`, found by its name. It knows neither the study that searches
it nor where runs are logged: everything enters through the arguments of `fit`.
"""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import params
from pipeline.datasets.base import Splits
from pipeline.errors import ParamsError, PipelineError, nearest
from pipeline.models.space import Hyperparameters, Space, Trial, override, sample

if TYPE_CHECKING:
    import keras

_NOT_FAMILIES = frozenset({"__init__", "base", "checkpoint", "classifier", "rung", "space"})

Metrics = dict[str, float]
OnEpoch = Callable[[Metrics], None]


class TrainingError(PipelineError):
    """These hyperparameters cannot be trained: the loss diverged, or the model cannot be built or held."""


class FamilySettings(params.Settings):
    """A family's section of params; families with more settings extend it.

    Attributes:
        space: Dimensions of the search space to narrow, widen or fix; see `space.override`.
    """

    space: dict[str, Any] = {}


@dataclass(frozen=True)
class Spec:
    """What a model is built for: image shape (H, W, C) and the number of classes."""

    image_shape: tuple[int, int, int]
    classes: int

    @classmethod
    def of(cls, data: Splits) -> Spec:
        """Return the spec of a dataset."""
        return cls(data.image_shape, len(data.class_names))


@dataclass(frozen=True)
class Span:
    """The epochs to train now, `start` done before and `stop` done after, out of the `total` that schedules span."""

    start: int
    stop: int
    total: int


@dataclass(frozen=True)
class Fitted:
    """A trained model, and for each epoch trained now its metrics (``epoch`` counts from 1)."""

    model: keras.Model
    history: list[Metrics]


class BaseFamily(ABC):
    """The contract of a family.

    Attributes:
        Settings: The model of the family's section of params.
        space: The search space, before params change it.
        objective: The epoch metric that a search maximises; always measured on validation data.
    """

    Settings: ClassVar[type[FamilySettings]] = FamilySettings
    space: ClassVar[Space]
    objective: ClassVar[str] = "val_accuracy"

    def __init__(self, name: str, settings: FamilySettings) -> None:
        self.name = name
        self.settings = settings
        self.dimensions = override(self.space, settings.space, f"{name}.space")

    def suggest(self, trial: Trial) -> Hyperparameters:
        """Ask a trial for hyperparameters. A family with conditional dimensions overrides this."""
        return sample(trial, self.dimensions)

    @abstractmethod
    def build(self, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return a new model that takes raw uint8 images (N, H, W, C) and gives logits (N, classes)."""

    @abstractmethod
    def fit(
        self,
        hyperparameters: Hyperparameters,
        data: Splits,
        span: Span,
        *,
        seed: int,
        state: Path | None,
        on_epoch: OnEpoch,
    ) -> Fitted:
        """Train; the one way to train, for search and final training alike.

        Args:
            hyperparameters: A point of the search space.
            data: Train and validation splits.
            span: Which epochs to train.
            seed: Decides initial weights, dropout and the order of the data.
            state: Checkpoint of `span.start` epochs; None for the first.
            on_epoch: Called after each epoch with its metrics.

        Raises:
            TrainingError: These hyperparameters cannot be trained.
        """


def family_names() -> set[str]:
    """Return the names of all families: the modules of this package that are none of its foundations."""
    return {path.stem for path in Path(__file__).parent.glob("*.py")} - _NOT_FAMILIES


def code_digest(family: str) -> str:
    """Return the digest of the code that decides what training a family gives: part of a study's identity."""
    folder = Path(__file__).parent
    shared = _NOT_FAMILIES - {"__init__"}
    sha = hashlib.sha256()
    for name in sorted({*shared, family}):
        sha.update((folder / f"{name}.py").read_bytes())
    return sha.hexdigest()


def load(name: str, settings: Mapping[str, Any] | None = None) -> BaseFamily:
    """Return a family by its name.

    Args:
        name: Name of its module and of its section of params.
        settings: Its section; None reads params.yaml.

    Raises:
        ParamsError: No such family, or a section that is wrong.
    """
    if name not in family_names():
        raise ParamsError("families: unknown family", expected=nearest(name, family_names()), found=repr(name))
    family: type[BaseFamily] = importlib.import_module(f"pipeline.models.{name}").Family
    section = params.section(name) if settings is None else settings
    return family(name, params.parse(name, section, family.Settings))
