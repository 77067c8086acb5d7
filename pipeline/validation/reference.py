"""The reference: bounds and levels of the official train split, for checks of a test split or incoming batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.artifacts.validate import Levels, Reference
from pipeline.core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

JUDGED = ("mean", "std", "ink", "saturation", "clipped", "roughness", "entropy")
APART = ("mean", "std", "saturation", "roughness", "entropy")  # images outside of these bounds are named, however few
_SCALE = {"ink": 1.0, "clipped": 1.0, "roughness": 2.0, "entropy": 5.0}  # of values; the others are grey levels
_INSIDE = 0.95  # of a side's images are taken for sound; measured: up to 5 % of damaged images move no bound
_GAP = 2.0  # times as far from the median as the image before: there a side's sound images end (measured)
_TAIL = 0.005  # chosen: large enough that damage to fewer images does not move a bound
_MARGIN = 0.5  # chosen: how far beyond the quantile a bound is, as a share of the way from the median
_SLACK = 0.01  # of the scale: keeps bounds of identical train images from having zero width


def learn(images: pd.DataFrame, split: str = "train") -> Reference:
    """Return the reference computed from a table of images; see `statistics.image_table`.

    Bounds are wide, and a few damaged images do not move them: a bound lies where nothing follows up to twice the
    distance from the median, or, for shares of pixels, which have long tails, beyond the quantile of the tail.

    Raises:
        DataError: The table has no image of the split.
    """
    rows = images[images["split"] == split]
    if rows.empty:
        raise DataError(f"no images of {split} to learn bounds from", expected="at least one image", found="none")
    height, width, channels = (int(size) for size in str(rows["shape"].iloc[0]).split("×"))
    bounds = {
        name: (_apart if name in APART else _bounds)(rows[name], _SCALE.get(name, 255.0))
        for name in JUDGED
        if name in rows
    }
    names = [f"channel{channel}" for channel in range(channels)]
    levels = {int(str(label)): _levels(found[names]) for label, found in rows.groupby("label")}
    return Reference(shape=(height, width, channels), bounds=bounds, levels=levels)


def _bounds(values: pd.Series[float], scale: float) -> tuple[float, float]:
    low, middle, high = (float(values.quantile(share)) for share in (_TAIL, 0.5, 1 - _TAIL))
    slack = _SLACK * scale
    lowest, highest = low - _MARGIN * (middle - low) - slack, high + _MARGIN * (high - middle) + slack
    return max(0.0, round(lowest, 4)), min(scale, round(highest, 4))


def _apart(values: pd.Series[float], scale: float) -> tuple[float, float]:
    """Return bounds at twice the distance from the median up to which images follow each other without a wide gap."""
    middle, slack = float(values.median()), _SLACK * scale
    ends = []
    for side in (-1.0, 1.0):
        away = sorted(side * (float(value) - middle) for value in values)
        inside = math.ceil(_INSIDE * len(away)) - 1
        furthest = max(0.0, away[inside])
        for distance in away[inside + 1 :]:
            if distance > _GAP * furthest + slack:
                break
            furthest = max(furthest, distance)
        ends.append(middle + side * (_GAP * furthest + slack))
    return max(0.0, round(ends[0], 4)), min(scale, round(ends[1], 4))


def _levels(rows: pd.DataFrame) -> Levels:
    mean, std = ([round(float(value), 4) for value in values] for values in (rows.mean(), rows.std(ddof=0)))
    return Levels(images=len(rows), mean=tuple(mean), std=tuple(std))
