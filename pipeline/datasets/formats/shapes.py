"""Source format `shapes`: 32×32 colour pictures of ten shapes, drawn from a seed. No network, no files.

Every picture shows one shape at a random position, size and rotation. It is lighter or darker than its background,
which is a colour gradient with noise and random bars. Colour is independent of the class; backgrounds are bluish so
that the validation gate can detect swapped channels. A network that detects edges at any position learns the task; one
that weighs fixed pixels hardly does.

The same seed draws the same bytes with every numpy version on every platform. Random numbers are the raw output of
PCG64, which numpy guarantees never to change. Pixels are computed with ``+ - * /``, ``sqrt``, comparisons and
rounding, which IEEE 754 defines to the last bit. Sine and cosine are not used: their last bits differ between C
libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import pydantic

from pipeline.core.errors import DataError, nearest
from pipeline.datasets.arrays import Images, Labelled, Labels, RawImages, SourceSettings

SIDE = 32
_CHUNK = 500  # pictures drawn at once: bounds the memory
_BARS = 2
_NOISE = 10  # grey levels, either way

_Array = npt.NDArray[np.float64]
_Distance = Callable[[_Array, _Array], _Array]


class Settings(SourceSettings):
    """The dataset's section under ``download``: the number of pictures and the shapes."""

    train: Annotated[int, pydantic.Field(ge=1, le=1_000_000)]
    test: Annotated[int, pydantic.Field(ge=1, le=1_000_000)]
    seed: Annotated[int, pydantic.Field(ge=0)] = 0


def shorter_side(settings: Settings) -> int | None:
    """Return the shorter side of an image in pixels, or an upper limit of it; None if the settings do not say."""
    del settings
    return SIDE


def read(folder: Path, settings: Settings) -> RawImages:
    """Return newly drawn pictures as (N, 32, 32, 3), with classes in turn; the folder is not read.

    Raises:
        DataError: A class is not a known shape, or files are pinned.
    """
    unknown = sorted(set(settings.classes) - set(SHAPES))
    if unknown:
        raise DataError("download: classes of shapes", expected=nearest(unknown[0], SHAPES), found=repr(unknown[0]))
    if settings.files:
        raise DataError(
            f"download: files of shapes in {folder}", expected="none: images are drawn", found=len(settings.files)
        )
    return RawImages(
        train=draw(settings.classes, settings.train, [settings.seed, 0]),
        test=draw(settings.classes, settings.test, [settings.seed, 1]),
        class_names=settings.classes,
    )


def draw(classes: tuple[str, ...], count: int, seed: list[int]) -> Labelled:
    """Return `count` pictures of shapes, with labels 0, 1, … repeated in turn."""
    random = np.random.PCG64(seed)
    labels: Labels = np.arange(count, dtype=np.int64) % len(classes)
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        images[start:stop] = _pictures(classes, labels[start:stop], random)
    return Labelled(images, labels)


class _Frame(NamedTuple):
    """The position of a shape in each picture: centre and size in pixels, rotation as cosine and sine."""

    x: _Array
    y: _Array
    size: _Array
    cos: _Array
    sin: _Array


