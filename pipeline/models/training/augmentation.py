"""Random changes of training images, as operations of Keras: they run on the device, on every backend.

A shift or a mirroring only selects the source row and column of each pixel. As one-hot matrices they cost two small
products and need no gather. Turns and zooms interpolate. Where an image has nothing to show, its border is repeated:
pictures of one's own are as often dark on white as white on black.
"""

from __future__ import annotations

import math
from typing import Any

from pipeline.models.values import Hyperparameters, real, whole, yes


class Augment:
    """Random augmentation of a batch of training images.

    Args:
        hyperparameters: ``shift`` (pixels, in each direction), ``flip`` (left to right, for half of the images),
            ``turn`` (degrees, in each direction), ``zoom`` (share, in each direction), ``cutout`` (side in pixels of a
            black square somewhere on the image; 0: none).
        generator: A `keras.random.SeedGenerator`, whose state belongs to a checkpoint.
    """

    def __init__(self, hyperparameters: Hyperparameters, generator: Any) -> None:
        self._shift = whole(hyperparameters, "shift")
        self._flip = yes(hyperparameters, "flip")
        self._turn = math.radians(real(hyperparameters, "turn"))
        self._zoom = real(hyperparameters, "zoom")
        self._cutout = whole(hyperparameters, "cutout")
        self._generator = generator

    def __call__(self, images: Any) -> Any:
        """Return changed images, (N, H, W, C), as floating-point numbers from 0 to 255."""
        from keras import ops

        images = ops.cast(images, "float32")
        if self._turn or self._zoom:
            images = self._turned_and_zoomed(images)
        if self._shift or self._flip:
            count, height, width, _ = ops.shape(images)
            rows = self._sources(count, height, mirrored=False)
            columns = self._sources(count, width, mirrored=self._flip)
            images = ops.einsum("nij,njwc->niwc", rows, images)
            images = ops.einsum("nkw,niwc->nikc", columns, images)
        if self._cutout:
            images = images * self._holes(*ops.shape(images)[:3])
        return images

    def _turned_and_zoomed(self, images: Any) -> Any:
        """Return each image turned and scaled about its centre, with bilinear interpolation."""
        import keras
        from keras import ops

        count, height, width, _ = ops.shape(images)
        angle = keras.random.uniform((count,), -self._turn, self._turn, seed=self._generator)
        scale = keras.random.uniform((count,), 1 - self._zoom, 1 + self._zoom, seed=self._generator)
        cos, sin = ops.cos(angle) / scale, ops.sin(angle) / scale
        x, y = (width - 1) / 2, (height - 1) / 2
        zero = ops.zeros_like(cos)
        # Output pixel (u, v) comes from input pixel (cos u + sin v + ..., -sin u + cos v + ...).
        source = [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y, zero, zero]
        return ops.image.affine_transform(images, ops.stack(source, axis=1), "bilinear", fill_mode="nearest")

    def _sources(self, count: Any, length: int, *, mirrored: bool) -> Any:
        """Return a one-hot matrix per image: the source of each place along a side, the nearest one there is."""
        import keras
        from keras import ops

        places = ops.broadcast_to(ops.arange(length, dtype="int32"), (count, length))
        if mirrored:
            half = keras.random.uniform((count, 1), seed=self._generator) < 0.5
            places = ops.where(half, length - 1 - places, places)
        if self._shift:
            most = self._shift
            offset = keras.random.randint((count, 1), -most, most + 1, seed=self._generator)
            places = ops.clip(places + offset, 0, length - 1)
        return ops.cast(ops.expand_dims(places, 2) == ops.arange(length, dtype="int32"), "float32")

    def _holes(self, count: Any, height: int, width: int) -> Any:
        """Return 0 inside a square at a random place of each image, cut off at its borders, and 1 outside."""
        import keras
        from keras import ops

        def outside(length: int) -> Any:
            first = keras.random.randint((count, 1), -(self._cutout // 2), length, seed=self._generator)
            place = ops.arange(length, dtype="int32")
            return (place < first) | (place >= first + self._cutout)

        hole = ops.expand_dims(outside(height), 2) | ops.expand_dims(outside(width), 1)
        return ops.cast(ops.expand_dims(hole, 3), "float32")
