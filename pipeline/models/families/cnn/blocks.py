"""Building blocks of the architectures."""

from __future__ import annotations

from typing import Any

_MOMENTUM = 0.9  # moving averages settle within tens of steps, which is all that a first rung on a small dataset has


def conv(
    x: Any, filters: int, kernel: int = 3, *, strides: int = 1, pool: bool = False, activation: str | None = "relu"
) -> Any:
    """Return x convolved with padded borders, pooled if requested (maxima of 2×2), normalised and activated."""
    from keras import layers

    x = layers.Conv2D(filters, kernel, strides=strides, padding="same", use_bias=False)(x)
    x = layers.MaxPooling2D(2)(x) if pool else x
    x = batch_norm(x)
    return layers.Activation(activation)(x) if activation else x


def batch_norm(x: Any) -> Any:
    """Return x normalised over the batch."""
    from keras import layers

    return layers.BatchNormalization(momentum=_MOMENTUM)(x)


def logits(x: Any, classes: int, *, bias: bool = True) -> Any:
    """Return one number per class, in single precision whatever the rest is computed in."""
    from keras import layers

    return layers.Dense(classes, use_bias=bias, dtype="float32")(x)
