"""A network of our own for short trainings: wide early, pooled soon, residual in the middle, maxima at the end.

It follows the networks with which the DAWNBench contest was won (a few convolutions, a residual pair at each low
resolution, a scaled classifier on global maxima), with pooling one step earlier, where a CPU spends its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.cnn.blocks import conv, logits
from pipeline.models.space import Choice, Hyperparameters, Range, Space

SPACE: Space = {
    "width": Choice(choices=(16, 24, 32, 48, 64)),  # filters of the first convolution
    "activation": Choice(choices=("relu", "gelu", "silu")),
    "dropout": Range(low=0.0, high=0.5),
    "scale": Range(
        low=0.05, high=1.0, log=True
    ),  # of the logits: smaller ones keep a short training from overconfidence
}

SEARCHED: Mapping[str, Any] = {"width": [24, 32], "activation": "relu", "dropout": 0.0, "scale": 0.125}


def build(x: Any, hyperparameters: Hyperparameters, classes: int) -> Any:
    """Return logits (N, classes) of images (N, H, W, C)."""
    from keras import layers

    activation = str(hyperparameters["activation"])

    def convolved(x: Any, filters: int) -> Any:
        return conv(x, filters, activation=activation)

    width = int(hyperparameters["width"])
    x = convolved(x, width)
    for filters in (2 * width, 4 * width, 8 * width):
        x = layers.MaxPooling2D(2)(convolved(x, filters))
        x = layers.Add()([x, convolved(convolved(x, filters), filters)])
    x = layers.GlobalMaxPooling2D()(x)
    x = layers.Dropout(float(hyperparameters["dropout"]))(x)
    return layers.Rescaling(float(hyperparameters["scale"]), dtype="float32")(logits(x, classes))
