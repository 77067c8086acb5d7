"""Images that look like negatives of the others: ink and ground exchanged.

Means and covariances of coarse grey pixels describe the images. An image is a negative if its inverted pixels fit that
description much better than the pixels themselves. Photographs, which are as likely as their negatives, have none.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.datasets.arrays import Images

_SIDE = 4  # coarse pixels a side: few enough that fifty images describe them
_STEP = 1024  # images at a time, as floats
_LEAST = 50  # images to learn from
_RARE = 0.05  # of the images; if more fit better as negatives, the data has no negatives to speak of
_CLEARLY = 0.25  # of what a typical image fits better as it is


def find(images: Images, learned: Images) -> npt.NDArray[np.bool_]:
    """Return a mask of the images that are negatives of `learned`, of which a few may be negatives themselves."""
    from sklearn.covariance import LedoitWolf

    if not len(images) or len(learned) < _LEAST or images.shape[1:] != learned.shape[1:]:
        return np.zeros(len(images), dtype=bool)
    known = _coarse(learned)
    model = LedoitWolf().fit(known)
    apart = model.mahalanobis(known)
    model = LedoitWolf().fit(known[apart <= np.quantile(apart, 1 - _RARE)])

    def better(pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(model.mahalanobis(255 - pixels) - model.mahalanobis(pixels))

    low, typical = np.quantile(better(known), (_RARE, 0.5))
    mask: npt.NDArray[np.bool_] = better(_coarse(images)) < min(0.0, -_CLEARLY * typical)
    return mask if low > 0 else np.zeros(len(images), dtype=bool)


def _coarse(images: Images) -> npt.NDArray[np.float64]:
    """Return the mean grey levels of 4×4 parts of each image, as (N, parts)."""
    count, height, width, _ = images.shape
    rows, columns = (np.unique(np.linspace(0, side, _SIDE + 1)[:-1].astype(int)) for side in (height, width))
    sizes = np.outer(np.diff(np.append(rows, height)), np.diff(np.append(columns, width)))

    def coarse(step: Images) -> npt.NDArray[np.float64]:
        grey = step.mean(axis=3, dtype=np.float64)
        sums = np.add.reduceat(np.add.reduceat(grey, rows, axis=1), columns, axis=2)
        return np.asarray((sums / sizes).reshape(len(step), -1))

    return np.concatenate([coarse(images[at : at + _STEP]) for at in range(0, count, _STEP)])
