"""Bars beside pictures of another shape than the frame: how much of it they take, and which frame would take less."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Shape = tuple[int, int]  # height, width

_ALIKE = 0.1  # relative difference of two shapes of which pictures count as of one shape
_MOST = 0.5  # share of the pictures that "most" means
_WORTH = 0.1  # share of the frame that another size must free to be worth a line
_STEP = 4  # pixels: sides are a multiple of it
_LARGEST_TERM = 16  # of a ratio in words
_EXACT = 0.01  # relative difference of a ratio in words


def waste(shapes: Sequence[Shape], size: Shape) -> float:
    """Return the mean share of a frame that bars take when pictures are fitted into it whole."""
    heights, widths = np.array(shapes, float).T
    scale = np.minimum(size[0] / heights, size[1] / widths)
    return max(0.0, float(1 - (heights * widths * scale**2).mean() / (size[0] * size[1])))


def better(shapes: Sequence[Shape], size: Shape) -> tuple[Shape, float] | None:
    """Return a size with the same longer side that wastes less, and the usual ratio of width and height.

    It is None if there is no such size.

    Args:
        shapes: Height and width of every picture.
        size: Height and width of the frame.
    """
    if not shapes:
        return None
    heights, widths = np.array(shapes, float).T
    ratios = np.log(widths / heights)
    usual = float(np.median(ratios))
    if (abs(ratios - usual) <= _ALIKE).mean() < _MOST:
        return None
    ratio, longer = float(np.exp(usual)), max(size)
    height, width = (_side(longer * min(1, share)) for share in (1 / ratio, ratio))
    if waste(shapes, size) - waste(shapes, (height, width)) < _WORTH:
        return None
    return (height, width), ratio


def advice(shapes: Sequence[Shape], size: Shape) -> str | None:
    """Return a line about a size that wastes less, or None if there is none; see `better`."""
    if (found := better(shapes, size)) is None:
        return None
    (height, width), ratio = found
    now, then = waste(shapes, size), waste(shapes, (height, width))
    return (
        f"most pictures are {_words(ratio)} (width:height): size [{height}, {width}] would leave {then:.0%} of the"
        f" frame to bars, where [{size[0]}, {size[1]}] leaves {now:.0%}; or set fit: crop or fit: stretch"
    )


def _side(length: float) -> int:
    return max(_STEP, round(length / _STEP) * _STEP)


def _words(ratio: float) -> str:
    """Return a ratio in small whole numbers, such as 3:4."""
    for term in range(1, _LARGEST_TERM + 1):
        width, height = (round(ratio * term), term) if ratio < 1 else (term, round(term / ratio))
        if width and height and abs(width / height / ratio - 1) < _EXACT:
            return f"{width}:{height}"
    return f"{ratio:.2g}:1"
