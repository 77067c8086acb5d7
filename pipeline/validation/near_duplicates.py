"""Near duplicates: an exact search for every pair of images with almost the same pattern.

The distance of two images is the length of the difference of their patterns. A pattern is an image minus the mean of
each channel, scaled to length 1. So the distance is 0 for images that differ only in brightness, tint and contrast, and
about the square root of 2 for unrelated images. With grey levels alone, any two birds in a clear sky would be near
duplicates.

The search misses no pair. A projection on orthonormal directions can only shorten distances, so the search there finds
a superset of the pairs. Their distances are then computed on all pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Images, Labels
from pipeline.validation.duplicate_pairs import NONE, Indices, Pairs

Floats = npt.NDArray[np.float32]

_DIRECTIONS = 24  # of the projection; measured: 16 leave more candidates to check, 32 make the search slower
_POOLED = 256  # most values per image from which the directions are computed: keeps the covariance cheap
_LEARN_FROM = 8192  # images
_STEP = 1024  # images or pairs converted to floats at a time
_ROWS, _COLUMNS = 512, 4096  # compared at a time: their products fit in the CPU cache
_SLACK = 1e-5  # of half a squared distance, for rounding in float32
_MOST = 2_000_000


def search(images: Images, limit: float, since: int = 0) -> Pairs:
    """Return the pairs of images at most `limit` apart, nearest first.

    Only the first of several images with equal pixels is searched. Constant images have no pattern and are skipped.

    Args:
        images: uint8, (N, H, W, C).
        limit: The largest distance of a pair.
        since: Return only pairs with an image at this position or later, such as new images after known ones.

    Raises:
        DataError: There are more pairs than a fault of the data could explain.
    """
    return _search(images, [images], limit, since)


def alone(images: Images, place: int, limit: float) -> bool:
    """Return whether no other image is at most `limit` from the image at a place; quicker than `search` for one."""
    chosen = images[place : place + 1]
    if (chosen == chosen[:, :1, :1]).all():
        return not (images == chosen).all(axis=(1, 2, 3)).sum() > 1
    steps = [images[at : at + _STEP] for at in range(0, len(images), _STEP)]
    flat = [(step == step[:, :1, :1]).all(axis=(1, 2, 3)) for step in steps]
    patterned = np.concatenate([_patterns(step[~mask]) for step, mask in zip(steps, flat, strict=True)])
    apart = np.einsum("nhwc,nhwc->n", *[patterned - _patterns(chosen)] * 2)
    return bool((apart <= limit**2 + 2 * _SLACK).sum() <= 1)


def search_mirrored(images: Images, labels: Labels, limit: float, since: int = 0) -> Pairs:
    """Return the pairs of images with different labels of which one, flipped, is at most `limit` from the other.

    Flips are left to right and top to bottom. Arguments as for `search`; beyond two million pairs it looks no further.
    """
    return _search(images, [images[:, :, ::-1], images[:, ::-1]], limit, since, labels)


def _search(images: Images, views: list[Images], limit: float, since: int, labels: Labels | None = None) -> Pairs:
    """Return the pairs of which the later image, as it is in one of the views, is at most `limit` from the other one.

    With labels, only pairs with different ones are returned.
    """
    chosen = _searched(images)
    start = int(np.searchsorted(chosen, since))
    if len(chosen) < 2 or start == len(chosen):
        return NONE
    pooled = _pooled(images, chosen)
    directions = _directions(pooled)
    points = _points(pooled, directions)
    found: list[tuple[Indices, Indices, npt.NDArray[np.float64]]] = []
    total = 0
    for view in views:
        turned = pooled[start:] if view is images else _pooled(view, chosen[start:])
        for first, second in _candidates(_points(turned, directions), points, limit, start):
            if labels is not None:
                differ = labels[chosen[first]] != labels[chosen[second]]
                first, second = first[differ], second[differ]
            apart = turned[first - start] - pooled[second]
            maybe = np.einsum("nd,nd->n", apart, apart) <= limit**2 + 2 * _SLACK
            first, second = first[maybe], second[maybe]
            distance = _distances(view, images, chosen[first], chosen[second])
            near = distance <= limit
            found.append((chosen[first[near]], chosen[second[near]], distance[near]))
            total += int(near.sum())
            if labels is None:
                _require_few(total, limit, len(images))
            elif total > _MOST:
                break
    if not total:
        return NONE
    first, second, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((second, first, distance))
    return Pairs(first[order], second[order], distance[order])


def _searched(images: Images) -> Indices:
    """Return the positions of images that have a pattern and do not repeat an earlier image."""
    seen: dict[int, int] = {}
    rows = (np.ascontiguousarray(image).tobytes() for image in images)
    first = np.array([seen.setdefault(hash(row), place) == place for place, row in enumerate(rows)], dtype=bool)
    flat = np.concatenate(
        [
            (step == step[:, :1, :1]).all(axis=(1, 2, 3))
            for step in (images[at : at + _STEP] for at in range(0, len(images), _STEP))
        ]
        or [np.empty(0, bool)]
    )
    return np.flatnonzero(first & ~flat)


def _patterns(images: Images) -> Floats:
    values: Floats = images.astype(np.float32)
    values -= values.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt(np.einsum("nhwc,nhwc->n", values, values))
    values /= length[:, None, None, None]
    return values


def _pooled(images: Images, chosen: Indices) -> Floats:
    """Return a point per image, with distances no longer than those of the patterns.

    The last coordinate is the length of the part of a pattern that pooling removes.
    """
    pooled = np.concatenate([_pool(_patterns(images[chosen[at : at + _STEP]])) for at in range(0, len(chosen), _STEP)])
    return _with_rest(pooled, np.ones(len(pooled), np.float32))


def _require_few(total: int, limit: float, images: int) -> None:
    if total > _MOST:
        raise DataError(
            "near duplicates: too many",
            expected=f"at most {_MOST:,} pairs that are {limit:g} apart or less",
            found=f"more among {images:,} images",
            next_step="lower validate.near_duplicates.distance for this dataset",
        )


def _directions(pooled: Floats) -> Floats:
    """Return the directions along which the points differ most."""
    sample = pooled[:: -(-len(pooled) // _LEARN_FROM)]
    return np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, :_DIRECTIONS].astype(np.float32)


def _points(pooled: Floats, directions: Floats) -> Floats:
    """Reduce the points to their coordinates along the directions."""
    return _with_rest(pooled @ directions, np.einsum("nd,nd->n", pooled, pooled))


def _with_rest(points: Floats, squares: Floats) -> Floats:
    """Append to each point the length that it lacks of the given squared length."""
    rest = np.sqrt(np.maximum(0, squares - np.einsum("nd,nd->n", points, points)))
    return np.column_stack([points, rest]).astype(np.float32)


def _pool(patterns: Floats) -> Floats:
    """Return sums over small squares, scaled to be a projection on orthonormal directions."""
    count, height, width, channels = patterns.shape
    side = 1
    while -(-height // side) * -(-width // side) * channels > _POOLED and side < max(height, width):
        side += 1
    padded = np.pad(patterns, ((0, 0), (0, -height % side), (0, -width % side), (0, 0)))
    rows, columns = padded.shape[1] // side, padded.shape[2] // side
    squares = padded.reshape(count, rows, side, columns, side, channels)
    return np.asarray(squares.sum(axis=(2, 4)).reshape(count, -1) / side, dtype=np.float32)


def _candidates(turned: Floats, points: Floats, limit: float, start: int) -> Iterator[tuple[Indices, Indices]]:
    """Yield positions (first, second), ``second < first``, ``start <= first``, of points at most `limit` apart.

    The second is a position in `points`; `turned` has the point of position `start` first.

    Half the squared distance is one matrix product, with the squared lengths as two additional coordinates.
    """
    halves, of_turned = (np.einsum("nd,nd->n", each, each) / 2 for each in (points, turned))
    left = np.column_stack([turned, -of_turned, -np.ones_like(of_turned)])
    right = np.ascontiguousarray(np.column_stack([points, np.ones_like(halves), halves]).T)
    least = np.float32(-(limit**2) / 2 - _SLACK)
    for row in range(start, len(points), _ROWS):
        end = min(row + _ROWS, len(points))
        for column in range(0, end, _COLUMNS):
            near = left[row - start : end - start] @ right[:, column : min(column + _COLUMNS, end)] >= least
            if near.any():
                first, second = np.divmod(np.flatnonzero(near), near.shape[1])
                below = second + column < first + row
                yield first[below] + row, second[below] + column


def _distances(view: Images, images: Images, first: Indices, second: Indices) -> npt.NDArray[np.float64]:
    found = np.empty(len(first))
    for at in range(0, len(first), _STEP):
        step = slice(at, at + _STEP)
        apart = _patterns(view[first[step]]) - _patterns(images[second[step]])
        found[step] = np.sqrt(np.einsum("nhwc,nhwc->n", apart, apart))
    return found
