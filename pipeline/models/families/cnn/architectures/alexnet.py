"""AlexNet (Krizhevsky et al., 2012) for small images: its five convolutions and three dense layers, strides of 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.families.cnn.blocks import conv, logits
from pipeline.models.multiply_adds import Maps
from pipeline.models.space import Choice, Range, Space
from pipeline.models.values import DROPOUT, Bounds, Hyperparameters, real, whole

HEAVY = True

SPACE: Space = {
    "width": Choice(choices=(16, 32, 64), bounds=Bounds(1, 512)),  # filters of the first convolution
    "units": Choice(choices=(128, 256, 512), bounds=Bounds(1, 8192)),
    "dropout": Range(low=0.0, high=0.8, bounds=DROPOUT),
}

SEARCHED: Mapping[str, Any] = {"width": [16, 32], "dropout": 0.5}


def least_side(space: Space) -> int:
    """Return the shorter side of the smallest images for which every point of a space can be built."""
    del space
    return 8  # halved three times


def build(x: Any, hyperparameters: Hyperparameters, classes: int) -> Any:
    """Return logits (N, classes) of images (N, H, W, C)."""
    from keras import layers

    width, units = whole(hyperparameters, "width"), whole(hyperparameters, "units")
    x = layers.MaxPooling2D(2)(conv(x, width, 5))
    x = layers.MaxPooling2D(2)(conv(x, 3 * width))
    x = conv(conv(conv(x, 4 * width), 4 * width), 3 * width)
    x = layers.Flatten()(layers.MaxPooling2D(2)(x))
    for _ in range(2):
        x = layers.Dense(units, activation="relu")(x)
        x = layers.Dropout(real(hyperparameters, "dropout"))(x)
    return logits(x, classes)


def count(image: Maps, hyperparameters: Hyperparameters, classes: int) -> Maps:
    """Return what `build` computes, with its multiply-adds."""
    width, units = whole(hyperparameters, "width"), whole(hyperparameters, "units")
    maps = image.conv(width, 5).pool().conv(3 * width).pool()
    maps = maps.conv(4 * width).conv(4 * width).conv(3 * width).pool()
    return maps.dense(units).dense(units).dense(classes)
