"""What chance alone gives: how many images may miss a limit before their number says something about the data."""

from __future__ import annotations

_SURE = 0.01  # probability that sound data exceeds one of all limits of a suite


def allowed(images: int, share: float, tests: int) -> int:
    """Return the number of images that may miss a limit which each misses with probability `share`.

    More of them are found by chance with a probability of 0.01 over all tests together. A share of 0 allows none.

    Args:
        images: The number of images judged.
        share: The share that a setting allows.
        tests: The number of limits that are judged at once.
    """
    from scipy.stats import binom

    return int(binom.isf(_SURE / max(tests, 1), images, share)) if images and share > 0 else 0
