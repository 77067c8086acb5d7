"""Tables that the gate checks: one row per image, and one row per class of each split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.datasets import grouping
from pipeline.datasets.arrays import Images, Labelled, image_digests
from pipeline.validation import negatives
from pipeline.validation.class_conflicts import NO_CONFLICTS, Conflicts
from pipeline.validation.duplicate_pairs import NONE, Pairs

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.artifacts.validate import Reference

CLASS_COLUMNS = ("split", "index", "images", "imbalance", "groups", "shift")
_ROWS = 1024  # per step: limits the memory for statistics in float32
_SURE = 0.01  # probability that chance alone gives any class a shift


def image_columns(channels: int) -> tuple[str, ...]:
    """Return the columns of a table of images; colour images have more than grey ones."""
    colour = ("saturation",) if channels == 3 else ()
    levels = tuple(f"channel{channel}" for channel in range(channels))
    found = ("sha256", "repeats", "leaked", "near", "near_leaked", "two_classes", "near_two_classes", "group")
    judged = ("mean", "std", "ink", *colour, "clipped", "roughness", "entropy", "negative")
    return ("split", "index", "label", "shape", *judged, *levels, *found)


def image_table(
    parts: Mapping[str, Labelled],
    near: Pairs = NONE,
    scored: str = "test",
    conflicts: Conflicts = NO_CONFLICTS,
) -> pd.DataFrame:
    """Return one row per image of the splits, with the columns of `image_columns`.

    ``mean`` and ``std`` are over an image's values (all channels), 0..255; ``ink`` is the share of values above 0
    (0 is the background of drawn datasets and black elsewhere); ``clipped`` is the share at 255; ``saturation`` is
    the mean difference between a pixel's highest and lowest channel, 0..255; ``channel0`` … are the channel means.
    ``roughness`` compares neighbouring pixels: 0 if they are alike, 1 if they are independent, as in noise. ``entropy``
    is that of the grey levels, in bits. ``negative``: the image looks like a negative of those of the first split.
    ``repeats``: the same pixels occur earlier in the split; ``near``: nearly the same pattern does. ``leaked`` and
    ``near_leaked``: the same occurs across the boundary between training and scoring data: for an image of `scored`,
    in any other split; for an image of a split after `scored`, in `scored`. ``two_classes`` and ``near_two_classes``:
    an earlier image of any split that is the same, or nearly the same, has another label. ``group``: a number for all
    images of a split that a chain of copies, near duplicates and groups links.

    Args:
        parts: The splits, in the order of the table.
        near: Pairs of near duplicates, as positions in that order.
        scored: The split that models are scored on.
        conflicts: Images with two labels, as positions in that order.
    """
    import pandas as pd

    frames, learned = [], next(iter(parts.values())).images
    for split, data in parts.items():
        frame = pd.DataFrame(_statistics(data.images))
        frame.insert(0, "split", split)
        frame.insert(1, "index", np.arange(len(data)))
        frame.insert(2, "label", data.labels)
        frame.insert(list(frame.columns).index("entropy") + 1, "negative", negatives.find(data.images, learned))
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    order = {split: place for place, split in enumerate(parts)}
    place = table["split"].map(order).to_numpy(dtype=np.int64)
    table["repeats"] = table.duplicated(["split", "sha256"])
    table["leaked"] = _crosses(table["sha256"], place, order.get(scored, -1))
    same = place[near.first] == place[near.second]
    across = ~same & ((place[near.first] == order.get(scored)) | (place[near.second] == order.get(scored)))
    table["near"] = np.isin(table.index, near.first[same])
    table["near_leaked"] = np.isin(table.index, near.first[across])
    table["two_classes"] = np.isin(table.index, conflicts.same.first)
    table["near_two_classes"] = np.isin(table.index, conflicts.alike())
    named = [(split, name) if name else "" for split, part in parts.items() for name in part.groups or [""] * len(part)]
    ends = [
        (near.first[same], near.second[same]),
        grouping.links(zip(place, table["sha256"], strict=True)),
        grouping.links(named),
    ]
    first, second = (np.concatenate(both) for both in zip(*ends, strict=True))
    table["group"] = grouping.components(first, second, len(table))
    return table


def class_table(images: pd.DataFrame, classes: int, splits: tuple[str, ...], reference: Reference) -> pd.DataFrame:
    """Return one row per class of each split, with `CLASS_COLUMNS`; ``index`` is the class.

    ``imbalance`` is the ratio of the split's largest class to this class. It is empty for a class without images, which
    ``class-count`` reports. ``groups`` is the number of groups of a class in train. ``shift`` is the distance of the
    class's channel mean from the reference, in standard deviations of the reference images, minus a margin for chance
    in small samples, over all classes and channels at once; the largest of all channels.
    """
    import pandas as pd

    rows, tests = [], classes * reference.shape[2]
    for split in splits:
        inside = images[(images["split"] == split) & images["label"].between(0, classes - 1)]
        counts = np.bincount(inside["label"], minlength=classes)
        for index, n in enumerate(counts):
            mine = inside[inside["label"] == index]
            groups = mine["group"].nunique() if n and split == "train" else np.nan
            shift = _shift(mine, reference, index, tests)
            rows.append((split, index, int(n), counts.max() / n if n else np.nan, groups, shift))
    return pd.DataFrame(rows, columns=list(CLASS_COLUMNS))


def _shift(images: pd.DataFrame, reference: Reference, label: int, tests: int) -> float:
    from scipy.stats import t

    levels = reference.levels.get(label)
    names = [f"channel{channel}" for channel in range(reference.shape[2])]
    if levels is None or not len(images) or not set(names) <= set(images.columns):
        return float("nan")
    errors = float(t.isf(_SURE / (2 * tests), max(1, levels.images - 1)))  # standard errors of a mean
    chance = errors * math.sqrt(1 / len(images) + 1 / levels.images)
    away = [
        abs(images[name].mean() - mean) / max(std, 1.0)
        for name, mean, std in zip(names, levels.mean, levels.std, strict=True)
    ]
    return max(0.0, round(float(max(away)) - chance, 6))


def _crosses(digests: pd.Series[str], place: np.ndarray, scored: int) -> np.ndarray:
    """Return a mask of the rows of `scored` that occur before it, and of later rows that occur in it."""
    before, inside, after = place < scored, place == scored, place > scored
    return np.asarray(
        (inside & digests.isin(digests[before])) | (after & digests.isin(digests[inside]) & (scored >= 0))
    )


def _statistics(images: Images) -> dict[str, Any]:
    steps = [images[start : start + _ROWS] for start in range(0, max(len(images), 1), _ROWS)]
    columns = [_of_step(step) for step in steps]
    table: dict[str, Any] = {"shape": "×".join(map(str, images.shape[1:]))}
    table |= {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    return table | {"sha256": [digest.hex() for digest in image_digests(images)]}


def _of_step(images: Images) -> dict[str, Any]:
    height, width, channels = images.shape[1:]
    size = height * width * channels
    planes = np.ascontiguousarray(images.transpose(3, 0, 1, 2)).reshape(channels, len(images), height * width)
    levels = planes.mean(axis=2, dtype=np.float32)
    mean = levels.mean(axis=0)
    squares: Any = sum(np.einsum("nv,nv->n", away, away) for away in (plane - mean[:, None] for plane in planes))
    found = {
        "mean": mean,
        "std": np.sqrt(squares / size),
        "ink": sum(np.count_nonzero(plane, axis=1) for plane in planes) / size,
    }
    if len(planes) == 3:
        red, green, blue = planes
        low, high = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
        found["saturation"] = (high - low).mean(axis=1, dtype=np.float32)
    found["clipped"] = sum(np.count_nonzero(plane == 255, axis=1) for plane in planes) / size
    found["roughness"] = _roughness(images, squares)
    found["entropy"] = _entropy(images)
    return found | {f"channel{channel}": level for channel, level in enumerate(levels)}


def _roughness(images: Images, squares: Any) -> Any:
    """Return half the mean squared difference of neighbouring pixels, divided by the variance."""
    total = np.zeros(len(images), np.float64)
    for axis in (1, 2):
        before, after = (np.moveaxis(images, axis, 0)[part].astype(np.float32) for part in (slice(-1), slice(1, None)))
        away = after - before
        total += np.einsum("knsc,knsc->n", away, away) * images.shape[axis] / max(images.shape[axis] - 1, 1)
    return (total / 4 / (squares + images[0].size if len(images) else 1)).astype(np.float32)


def _entropy(images: Images) -> Any:
    """Return the entropy of each image's values, counted in steps of eight grey levels."""
    count, levels = len(images), 32
    steps = (images.reshape(count, math.prod(images.shape[1:])) >> 3).astype(np.int64) + levels * np.arange(count)[
        :, None
    ]
    shares = np.bincount(steps.ravel(), minlength=levels * count).reshape(count, levels) / max(steps.shape[1], 1)
    return -(shares * np.log2(np.maximum(shares, 1e-12))).sum(axis=1).astype(np.float32)
