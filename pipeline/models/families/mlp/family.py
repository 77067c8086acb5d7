"""Multilayer perceptrons: dense layers on flattened pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.models.base import Preset, Spec
from pipeline.models.families.mlp.presets import PRESETS
from pipeline.models.space import Choice, Range, Space
from pipeline.models.training.classifier import KerasClassifier
from pipeline.models.training.recipe import SEARCHED, TRAINING
from pipeline.models.values import DROPOUT, Bounds, Hyperparameters, real, whole, word, yes

if TYPE_CHECKING:
    import keras


class Family(KerasClassifier):
    """Dense layers of equal width, each with optional batch normalisation, an activation and dropout.

    Moving averages follow within tens of steps (momentum 0.9): a first rung on a small dataset has no more.
    """

    space: ClassVar[Space] = {
        "layers": Range(low=1, high=6, bounds=Bounds(1, 32)),
        "units": Choice(choices=(32, 64, 128, 256, 512, 1024), bounds=Bounds(1, 8192)),
        "batch_norm": Choice(choices=(True, False)),
        "activation": Choice(choices=("relu", "tanh", "sigmoid", "gelu")),
        "dropout": Range(low=0.0, high=0.8, bounds=DROPOUT),
        **TRAINING,
    }
    searched: ClassVar[Mapping[str, Any]] = {
        "layers": {"low": 1, "high": 3},
        "units": [128, 256, 512],
        "activation": "relu",
        "dropout": {"low": 0.0, "high": 0.5},
        **SEARCHED,
    }
    presets: ClassVar[tuple[Preset, ...]] = PRESETS

    def epoch_cost(self, hyperparameters: Hyperparameters, spec: Spec) -> float:
        """Return the multiply-adds of an image; see `BaseFamily.epoch_cost`."""
        units, layers = whole(hyperparameters, "units"), whole(hyperparameters, "layers")
        return float(units * (math.prod(spec.image_shape) + (layers - 1) * units + spec.classes))

    def build(self, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return a perceptron; see `KerasClassifier.build`."""
        import keras
        from keras import layers

        batch_norm = yes(hyperparameters, "batch_norm")
        inputs = keras.Input(spec.image_shape, dtype="uint8")
        x = layers.Rescaling(1 / 255)(inputs)
        x = layers.Flatten()(x)
        for _ in range(whole(hyperparameters, "layers")):
            x = layers.Dense(whole(hyperparameters, "units"), use_bias=not batch_norm)(x)
            if batch_norm:
                x = layers.BatchNormalization(momentum=0.9)(x)
            x = layers.Activation(word(hyperparameters, "activation"))(x)
            x = layers.Dropout(real(hyperparameters, "dropout"))(x)
        return keras.Model(inputs, layers.Dense(spec.classes, dtype="float32")(x), name="mlp")
