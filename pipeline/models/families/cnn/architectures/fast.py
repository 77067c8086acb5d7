"""A network of our own for short trainings on little hardware.

It follows the networks with which the DAWNBench contest was won: few convolutions, residual pairs at low resolutions,
global maxima, scaled logits. Here every block pools before it normalises and activates, so that three quarters of that
work fall away, and the first pooling comes at once: on a CPU, what is done to many pixels costs more than what is done
to many channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.families.cnn.blocks import conv, logits
from pipeline.models.multiply_adds import Maps
from pipeline.models.space import Choice, Range, Space
from pipeline.models.values import DROPOUT, Bounds, Hyperparameters, real, whole, word

HEAVY = True

SPACE: Space = {
    "width": Choice(choices=(8, 16, 32, 48, 64), bounds=Bounds(1, 512)),  # filters of the first convolution
    "activation": Choice(choices=("relu", "gelu", "silu")),
    "dropout": Range(low=0.0, high=0.5, bounds=DROPOUT),
    # Of the logits: smaller ones keep a short training from overconfidence.
    "scale": Range(low=0.05, high=1.0, log=True, bounds=Bounds(0, 100, above=True)),
}

SEARCHED: Mapping[str, Any] = {"width": 16, "activation": "relu", "dropout": 0.0, "scale": 0.125}


def least_side(space: Space) -> int:
    """Return the shorter side of the smallest images for which every point of a space can be built."""
    del space
    return 8  # halved three times


def build(x: Any, hyperparameters: Hyperparameters, classes: int) -> Any:
    """Return logits (N, classes) of images (N, H, W, C)."""
    from keras import layers

    width, activation = whole(hyperparameters, "width"), word(hyperparameters, "activation")
    x = conv(x, width, pool=True, activation=activation)
    x = _residual(conv(x, 2 * width, activation=activation), activation)
    x = _residual(conv(x, 4 * width, pool=True, activation=activation), activation)
    x = conv(x, 8 * width, pool=True, activation=activation)
    x = layers.GlobalMaxPooling2D()(x)
    x = layers.Dropout(real(hyperparameters, "dropout"))(x)
    return layers.Rescaling(real(hyperparameters, "scale"), dtype="float32")(logits(x, classes))


def count(image: Maps, hyperparameters: Hyperparameters, classes: int) -> Maps:
    """Return what `build` computes, with its multiply-adds."""
    width = whole(hyperparameters, "width")
    maps = image.conv(width).pool().conv(2 * width)
    maps = maps.added(maps.conv(2 * width).conv(2 * width)).conv(4 * width).pool()
    maps = maps.added(maps.conv(4 * width).conv(4 * width)).conv(8 * width)
    return maps.pool_all().dense(classes)


def _residual(x: Any, activation: str) -> Any:
    from keras import layers

    width = x.shape[-1]
    return layers.Add()([x, conv(conv(x, width, activation=activation), width, activation=activation)])
