"""Plain stacks: blocks of convolution and pooling, each twice as wide as the one before, then dense layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.families.cnn.blocks import batch_norm, logits
from pipeline.models.multiply_adds import Maps
from pipeline.models.space import Choice, Range, Space, largest
from pipeline.models.values import DROPOUT, Bounds, Hyperparameters, real, whole, word, yes

HEAVY = False

SPACE: Space = {
    "blocks": Range(low=1, high=4, bounds=Bounds(1, 10)),
    "filters": Choice(choices=(6, 8, 10, 16, 24, 32, 48, 64), bounds=Bounds(1, 512)),  # of the first block
    "kernel": Choice(choices=(3, 5), bounds=Bounds(1, 31)),
    "padding": Choice(choices=("same", "valid")),
    "batch_norm": Choice(choices=(True, False)),
    "bias": Choice(choices=(True, False)),
    "activation": Choice(choices=("relu", "tanh", "sigmoid", "gelu")),
    # Of the first dense layer; 0: none.
    "units": Choice(choices=(0, 50, 64, 120, 128, 256, 512), bounds=Bounds(0, 8192)),
    "more_units": Choice(choices=(0, 84), bounds=Bounds(0, 8192)),  # of the second; 0: none
    "dense_activation": Choice(choices=("relu", "tanh", "sigmoid", "gelu", "linear")),
    # Of the last layer, too, which a relu then follows, as R8 has it.
    "dense_batch_norm": Choice(choices=(False, True)),
    "dropout": Range(low=0.0, high=0.8, bounds=DROPOUT),
}

SEARCHED: Mapping[str, Any] = {
    "blocks": 2,
    "filters": [16, 24, 32],
    "padding": "same",
    "bias": True,
    "activation": "relu",
    "units": [64, 128, 256],
    "more_units": 0,
    "dense_activation": "relu",
    "dense_batch_norm": False,
    "dropout": {"low": 0.1, "high": 0.5},
}


def least_side(space: Space) -> int:
    """Return the shorter side of the smallest images for which every point of a space can be built."""
    kernel = int(largest(space["kernel"])) if space["padding"].holds("valid") else 1
    side = 1
    for _ in range(int(largest(space["blocks"]))):
        side = 2 * side + kernel - 1  # an unpadded convolution takes kernel - 1 pixels off, and pooling halves the rest
    return side


def build(x: Any, hyperparameters: Hyperparameters, classes: int) -> Any:
    """Return logits (N, classes) of images (N, H, W, C)."""
    from keras import layers

    bias = yes(hyperparameters, "bias")
    for block in range(whole(hyperparameters, "blocks")):
        filters, kernel = whole(hyperparameters, "filters") << block, whole(hyperparameters, "kernel")
        x = layers.Conv2D(filters, kernel, padding=word(hyperparameters, "padding"), use_bias=bias)(x)
        x = batch_norm(x) if yes(hyperparameters, "batch_norm") else x
        x = layers.Activation(word(hyperparameters, "activation"))(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    normalised = yes(hyperparameters, "dense_batch_norm")
    for units in (whole(hyperparameters, "units"), whole(hyperparameters, "more_units")):
        if units:
            x = layers.Dense(units, use_bias=bias)(x)
            x = batch_norm(x) if normalised else x
            x = layers.Activation(word(hyperparameters, "dense_activation"))(x)
            x = layers.Dropout(real(hyperparameters, "dropout"))(x)
    x = logits(x, classes, bias=bias)
    return layers.ReLU(dtype="float32")(batch_norm(x)) if normalised else x


def count(image: Maps, hyperparameters: Hyperparameters, classes: int) -> Maps:
    """Return what `build` computes, with its multiply-adds."""
    maps, padded = image, word(hyperparameters, "padding") == "same"
    for block in range(whole(hyperparameters, "blocks")):
        filters = whole(hyperparameters, "filters") << block
        maps = maps.conv(filters, whole(hyperparameters, "kernel"), padded=padded).pool()
    for units in (whole(hyperparameters, "units"), whole(hyperparameters, "more_units")):
        maps = maps.dense(units) if units else maps
    return maps.dense(classes)
