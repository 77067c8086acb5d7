"""VGG (Simonyan and Zisserman, 2014) for small images: stages of two 3×3 convolutions, each stage twice as wide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.families.cnn.blocks import conv, logits
from pipeline.models.multiply_adds import Maps
from pipeline.models.space import Choice, Range, Space, largest
from pipeline.models.values import DROPOUT, Bounds, Hyperparameters, real, whole

HEAVY = True

SPACE: Space = {
    "width": Choice(choices=(8, 16, 32, 64), bounds=Bounds(1, 512)),  # filters of the first stage
    "stages": Range(low=2, high=4, bounds=Bounds(1, 10)),
    "units": Choice(choices=(64, 128, 256, 512), bounds=Bounds(1, 8192)),
    "dropout": Range(low=0.0, high=0.8, bounds=DROPOUT),
}

SEARCHED: Mapping[str, Any] = {"width": [16, 32], "stages": 3, "dropout": {"low": 0.0, "high": 0.5}}


def least_side(space: Space) -> int:
    """Return the shorter side of the smallest images for which every point of a space can be built."""
    return int(2 ** largest(space["stages"]))


def build(x: Any, hyperparameters: Hyperparameters, classes: int) -> Any:
    """Return logits (N, classes) of images (N, H, W, C)."""
    from keras import layers

    for stage in range(whole(hyperparameters, "stages")):
        width = whole(hyperparameters, "width") << stage
        x = layers.MaxPooling2D(2)(conv(conv(x, width), width))
    x = layers.Flatten()(x)
    x = layers.Dense(whole(hyperparameters, "units"), activation="relu")(x)
    x = layers.Dropout(real(hyperparameters, "dropout"))(x)
    return logits(x, classes)


def count(image: Maps, hyperparameters: Hyperparameters, classes: int) -> Maps:
    """Return what `build` computes, with its multiply-adds."""
    maps = image
    for stage in range(whole(hyperparameters, "stages")):
        width = whole(hyperparameters, "width") << stage
        maps = maps.conv(width).conv(width).pool()
    return maps.dense(whole(hyperparameters, "units")).dense(classes)
