"""Distances between sets of features, (N, D): what generated images are scored by. Plain NumPy, in double precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

_BLOCK = 2_048  # rows whose distances to all others are held at once
_RARE = 0.2  # a class counts as covered from this part of its share of the real images on (chosen)


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and covariance (D, D) of features: all that FID needs of a side."""

    mean: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]

    @classmethod
    def of(cls, features: Array) -> Moments:
        """Return the moments of at least two rows of features."""
        wide = np.asarray(features, np.float64)
        return cls(wide.mean(axis=0), np.cov(wide, rowvar=False))


def fid(one: Array | Moments, other: Array | Moments) -> float:
    """Return the Fréchet distance of two sets of features, as if each were normal; Heusel et al., arXiv:1706.08500.

    It is biased: more so for fewer rows. Compare only figures over as many.
    """
    a = one if isinstance(one, Moments) else Moments.of(one)
    b = other if isinstance(other, Moments) else Moments.of(other)
    # tr (AB)^½ is the sum of the roots of the eigenvalues of A^½ B A^½, which is symmetric, unlike AB.
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    crossed = np.sqrt(np.clip(np.linalg.eigvalsh(root @ b.covariance @ root), 0, None)).sum()
    apart = ((a.mean - b.mean) ** 2).sum()
    return float(max(apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * crossed, 0.0))


def kid(one: Array, other: Array) -> float:
    """Return the unbiased squared kernel distance, kernel (x·y/D + 1)³; Bińkowski et al., arXiv:1801.01401.

    It may come out below 0, as an unbiased estimate of 0 does.
    """
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)

    def total(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
        blocks = range(0, len(x), _BLOCK)
        return float(sum(((x[at : at + _BLOCK] @ y.T / x.shape[1] + 1) ** 3).sum() for at in blocks))

    def own(x: npt.NDArray[np.float64]) -> float:
        return float((((x**2).sum(axis=1) / x.shape[1] + 1) ** 3).sum())

    n, m = len(a), len(b)
    within = (total(a, a) - own(a)) / (n * (n - 1)) + (total(b, b) - own(b)) / (m * (m - 1))
    return within - 2 * total(a, b) / (n * m)


def covered(generated: npt.NDArray[np.int64], real: npt.NDArray[np.int64], classes: int) -> int:
    """Return how many classes occur among generated images at least a fifth as often as among real ones.

    Args:
        generated: What each generated image is taken for, (N,).
        real: What each real image is taken for by the same network, (M,).
        classes: Number of classes.
    """
    shares = np.bincount(generated, minlength=classes) / len(generated)
    wanted = np.bincount(real, minlength=classes) / len(real)
    return int(((shares >= _RARE * wanted) & (shares > 0)).sum())


def nearest(features: Array, known: Array) -> npt.NDArray[np.float64]:
    """Return the distance of each row to the nearest of the known rows, (N,)."""
    rows, others = np.asarray(features, np.float32), np.asarray(known, np.float32)
    squares = (others**2).sum(axis=1)
    found = np.empty(len(rows))
    for at in range(0, len(rows), _BLOCK):
        block = rows[at : at + _BLOCK]
        apart = (block**2).sum(axis=1)[:, None] + squares - 2 * block @ others.T
        found[at : at + _BLOCK] = np.sqrt(np.clip(apart.min(axis=1), 0, None))
    return found
