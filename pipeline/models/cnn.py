"""Convolutional networks: blocks of convolution and pooling, then a dense layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pipeline.models.base import Spec
from pipeline.models.classifier import TRAINING, KerasClassifier
from pipeline.models.space import Choice, Hyperparameters, Range, Space

if TYPE_CHECKING:
    import keras


class Family(KerasClassifier):
    """Two blocks (convolution, batch normalisation, relu, max pooling), the second with twice the filters."""

    space: ClassVar[Space] = {
        "filters": Choice(choices=(16, 24, 32)),
        "kernel": Choice(choices=(3, 5)),
        "batch_norm": Choice(choices=(True, False)),
        "units": Choice(choices=(64, 128, 256)),
        "dropout": Range(low=0.1, high=0.5),
        **TRAINING,
    }

    def build(self, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return a convolutional network; see `BaseFamily.build`."""
        import keras
        from keras import layers

        filters, kernel = int(hyperparameters["filters"]), int(hyperparameters["kernel"])
        batch_norm = bool(hyperparameters["batch_norm"])
        inputs = keras.Input(spec.image_shape, dtype="uint8")
        x = layers.Rescaling(1 / 255)(inputs)
        for width in (filters, 2 * filters):
            x = layers.Conv2D(width, kernel, padding="same", use_bias=not batch_norm)(x)
            if batch_norm:
                x = layers.BatchNormalization(momentum=0.9)(x)
            x = layers.Activation("relu")(x)
            x = layers.MaxPooling2D(2)(x)
        x = layers.Flatten()(x)
        x = layers.Dense(int(hyperparameters["units"]), activation="relu")(x)
        x = layers.Dropout(float(hyperparameters["dropout"]))(x)
        return keras.Model(inputs, layers.Dense(spec.classes)(x), name="cnn")
