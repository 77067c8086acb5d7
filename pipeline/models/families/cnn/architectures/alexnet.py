"""AlexNet (Krizhevsky et al., 2012) for small images: its five convolutions and three dense layers, strides of 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.families.cnn.blocks import conv, logits
from pipeline.models.space import Choice, Hyperparameters, Range, Space

HEAVY = True

SPACE: Space = {
    "width": Choice(choices=(16, 32, 64)),  # filters of the first convolution
    "units": Choice(choices=(128, 256, 512)),
    "dropout": Range(low=0.0, high=0.8),
}

SEARCHED: Mapping[str, Any] = {"width": [16, 32], "dropout": 0.5}


def build(x: Any, hyperparameters: Hyperparameters, classes: int) -> Any:
    """Return logits (N, classes) of images (N, H, W, C)."""
    from keras import layers

    width, units = int(hyperparameters["width"]), int(hyperparameters["units"])
    x = layers.MaxPooling2D(2)(conv(x, width, 5))
    x = layers.MaxPooling2D(2)(conv(x, 3 * width))
    x = conv(conv(conv(x, 4 * width), 4 * width), 3 * width)
    x = layers.Flatten()(layers.MaxPooling2D(2)(x))
    for _ in range(2):
        x = layers.Dense(units, activation="relu")(x)
        x = layers.Dropout(float(hyperparameters["dropout"]))(x)
    return logits(x, classes)
