"""The size in which pictures are learnt: the smallest beyond which nearest neighbours gain nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets import bars
from pipeline.datasets.arrays import Images, Labels
from pipeline.datasets.bars import Shape

SIDES = (28, 32, 64, 96)
_NOT_SQUARE_FROM = 64  # pixels of the longer side: a part of a smaller one is too little for networks
_CHANCE = 0.05  # a gain is one if chance gives it less often than this
_NEARLY = 1.4  # a frame of so many times the pixels, in which no picture is resampled, is preferred
_STEP = 128  # pictures compared at a time


@dataclass(frozen=True)
class Tried:
    """What nearest neighbours reach in a size: the share of the pictures whose nearest other one is of their class."""

    size: Shape
    accuracy: float


def candidates(shapes: Sequence[Shape]) -> list[Shape]:
    """Return the sizes to try: none is larger than the usual picture needs, and of oblong pictures each is oblong."""
    usual = float(np.median([max(shape) for shape in shapes]))
    sides = [side for place, side in enumerate(SIDES) if place == 0 or SIDES[place - 1] < usual]
    return [_frame(side, shapes) for side in sides]


def _frame(side: int, shapes: Sequence[Shape]) -> Shape:
    found = bars.better(shapes, (side, side)) if side >= _NOT_SQUARE_FROM else None
    return found[0] if found else (side, side)


def choose(images: Sequence[Images], labels: Labels, native: Sequence[Shape]) -> tuple[Shape, list[Tried]]:
    """Return the smallest size beyond which nearest neighbours gain nothing, and what they reach in each.

    Each picture is classified by the others (leave one out). A gain counts if it is more than chance, by a paired sign
    test. Where all pictures have one of the next larger sizes already, that is taken: nothing is resampled.

    Args:
        images: The same pictures in each size, smallest first: (N, H, W, C).
        labels: Their classes.
        native: Height and width of all pictures as they came.
    """
    right = [_right(each, labels) for each in images]
    sizes: list[Shape] = [(each.shape[1], each.shape[2]) for each in images]
    place = next(
        place for place in range(len(sizes)) if not any(_gains(right[place], more) for more in right[place + 1 :])
    )
    own = set(native)
    if len(own) == 1:
        height, width = sizes[place]
        larger = [size for size in sizes[place:] if size in own and size[0] * size[1] <= _NEARLY * height * width]
        place = sizes.index(larger[0]) if larger else place
    return sizes[place], [Tried(size, float(mask.mean())) for size, mask in zip(sizes, right, strict=True)]


def _right(images: Images, labels: Labels) -> npt.NDArray[np.bool_]:
    """Return which pictures are of the class of the nearest other one."""
    points = images.reshape(len(images), -1).astype(np.float32) / 255
    squares = np.einsum("nd,nd->n", points, points)
    found = np.zeros(len(points), dtype=bool)
    if len(points) < 2:
        return found
    for start in range(0, len(points), _STEP):
        stop = min(start + _STEP, len(points))
        distance = squares - 2 * points[start:stop] @ points.T
        distance[np.arange(stop - start), np.arange(start, stop)] = np.inf
        found[start:stop] = labels[distance.argmin(axis=1)] == labels[start:stop]
    return found


def _gains(right: npt.NDArray[Any], more: npt.NDArray[Any]) -> bool:
    """Return whether more pictures are right than before, beyond chance."""
    from scipy.stats import binomtest

    won, lost = int((more & ~right).sum()), int((right & ~more).sum())
    return won > lost and binomtest(won, won + lost, alternative="greater").pvalue < _CHANCE