def _pictures(classes: tuple[str, ...], labels: Labels, random: np.random.PCG64) -> Images:
    canvas = _background(len(labels), random)
    level = canvas.mean_level
    pixels = canvas.pixels
    for _ in range(_BARS):
        _add_bar(pixels, random)
    frame = _frame(len(labels), random, (8.0, 12.5), margin=12.0)
    ink = _ink(level, random)
    for label in np.unique(labels):
        chosen = labels == label
        part = _Frame(*(values[chosen] for values in frame))
        pixels[chosen] = _blend(pixels[chosen], _coverage(SHAPES[classes[label]], part), ink[chosen])
    noise = random.random_raw(pixels.size // 8).astype("<u8").view(np.uint8).reshape(pixels.shape)
    pixels += (noise / 255 - 0.5) * (2 * _NOISE)
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


class _Canvas(NamedTuple):
    pixels: _Array
    mean_level: _Array


def _background(count: int, random: np.random.PCG64) -> _Canvas:
    """Return colour gradients, on average more blue than green and more green than red."""
    level = (
        np.array([70.0, 90.0, 120.0]) + 60 * _uniform(random, count, 1, 1, 3) + 20 * _uniform(random, count, 1, 1, 1)
    )
    slope = 3 * _uniform(random, count, 1, 2, 3) - 1.5
    place = np.arange(SIDE) - (SIDE - 1) / 2
    across, down = place.reshape(1, 1, SIDE, 1), place.reshape(1, SIDE, 1, 1)
    return _Canvas(level + slope[:, :, :1] * across + slope[:, :, 1:] * down, level)


def _ink(level: _Array, random: np.random.PCG64) -> _Array:
    """Return colours that are lighter or darker than a background in every channel, by 50 to 110 levels."""
    sign = np.where(_uniform(random, len(level), 1, 1, 1) < 0.5, -1.0, 1.0)
    return level + sign * (50 + 60 * _uniform(random, len(level), 1, 1, 3))


def _add_bar(pixels: _Array, random: np.random.PCG64) -> None:
    """Draw a thin bar at a random position in each picture, in a random colour."""
    count = len(pixels)
    frame = _frame(count, random, (3.0, 9.0), margin=0.0)
    pixels[:] = _blend(pixels, _coverage(_box(1.0, 0.12), frame), 255 * _uniform(random, count, 1, 1, 3))


def _frame(count: int, random: np.random.PCG64, sizes: tuple[float, float], margin: float) -> _Frame:
    low, high = sizes
    span = SIDE - 2 * margin
    half = 2 * _uniform(random, count, 1, 1) - 1  # the tangent of half an angle within ±90°
    turned = np.where(_uniform(random, count, 1, 1) < 0.5, -1.0, 1.0)  # half of them are rotated by a further 180°
    return _Frame(
        x=margin + span * _uniform(random, count, 1, 1),
        y=margin + span * _uniform(random, count, 1, 1),
        size=low + (high - low) * _uniform(random, count, 1, 1),
        cos=turned * (1 - half * half) / (1 + half * half),
        sin=turned * (2 * half) / (1 + half * half),
    )


def _coverage(distance: _Distance, frame: _Frame) -> _Array:
    """Return the share of each pixel that a shape covers.

    It is computed from the distance of the pixel's centre to the edge, as in font renderers.
    """
    centre = np.arange(SIDE) + 0.5
    x = (centre.reshape(1, 1, SIDE) - frame.x) / frame.size
    y = (centre.reshape(1, SIDE, 1) - frame.y) / frame.size
    outside = distance(frame.cos * x + frame.sin * y, frame.cos * y - frame.sin * x)
    return np.clip(0.5 - outside * frame.size, 0, 1)[..., np.newaxis]


def _blend(under: _Array, cover: _Array, colour: _Array) -> _Array:
    return under + cover * (colour - under)


def _uniform(random: np.random.PCG64, *shape: int) -> _Array:
    """Return numbers in [0, 1): the upper 53 bits of each raw number."""
    raw = random.random_raw(int(np.prod(shape)))
    numbers: _Array = (raw >> np.uint64(11)).astype(np.float64).reshape(shape)
    return numbers * 2.0**-53


# Signed distances from the edge of each shape, negative inside, in units of its size; x to the right, y down.


def _box(wide: float, high: float, x0: float = 0.0, y0: float = 0.0) -> _Distance:
    return lambda x, y: np.maximum(np.abs(x - x0) - wide, np.abs(y - y0) - high)


def _disc(radius: float, x0: float = 0.0) -> _Distance:
    return lambda x, y: np.sqrt((x - x0) * (x - x0) + y * y) - radius


def _both(first: _Distance, second: _Distance) -> _Distance:
    return lambda x, y: np.minimum(first(x, y), second(x, y))


def _without(first: _Distance, second: _Distance) -> _Distance:
    return lambda x, y: np.maximum(first(x, y), -second(x, y))


def _star(x: _Array, y: _Array) -> _Array:
    """Return the distance from a pentagram: the points on the inner side of at least four of its five lines."""
    normals = ((0.0, 1.0), (0.9510565, 0.3090170), (0.5877853, -0.8090170))
    mirrored = [(-a, b) for a, b in normals[1:]]
    lines = np.stack([a * x + b * y for a, b in (*normals, *mirrored)])
    inner: _Array = np.sort(lines, axis=0)[-2] - 0.36
    return inner


def _triangle(x: _Array, y: _Array) -> _Array:
    return np.maximum(0.8660254 * np.abs(x) - 0.5 * y, y) - 0.5


SHAPES: dict[str, _Distance] = {
    "disc": _disc(0.8),
    "ring": _without(_disc(0.9), _disc(0.5)),
    "half": _without(_disc(0.95), _box(2.0, 1.0, y0=-1.3)),
    "crescent": _without(_disc(0.9), _disc(0.75, x0=0.5)),
    "triangle": _triangle,
    "square": _box(0.7, 0.7),
    "cross": _both(_box(0.9, 0.27), _box(0.27, 0.9)),
    "bar": _box(1.0, 0.3),
    "star": _star,
    "angle": _both(_box(0.25, 0.8, x0=-0.45), _box(0.7, 0.25, y0=0.55)),
}
