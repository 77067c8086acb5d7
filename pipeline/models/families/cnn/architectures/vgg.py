"""VGG (Simonyan and Zisserman, 2014) for small images: stages of two 3×3 convolutions, each stage twice as wide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.families.cnn.blocks import conv, logits
from pipeline.models.space import Choice, Hyperparameters, Range, Space

HEAVY = True

SPACE: Space = {
    "width": Choice(choices=(8, 16, 32, 64)),  # filters of the first stage
    "stages": Range(low=2, high=4),
    "units": Choice(choices=(64, 128, 256, 512)),
    "dropout": Range(low=0.0, high=0.8),
}

SEARCHED: Mapping[str, Any] = {"width": [16, 32], "stages": 3, "dropout": {"low": 0.0, "high": 0.5}}


def build(x: Any, hyperparameters: Hyperparameters, classes: int) -> Any:
    """Return logits (N, classes) of images (N, H, W, C)."""
    from keras import layers

    for stage in range(int(hyperparameters["stages"])):
        width = int(hyperparameters["width"]) << stage
        x = layers.MaxPooling2D(2)(conv(conv(x, width), width))
    x = layers.Flatten()(x)
    x = layers.Dense(int(hyperparameters["units"]), activation="relu")(x)
    x = layers.Dropout(float(hyperparameters["dropout"]))(x)
    return logits(x, classes)
