"""Plain stacks: blocks of convolution and pooling, each twice as wide as the one before, then dense layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.families.cnn.blocks import batch_norm, logits
from pipeline.models.space import Choice, Hyperparameters, Range, Space

HEAVY = False

SPACE: Space = {
    "blocks": Range(low=1, high=4),
    "filters": Choice(choices=(6, 8, 10, 16, 24, 32, 48, 64)),  # of the first block
    "kernel": Choice(choices=(3, 5)),
    "padding": Choice(choices=("same", "valid")),
    "batch_norm": Choice(choices=(True, False)),
    "bias": Choice(choices=(True, False)),
    "activation": Choice(choices=("relu", "tanh", "sigmoid", "gelu")),
    "units": Choice(choices=(0, 50, 64, 120, 128, 256, 512)),  # of the first dense layer; 0: none
    "more_units": Choice(choices=(0, 84)),  # of the second; 0: none
    "dense_activation": Choice(choices=("relu", "tanh", "sigmoid", "gelu", "linear")),
    "dense_batch_norm": Choice(
        choices=(False, True)
    ),  # of the last layer, too, which a relu then follows, as R8 has it
    "dropout": Range(low=0.0, high=0.8),
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


def build(x: Any, hyperparameters: Hyperparameters, classes: int) -> Any:
    """Return logits (N, classes) of images (N, H, W, C)."""
    from keras import layers

    bias = bool(hyperparameters["bias"])
    for block in range(int(hyperparameters["blocks"])):
        filters, kernel = int(hyperparameters["filters"]) << block, int(hyperparameters["kernel"])
        x = layers.Conv2D(filters, kernel, padding=str(hyperparameters["padding"]), use_bias=bias)(x)
        x = batch_norm(x) if hyperparameters["batch_norm"] else x
        x = layers.Activation(str(hyperparameters["activation"]))(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    normalised = bool(hyperparameters["dense_batch_norm"])
    for units in (int(hyperparameters["units"]), int(hyperparameters["more_units"])):
        if units:
            x = layers.Dense(units, use_bias=bias)(x)
            x = batch_norm(x) if normalised else x
            x = layers.Activation(str(hyperparameters["dense_activation"]))(x)
            x = layers.Dropout(float(hyperparameters["dropout"]))(x)
    x = logits(x, classes, bias=bias)
    return layers.ReLU(dtype="float32")(batch_norm(x)) if normalised else x
