"""Multilayer perceptrons: dense layers on flattened pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pipeline.models.base import Spec
from pipeline.models.classifier import TRAINING, KerasClassifier
from pipeline.models.space import Choice, Hyperparameters, Range, Space

if TYPE_CHECKING:
    import keras


class Family(KerasClassifier):
    """One to three dense layers, each with batch normalisation where asked for, relu and dropout.

    Moving averages follow within tens of steps (momentum 0.9): a first rung on a small dataset has no more.
    """

    space: ClassVar[Space] = {
        "layers": Range(low=1, high=3),
        "units": Choice(choices=(128, 256, 512)),
        "batch_norm": Choice(choices=(True, False)),
        "dropout": Range(low=0.0, high=0.5),
        **TRAINING,
    }

    def build(self, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return a perceptron; see `BaseFamily.build`."""
        import keras
        from keras import layers

        batch_norm = bool(hyperparameters["batch_norm"])
        inputs = keras.Input(spec.image_shape, dtype="uint8")
        x = layers.Rescaling(1 / 255)(inputs)
        x = layers.Flatten()(x)
        for _ in range(int(hyperparameters["layers"])):
            x = layers.Dense(int(hyperparameters["units"]), use_bias=not batch_norm)(x)
            if batch_norm:
                x = layers.BatchNormalization(momentum=0.9)(x)
            x = layers.Activation("relu")(x)
            x = layers.Dropout(float(hyperparameters["dropout"]))(x)
        return keras.Model(inputs, layers.Dense(spec.classes)(x), name="mlp")
