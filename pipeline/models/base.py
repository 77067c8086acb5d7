"""The contract of a model family: settings, search space, training and objective.

A family is a package in this folder whose module `family` has a class `Family`, found by its name. It knows neither
the study that searches it nor where runs are logged: everything enters through the arguments of `fit`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.core import params
from pipeline.core.errors import ParamsError, PipelineError, nearest
from pipeline.datasets.arrays import Images, Splits
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.space import Space, Trial, override, require_fit, sample
from pipeline.models.values import Hyperparameters

if TYPE_CHECKING:
    from pipeline.evaluation.feature_network import FeatureNetwork

OnEpoch = Callable[[EpochMetrics], None]


class TrainingError(PipelineError):
    """These hyperparameters cannot be trained: the loss diverged, or the model cannot be built or held."""


class FamilySettings(params.Settings):
    """A family's section of params; families with more settings extend it.

    Attributes:
        space: Dimensions of the search space to narrow, widen or fix; see `space.override`.
        space_for: The same, for one dataset, by its name; it goes before `space`.
        presets: Which reference models a study tries last: those for its dataset, or those named.
    """

    space: dict[str, Any] = {}
    space_for: dict[str, dict[str, Any]] = {}
    presets: Literal["dataset"] | tuple[str, ...] = "dataset"


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
class Fitted(ABC):
    """The result of a training; `KerasFitted` is that of Keras.

    Attributes:
        history: The metrics of each epoch trained now.
        parameters: Number of parameters of what is exported.
    """

    history: list[EpochMetrics]
    parameters: int

    @abstractmethod
    def save_state(self, path: Path) -> None:
        """Write all that the next span of epochs needs to an ``.npz`` file: what `fit` takes as `state`."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the files that the family's serving code loads into an existing folder."""

    @abstractmethod
    def answer(self, images: Images) -> object:
        """Return the predictions for images, (N, H, W, C); the duration of the call is the latency."""

    def draw(self, path: Path) -> bool:
        """Write a picture (PNG) of the model's output; return False if the model has none."""
        del path
        return False


@dataclass(frozen=True)
class Preset:
    """A reference model: a point of a family's space.

    Attributes:
        name: What it is called, in params, in studies and in MLflow.
        title: What it is, in a few words.
        dataset: The dataset that it was made for.
        image_shape: Height, width and channels of that dataset's images.
        hyperparameters: The point.
        classes: Number of classes of that dataset.
    """

    name: str
    title: str
    dataset: str
    image_shape: tuple[int, int, int]
    hyperparameters: Hyperparameters
    classes: int = 10


class BaseFamily(ABC):
    """The contract of a family.

    Attributes:
        Settings: The model of the family's section of params.
        space: Every dimension, as wide as it makes sense: it contains the presets.
        searched: To what a search narrows it, before params change that; as in params, see `space.override`.
        presets: The reference models that are points of the space.
        objective: The epoch metric that a search maximises; always measured on validation data.
        task: What the family does, and so how evaluate scores it and what it competes with.
        serving: How it is served: the name of a module of `pipeline.serving`, which MLflow stores with the model.
        needs_feature_network: Whether epochs are scored in features of the network that the stage `features` trains.
        feature_network: That network; the caller of `fit` sets it.
    """

    Settings: ClassVar[type[FamilySettings]] = FamilySettings
    space: ClassVar[Space]
    searched: ClassVar[Mapping[str, Any]] = {}
    presets: ClassVar[tuple[Preset, ...]] = ()
    objective: ClassVar[str] = "val_accuracy"
    task: ClassVar[str] = "classify"
    serving: ClassVar[str] = "classifier"
    needs_feature_network: ClassVar[bool] = False
    feature_network: FeatureNetwork | None = None

    def __init__(self, name: str, settings: FamilySettings, dataset: str | None = None) -> None:
        self.name = name
        self.settings = settings
        default = override(self.space, self.searched, name)
        general = override(default, settings.space, f"{name}.space", self.space)
        of_datasets = {
            known: override(general, overrides, f"{name}.space_for.{known}", self.space)
            for known, overrides in settings.space_for.items()
        }
        self.dimensions = of_datasets.get(dataset or "", general)
        known = {preset.name for preset in self.presets}
        for wanted in () if settings.presets == "dataset" else settings.presets:
            if wanted not in known:
                raise ParamsError(f"{name}.presets: unknown", expected=nearest(wanted, known), found=repr(wanted))

    def require_fit(self, side: int) -> None:
        """Check that every point of the search space can be built for images of some size.

        Args:
            side: The shorter side of an image, in pixels.

        Raises:
            ParamsError: A dimension is too large for the images.
        """
        require_fit(self.dimensions, self.space, side, self.name)

    def suggest(self, trial: Trial) -> Hyperparameters:
        """Sample hyperparameters from a trial. A family with conditional dimensions overrides this."""
        return sample(trial, self.dimensions)

    def presets_for(self, dataset: str) -> dict[str, Hyperparameters]:
        """Return the presets that a study of a dataset tries last, by name."""
        wanted = self.settings.presets
        return {
            preset.name: dict(preset.hyperparameters)
            for preset in self.presets
            if (preset.dataset == dataset if wanted == "dataset" else preset.name in wanted)
        }

    def trainable_parameters(self, hyperparameters: Hyperparameters, spec: Spec) -> int:
        """Return how many numbers training changes in a model of this family; none, where it only remembers."""
        del hyperparameters, spec
        return 0

    def epoch_cost(self, hyperparameters: Hyperparameters, spec: Spec) -> float:
        """Return roughly what an epoch costs compared with other hyperparameters: multiply-adds of an image, say.

        A search orders its decisions by this, instead of by the clock of a machine.
        """
        del hyperparameters, spec
        return 1.0

    def sources(self) -> list[Path]:
        """Return the files of the family's own code that decide what its training gives."""
        return sorted(Path(inspect.getfile(type(self))).parent.glob("*.py"))

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
