"""GoogLeNet (Szegedy et al., 2014) for small images: inception modules, which look with several kernels at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.families.cnn.blocks import conv, logits
from pipeline.models.multiply_adds import Maps
from pipeline.models.space import Choice, Range, Space
from pipeline.models.values import DROPOUT, Bounds, Hyperparameters, real, whole

HEAVY = False

SPACE: Space = {
    # An inception module of the first stage gives four times as many channels; its halves need at least two.
    "width": Choice(choices=(8, 16, 32), bounds=Bounds(2, 256)),
    "modules": Range(low=1, high=3, bounds=Bounds(1, 16)),  # in each of three stages
    "dropout": Range(low=0.0, high=0.8, bounds=DROPOUT),
}

SEARCHED: Mapping[str, Any] = {"width": [8, 16], "modules": {"low": 1, "high": 2}, "dropout": 0.2}


def least_side(space: Space) -> int:
    """Return the shorter side of the smallest images for which every point of a space can be built."""
    del space
    return 4  # halved twice


def build(x: Any, hyperparameters: Hyperparameters, classes: int) -> Any:
    """Return logits (N, classes) of images (N, H, W, C)."""
    from keras import layers

    width = whole(hyperparameters, "width")
    x = layers.MaxPooling2D(2)(conv(x, 2 * width))
    for stage in range(3):
        for _ in range(whole(hyperparameters, "modules")):
            x = _inception(x, width << stage)
        if stage < 2:
            x = layers.MaxPooling2D(2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(real(hyperparameters, "dropout"))(x)
    return logits(x, classes)


def count(image: Maps, hyperparameters: Hyperparameters, classes: int) -> Maps:
    """Return what `build` computes, with its multiply-adds."""
    width = whole(hyperparameters, "width")
    maps = image.conv(2 * width).pool()
    for stage in range(3):
        for _ in range(whole(hyperparameters, "modules")):
            maps = _inception_maps(maps, width << stage)
        maps = maps.pool() if stage < 2 else maps
    return maps.pool_all().dense(classes)


def _inception(x: Any, width: int) -> Any:
    """Return 1×1, 3×3 and 5×5 convolutions and a pooling side by side: 4 × width channels."""
    from keras import layers

    return layers.Concatenate()(
        [
            conv(x, width, 1),
            conv(conv(x, width, 1), 3 * width // 2, 3),
            conv(conv(x, width // 2, 1), width, 5),
            conv(layers.MaxPooling2D(3, strides=1, padding="same")(x), width // 2, 1),
        ]
    )


def _inception_maps(maps: Maps, width: int) -> Maps:
    """Return what `_inception` computes."""
    return maps.concatenated(
        maps.conv(width, 1),
        maps.conv(width, 1).conv(3 * width // 2),
        maps.conv(width // 2, 1).conv(width, 5),
        maps.conv(width // 2, 1),
    )
