"""What of each image its picture covers: bars beside it are no part of it when images are compared."""

from __future__ import annotations

import numpy as np

from pipeline.datasets.arrays import Covers, Images, Labelled


def without_bars(data: Labelled) -> Images:
    """Return the images with bars in the mean colour of what the picture covers, so that they have no pattern."""
    if data.covers is None:
        return data.images
    whole = (0, 0, *data.images.shape[1:3])
    barred = np.flatnonzero((data.covers != whole).any(axis=1))
    if not len(barred):
        return data.images
    images = np.array(data.images)
    for index in barred:
        top, left, bottom, right = data.covers[index]
        inside = data.images[index, top:bottom, left:right]
        images[index] = np.rint(inside.mean(axis=(0, 1)))
        images[index, top:bottom, left:right] = inside
    return images


def inferred(images: Images, like: Labelled, level: int) -> Covers | None:
    """Return what pictures cover of images that are stored as arrays: the smallest part that occurs in known images.

    Args:
        images: The images.
        like: Images of which it is known; None is returned if it is not.
        level: The colour of bars.
    """
    if like.covers is None:
        return None
    known = np.unique(like.covers, axis=0)
    areas = (known[:, 2] - known[:, 0]).astype(int) * (known[:, 3] - known[:, 1])
    found = np.tile(np.array([0, 0, *images.shape[1:3]], np.int16), (len(images), 1))
    open_ = np.ones(len(images), bool)
    for box in known[np.argsort(areas, kind="stable")]:
        top, left, bottom, right = box
        outside = np.ones(images.shape[1:3], bool)
        outside[top:bottom, left:right] = False
        fits = open_ & (images[:, outside] == level).all(axis=(1, 2))
        found[fits] = box
        open_ &= ~fits
    return found
