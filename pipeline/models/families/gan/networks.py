"""Generators and discriminators: from noise to images with values from 0 to 1, and from such images to a logit.

A conditional generator also takes labels, and a conditional discriminator adds how well an image fits its label: the
inner product of its features with a vector per class (a projection discriminator).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.models.base import Spec
from pipeline.models.multiply_adds import Maps
from pipeline.models.values import Hyperparameters, whole, word, yes

if TYPE_CHECKING:
    import keras

PENALISED = 4  # the penalty is taken on one in so many images: it is a mean, and each costs a pass of the discriminator
_LEAST_SIDE = 4  # of the smallest feature map; halving continues while the next map is at least this large
_SLOPE = 0.2
_MOMENTUM = 0.9


def generator(hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
    """Return a new generator: noise (N, latent), and labels (N,) if conditional, to images (N, H, W, C), float32."""
    import keras
    from keras import layers

    latent = whole(hyperparameters, "latent")
    noise = keras.Input((latent,), name="noise")
    inputs, x = [noise], noise
    if yes(hyperparameters, "conditional"):
        labels = keras.Input((), dtype="int32", name="labels")
        inputs.append(labels)
        x = layers.Concatenate()([noise, layers.Embedding(spec.classes, latent)(labels)])
    body = {"dense": _dense_images, "dcgan": _convolved_images}[word(hyperparameters, "architecture")]
    images = layers.Activation("sigmoid", dtype="float32")(body(x, whole(hyperparameters, "width"), spec))
    return keras.Model(inputs if len(inputs) > 1 else noise, images, name="generator")


def discriminator(hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
    """Return a new discriminator: images (N, H, W, C), and labels (N,) if conditional, to logits (N, 1), float32."""
    import keras
    from keras import layers

    images = keras.Input(spec.image_shape, name="images")
    inputs = [images]
    body = {"dense": _dense_features, "dcgan": _convolved_features}[word(hyperparameters, "architecture")]
    features = body(images, whole(hyperparameters, "width"), spec)
    logits = layers.Dense(1, dtype="float32")(features)
    if yes(hyperparameters, "conditional"):
        labels = keras.Input((), dtype="int32", name="labels")
        inputs.append(labels)
        wanted = layers.Embedding(spec.classes, features.shape[-1], dtype="float32")(labels)
        fits = layers.Dot(1, dtype="float32")([wanted, features])
        fits = layers.Rescaling(features.shape[-1] ** -0.5, dtype="float32")(fits)
        logits = layers.Add(dtype="float32")([logits, fits])
    return keras.Model(inputs if len(inputs) > 1 else images, logits, name="discriminator")


def generator_maps(hyperparameters: Hyperparameters, spec: Spec) -> Maps:
    """Return what `generator` computes, with its multiply-adds."""
    inputs = whole(hyperparameters, "latent") * (2 if yes(hyperparameters, "conditional") else 1)
    width, maps = whole(hyperparameters, "width"), Maps(1, 1, inputs)
    height, wide, channels = spec.image_shape
    if word(hyperparameters, "architecture") == "dense":
        return maps.dense(2 * width).dense(height * wide * channels)
    doublings = _halvings(spec)
    rows, columns, filters = _first_maps(width, spec)
    maps = maps.dense(rows * columns * filters).reshaped(rows, columns)
    for step in range(doublings - 1):
        maps = maps.transposed(filters >> (step + 1), 4, strides=2)
    return maps.transposed(channels, 4, strides=2)


def discriminator_maps(hyperparameters: Hyperparameters, spec: Spec) -> Maps:
    """Return what `discriminator` computes, with its multiply-adds."""
    width, maps = whole(hyperparameters, "width"), Maps(*spec.image_shape)
    if word(hyperparameters, "architecture") == "dense":
        return maps.dense(width).dense(1)
    for step in range(_halvings(spec)):
        maps = maps.conv(width << step, 4, strides=2)
    return maps.dense(4 * width).dense(1)


def _first_maps(width: int, spec: Spec) -> tuple[int, int, int]:
    """Return the shape of the convolutional generator's smallest maps."""
    height, wide, _ = spec.image_shape
    doublings = _halvings(spec)
    return -(-height >> doublings), -(-wide >> doublings), width << (doublings - 1)  # sides are rounded up


def _dense_images(x: Any, width: int, spec: Spec) -> Any:
    from keras import layers

    height, wide, channels = spec.image_shape
    x = layers.Dense(2 * width, activation="relu")(x)
    return layers.Reshape(spec.image_shape)(layers.Dense(height * wide * channels)(x))


def _dense_features(x: Any, width: int, spec: Spec) -> Any:
    from keras import layers

    del spec
    return layers.Dense(width, activation="relu")(layers.Flatten()(x))


def _convolved_images(x: Any, width: int, spec: Spec) -> Any:
    """Return images before their sigmoid: small maps are normalised, doubled in size, and cut to the image's size.

    Transposed 4×4 convolutions of stride 2 reach each pixel with 4 taps of the smaller map; doubling first and then
    convolving 3×3 takes 9, for pictures no better here.
    """
    from keras import layers

    height, wide, channels = spec.image_shape
    doublings = _halvings(spec)
    rows, columns, filters = _first_maps(width, spec)
    x = layers.Dense(rows * columns * filters, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=_MOMENTUM)(x))
    x = layers.Reshape((rows, columns, filters))(x)
    for step in range(doublings - 1):
        x = layers.Conv2DTranspose(filters >> (step + 1), 4, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=_MOMENTUM)(x))
    x = layers.Conv2DTranspose(channels, 4, strides=2, padding="same")(x)
    spare = (rows << doublings) - height, (columns << doublings) - wide
    return layers.Cropping2D(((0, spare[0]), (0, spare[1])))(x) if any(spare) else x


def _convolved_features(x: Any, width: int, spec: Spec) -> Any:
    """Return a few features of images, after convolutions of stride 2, each twice as wide as the one before.

    Nothing is normalised over the batch: the gradient penalty is meant for each image by itself. Few features, because
    a label's vector over thousands of them learns in a step what the generator takes hundreds to follow: measured on
    MNIST, every class collapsed to one image.
    """
    from keras import layers

    x = layers.Rescaling(2.0, -1.0)(x)
    for step in range(_halvings(spec)):
        x = layers.Conv2D(width << step, 4, strides=2, padding="same")(x)
        x = layers.LeakyReLU(_SLOPE)(x)
    return layers.LeakyReLU(_SLOPE)(layers.Dense(4 * width)(layers.Flatten()(x)))


def _halvings(spec: Spec) -> int:
    """Return how often the shorter side can be halved before it gets too small; at least once."""
    side, halvings = min(spec.image_shape[:2]), 1
    while side >> (halvings + 1) >= _LEAST_SIDE:
        halvings += 1
    return halvings
