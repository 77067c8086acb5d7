"""The reference models that are plain stacks of convolutions.

Where a reference ends in a softmax, this one ends in logits with the softmax in the loss, which is the same model.
"""

from __future__ import annotations

from pipeline.models.base import Preset
from pipeline.models.training.recipe import PLAIN
from pipeline.models.values import Hyperparameters

_MNIST, _CIFAR10 = ("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))

_STACK: Hyperparameters = {
    **PLAIN,
    "architecture": "plain",
    "plain_blocks": 1,
    "plain_filters": 32,
    "plain_kernel": 3,
    "plain_padding": "valid",
    "plain_batch_norm": False,
    "plain_bias": True,
    "plain_activation": "relu",
    "plain_units": 0,
    "plain_more_units": 0,
    "plain_dense_activation": "relu",
    "plain_dense_batch_norm": False,
    "plain_dropout": 0.0,
}
_TWO: Hyperparameters = {**_STACK, "plain_blocks": 2}

PRESETS = (
    Preset("R1", "one convolution of 32", *_MNIST, _STACK),
    Preset("R2", "convolutions of 32 and 64, Dense 512", *_CIFAR10, {**_TWO, "plain_units": 512}),
    Preset(
        "R3",
        "a LeNet of 32 and 64, Dense 512 sigmoid, no biases",
        *_MNIST,
        {**_TWO, "plain_padding": "same", "plain_bias": False, "plain_units": 512, "plain_dense_activation": "sigmoid"},
    ),
    Preset(
        "R5",
        "padded convolutions of 32 and 64, Dense 64",
        *_CIFAR10,
        {**_TWO, "plain_padding": "same", "plain_units": 64},
    ),
    Preset(
        "R6", "one 5×5 convolution of 6", *_MNIST, {**_STACK, "batch_size": 128, "plain_filters": 6, "plain_kernel": 5}
    ),
    Preset(
        "R7",
        "normalised convolutions of 8 and 16, linear Dense 120 and 84",
        *_MNIST,
        {
            **_TWO,
            "batch_size": 128,
            "plain_filters": 8,
            "plain_padding": "same",
            "plain_batch_norm": True,
            "plain_units": 120,
            "plain_more_units": 84,
            "plain_dense_activation": "linear",
        },
    ),
    Preset(
        "R8",
        "normalised throughout: convolutions of 16 and 32, Dense 256, dropout 0.5",
        *_MNIST,
        {
            **_TWO,
            "batch_size": 128,
            "plain_filters": 16,
            "plain_batch_norm": True,
            "plain_units": 256,
            "plain_dense_batch_norm": True,
            "plain_dropout": 0.5,
        },
    ),
    Preset(
        "R10",
        "5×5 convolutions of 10 and 20, Dense 50",
        *_MNIST,
        {**_TWO, "plain_filters": 10, "plain_kernel": 5, "plain_units": 50},
    ),
    Preset("R11", "convolutions of 32 and 64, Dense 128", *_MNIST, {**_TWO, "batch_size": 64, "plain_units": 128}),
)
