"""How every Keras classifier trains: the loop that families share. Families only say what they build."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import pydantic

from pipeline.backend import compile_options, input_pipeline
from pipeline.backend.mixed_precision import Precision, policy
from pipeline.datasets.arrays import Labels, Splits
from pipeline.models.base import BaseFamily, FamilySettings, Fitted, Metrics, OnEpoch, Span, Spec, TrainingError
from pipeline.models.space import Hyperparameters, Space
from pipeline.models.training import checkpoint, recipe
from pipeline.models.training.fitted import KerasFitted, trainable_parameters

if TYPE_CHECKING:
    import keras

    from pipeline.models.training.trainer import Trainer

_VALIDATION_BATCH = 512


class ClassifierSettings(FamilySettings):
    """What the section of a family of classifiers holds.

    Attributes:
        class_weights: ``balanced`` weighs every class alike, however many images it has.
        precision: What networks compute in; see `precision.policy`.
        patience: Epochs without a lower validation loss after which a training ends; 0: it never ends early.
    """

    class_weights: Literal["none", "balanced"] = "none"
    precision: Precision = "auto"
    patience: int = pydantic.Field(default=0, ge=0)


class KerasClassifier(BaseFamily):
    """A family whose `build` gives logits, trained by cross-entropy as `recipe` says."""

    Settings: ClassVar[type[FamilySettings]] = ClassifierSettings
    settings: ClassifierSettings
    space: ClassVar[Space] = recipe.TRAINING
    searched: ClassVar[Mapping[str, Any]] = recipe.SEARCHED

    @abstractmethod
    def build(self, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return a new model that takes raw uint8 images (N, H, W, C) and gives logits (N, classes)."""

    def heavy(self, hyperparameters: Hyperparameters) -> bool:
        """Tell whether a network spends its time in wide convolutions; see `precision.policy`."""
        del hyperparameters
        return False

    def trainable_parameters(self, hyperparameters: Hyperparameters, spec: Spec) -> int:
        """Return how many numbers training changes in the network that `build` gives."""
        return trainable_parameters(self.build(hyperparameters, spec))

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
        """Train some epochs; see `BaseFamily.fit`. On a CPU, a training cut into spans gives identical weights."""
        import keras

        from pipeline.models.training.trainer import Trainer

        spec = Spec.of(data)
        batch_size = min(int(hyperparameters["batch_size"]), len(data.train))

        def build() -> Trainer:
            with policy(self.settings.precision, heavy=self.heavy(hyperparameters)):
                network = self.build(hyperparameters, spec)
            average = self._single(hyperparameters, spec) if hyperparameters["average"] else None
            trainer = Trainer(network, average, hyperparameters, seed)
            trainer.compile(
                optimizer=recipe.optimizer(hyperparameters, span.total * math.ceil(len(data.train) / batch_size)),
                metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
                **compile_options.options(),
            )
            return trainer

        model = cast("Trainer", checkpoint.begin(build, state, seed))
        weights = _balanced(data.train.labels, spec.classes) if self.settings.class_weights == "balanced" else None
        history = []
        for epoch in range(span.start, span.stop):
            metrics = _train_epoch(model, data, batch_size, seed, epoch, weights)
            if not math.isfinite(metrics["loss"] + metrics["val_loss"]):
                raise TrainingError(f"the loss diverged in epoch {epoch + 1}", found=f"loss {metrics['loss']}")
            stop = 0 < self.settings.patience <= model.waited(metrics["val_loss"])
            history.append({**metrics, "stopped": 1.0} if stop else metrics)
            on_epoch(history[-1])
            if stop:
                break
        return KerasFitted.of(model, model.average or self._exported(model.network, hyperparameters, spec), history)

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


def _train_epoch(
    model: Trainer, data: Splits, batch_size: int, seed: int, epoch: int, weights: dict[int, float] | None
) -> Metrics:
    """Train one epoch in an order that depends on (seed, epoch) alone, so that a resumed training repeats it."""
    started = time.monotonic()
    order = np.random.default_rng([seed, epoch]).permutation(len(data.train))
    shuffled = data.train.take(order)
    history = model.fit(
        **input_pipeline.batches((shuffled.images, shuffled.labels), batch_size),
        **input_pipeline.validation((np.asarray(data.val.images), np.asarray(data.val.labels)), _VALIDATION_BATCH),
        initial_epoch=epoch,
        epochs=epoch + 1,
        class_weight=weights,
        verbose=0,
    ).history
    metrics = {name: float(values[0]) for name, values in history.items()}
    return {"epoch": epoch + 1, **metrics, "seconds": time.monotonic() - started, "at": time.time()}
