"""LeNet-5 (LeCun et al., 1998), with rectifiers and maxima as options beside its tanh and averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.families.cnn.blocks import logits
from pipeline.models.multiply_adds import Maps
from pipeline.models.space import Choice, Space
from pipeline.models.values import Hyperparameters, word

HEAVY = False

SPACE: Space = {
    "activation": Choice(choices=("tanh", "relu", "gelu")),
    "pooling": Choice(choices=("average", "max")),
}

SEARCHED: Mapping[str, Any] = {}


def least_side(space: Space) -> int:
    """Return the shorter side of the smallest images for which every point of a space can be built."""
    del space
    return 12  # 12, halved, 6, 2 after a 5×5 convolution, halved


def build(x: Any, hyperparameters: Hyperparameters, classes: int) -> Any:
    """Return logits (N, classes) of images (N, H, W, C); 28 pixels are padded to the 32 that the paper has."""
    from keras import layers

    activation = word(hyperparameters, "activation")
    pooling = layers.AveragePooling2D if word(hyperparameters, "pooling") == "average" else layers.MaxPooling2D
    x = layers.Conv2D(6, 5, padding="same" if x.shape[1] < 32 else "valid", activation=activation)(x)
    x = pooling(2)(x)
    x = layers.Conv2D(16, 5, activation=activation)(x)
    x = pooling(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(120, activation=activation)(x)
    x = layers.Dense(84, activation=activation)(x)
    return logits(x, classes)


def count(image: Maps, hyperparameters: Hyperparameters, classes: int) -> Maps:
    """Return what `build` computes, with its multiply-adds."""
    del hyperparameters
    maps = image.conv(6, 5, padded=image.height < 32).pool().conv(16, 5, padded=False).pool()
    return maps.dense(120).dense(84).dense(classes)
