"""ResNet (He et al., 2015) in its form for CIFAR-10: three stages of residual blocks, 16, 32 and 64 wide or more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.families.cnn.blocks import conv, logits
from pipeline.models.multiply_adds import Maps
from pipeline.models.space import Choice, Range, Space
from pipeline.models.values import Bounds, Hyperparameters, whole

HEAVY = True

SPACE: Space = {
    "width": Choice(choices=(8, 16, 32, 64), bounds=Bounds(1, 512)),  # filters of the first stage
    "blocks": Range(low=1, high=9, bounds=Bounds(1, 32)),  # in each of three stages; 3 is the ResNet-20 of the paper
}

SEARCHED: Mapping[str, Any] = {"width": [16, 32], "blocks": {"low": 1, "high": 3}}


def least_side(space: Space) -> int:
    """Return the shorter side of the smallest images for which every point of a space can be built."""
    del space
    return 1  # strides keep at least a pixel


def build(x: Any, hyperparameters: Hyperparameters, classes: int) -> Any:
    """Return logits (N, classes) of images (N, H, W, C)."""
    from keras import layers

    x = conv(x, whole(hyperparameters, "width"))
    for stage in range(3):
        for block in range(whole(hyperparameters, "blocks")):
            strides = 2 if stage and not block else 1
            x = _residual(x, whole(hyperparameters, "width") << stage, strides)
    return logits(layers.GlobalAveragePooling2D()(x), classes)


def count(image: Maps, hyperparameters: Hyperparameters, classes: int) -> Maps:
    """Return what `build` computes, with its multiply-adds."""
    maps = image.conv(whole(hyperparameters, "width"))
    for stage in range(3):
        for block in range(whole(hyperparameters, "blocks")):
            width, strides = whole(hyperparameters, "width") << stage, 2 if stage and not block else 1
            same = strides == 1 and maps.channels == width
            shortcut = maps if same else maps.conv(width, 1, strides=strides)
            maps = maps.added(maps.conv(width, strides=strides).conv(width), shortcut)
    return maps.pool_all().dense(classes)


def _residual(x: Any, width: int, strides: int) -> Any:
    """Return two convolutions added to what they are of, by way of a 1×1 convolution where shapes differ."""
    from keras import layers

    same = strides == 1 and x.shape[-1] == width
    shortcut = x if same else conv(x, width, 1, strides=strides, activation=None)
    x = conv(conv(x, width, strides=strides), width, activation=None)
    return layers.Activation("relu")(layers.Add()([x, shortcut]))
