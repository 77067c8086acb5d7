"""Training of Keras classifiers; a family only builds the network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pydantic

from pipeline.backend import compile_options
from pipeline.backend.mixed_precision import Precision, policy
from pipeline.datasets.arrays import Images, Labelled, Labels, Splits
from pipeline.models.base import FamilySettings, Spec
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.space import Space
from pipeline.models.training import recipe
from pipeline.models.training.fitted import KerasFitted, trainable_parameters
from pipeline.models.training.keras_family import KerasFamily, TrainingPlan, Values
from pipeline.models.values import Hyperparameters, real

if TYPE_CHECKING:
    import keras

    from pipeline.models.training.trainer import Trainer


class ClassifierSettings(FamilySettings):
    """A classifier family's section of params.

    Attributes:
        class_weights: ``balanced`` weighs every class alike, however many images it has.
        precision: What networks compute in; see `precision.policy`.
        patience: Epochs without a lower validation loss after which a training ends; 0: it never ends early.
    """

    class_weights: Literal["none", "balanced"] = "none"
    precision: Precision = "auto"
    patience: int = pydantic.Field(default=0, ge=0)


class KerasClassifier(KerasFamily):
    """A family whose `build` gives logits, trained by cross-entropy as `recipe` defines."""

    Settings: ClassVar[type[FamilySettings]] = ClassifierSettings
    settings: ClassifierSettings
    space: ClassVar[Space] = recipe.TRAINING
    searched: ClassVar[Mapping[str, Any]] = recipe.SEARCHED

    @abstractmethod
    def build(self, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return a new model that takes raw uint8 images (N, H, W, C) and gives logits (N, classes)."""

    def heavy(self, hyperparameters: Hyperparameters) -> bool:
        """Return whether a network spends its time in wide convolutions; see `precision.policy`."""
        del hyperparameters
        return False

    def trainable_parameters(self, hyperparameters: Hyperparameters, spec: Spec) -> int:
        """Return how many numbers training changes in the network that `build` gives."""
        return trainable_parameters(self.build(hyperparameters, spec))

    def plan(self, data: Splits) -> TrainingPlan:
        """Return how a classifier trains: on images and labels, with the class weights that params set."""
        balanced = self.settings.class_weights == "balanced"
        weights = _balanced(data.train.labels, len(data.class_names)) if balanced else None
        return TrainingPlan(arrays=_labelled, arguments={"class_weight": weights}, stops=self._out_of_patience)

    def compiled(self, hyperparameters: Hyperparameters, spec: Spec, *, steps: int, seed: int) -> Trainer:
        """Return a new network in its `Trainer`; see `KerasFamily.compiled`."""
        import keras

        from pipeline.models.training.trainer import Trainer

        with policy(self.settings.precision, heavy=self.heavy(hyperparameters)):
            network = self.build(hyperparameters, spec)
        average = self._single(hyperparameters, spec) if real(hyperparameters, "average") else None
        trainer = Trainer(network, average, hyperparameters, seed)
        trainer.compile(
            optimizer=recipe.optimizer(hyperparameters, steps),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            **compile_options.options(),
        )
        return trainer

    def fitted(
        self, model: Trainer, hyperparameters: Hyperparameters, data: Splits, history: list[EpochMetrics]
    ) -> KerasFitted:
        """Return the running average of the network, or the network where there is none."""
        exported = model.average or self._exported(model.network, hyperparameters, Spec.of(data))
        return KerasFitted.of(model, exported, history)

    def _out_of_patience(self, model: Trainer, values: Values) -> bool:
        return 0 < self.settings.patience <= model.waited(values["val_loss"])

    def _exported(self, network: keras.Model, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return the network in single precision, as machines may serve it that gain nothing from less."""
        if network.dtype_policy.compute_dtype == "float32":
            return network
        exported = self._single(hyperparameters, spec)
        exported.set_weights(network.get_weights())
        return exported

    def _single(self, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return a new network in single precision."""
        with policy("float32", heavy=False):
            return self.build(hyperparameters, spec)


def _balanced(labels: Labels, classes: int) -> dict[int, float]:
    """Return a weight per class, inverse to its number of images, that leaves the mean weight of an image at 1."""
    counts = np.bincount(labels, minlength=classes)
    present = np.count_nonzero(counts)
    return {label: len(labels) / (present * int(count)) if count else 1.0 for label, count in enumerate(counts)}


def _labelled(part: Labelled) -> tuple[Images, Labels]:
    return np.asarray(part.images), np.asarray(part.labels)
