"""What a batch must meet before anything learns from it: the gate's bounds, and likeness to the reference.

Three of the checks need the reference: no image of the batch may be in test, hardly any in train already; each
channel must be about as bright; and labels must mean what they mean there. All of them are coarse on purpose: they
catch swapped channels, inverted pixels and labels that are numbered otherwise, not drift that models could learn from.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline import gate
from pipeline.accepted import digests
from pipeline.datasets.base import Images, Labelled, RawImages
from pipeline.gate import Outcome, Settings

_DRIFT = 0.5  # a channel's mean may lie off by this many standard deviations of an image's mean (chosen) …
_CHANCE = 4.0  # … and by this many standard errors of the batch's mean
_MOST_COMPARED = 10_000  # reference images; more make the likeness no sharper
_SURPRISE = 1e-6  # a class is refused when labels as right as the reference's would look so odd so rarely


@dataclass(frozen=True)
class Verdict:
    """Why a batch is refused (nothing: it is accepted), and what the gate observed."""

    reasons: tuple[str, ...]
    outcomes: tuple[Outcome, ...] = ()


def judge(dataset: str, batch: Labelled, reference: RawImages, settings: Settings) -> Verdict:
    """Return every reason against a batch.

    Args:
        dataset: Whose bounds of `settings` count.
        batch: Images of the reference's shape, labels within its classes.
        reference: The dataset as it is now, accepted batches included in train.
        settings: Section ``validate``; what it says of counts per class does not hold for a batch.
    """
    outcomes = _gate(dataset, batch, len(reference.class_names), settings)
    reasons = [_told(outcome) for outcome in outcomes if not outcome.passed]
    reasons += _copies(batch, reference, settings.max_duplicates)
    if not reasons:  # statistics of blank or foreign images would only repeat that
        reasons += [*_channels(batch.images, reference.train.images), *_classes(batch, reference)]
    return Verdict(tuple(reasons), outcomes)


def _gate(dataset: str, batch: Labelled, classes: int, settings: Settings) -> tuple[Outcome, ...]:
    table = gate.image_table({"train": batch})
    with tempfile.TemporaryDirectory() as docs:
        found = gate.check(table, settings, dataset, classes, Path(docs), splits=("train",))
    return tuple(outcome for outcome in found if not outcome.name.startswith("class-"))  # a batch may lack classes


def _told(outcome: Outcome) -> str:
    rows = ", ".join(example.replace("train[", "image [") for example in outcome.examples)
    seen = ", ".join(f"{key} {value:g}" for key, value in outcome.observed.items())
    count = f"{outcome.unexpected_count:,} unexpected ({rows}); " if rows else ""
    name = outcome.name.removesuffix("-train")
    return f"expectation {name!r}: expected {outcome.expected.replace(' of train', '')}, found {count}{seen}"


def _copies(batch: Labelled, reference: RawImages, most_known: float) -> list[str]:
    own = digests(batch.images)
    in_test, in_train = set(digests(reference.test.images)), set(digests(reference.train.images))
    leaked = [index for index, digest in enumerate(own) if digest in in_test]
    known = [index for index, digest in enumerate(own) if digest in in_train]
    reasons = []
    if leaked:
        found = f"{len(leaked):,} of {len(own):,}, the first at {leaked[0]}"
        reasons.append(f"images of the test split: expected none, found {found}")
    if len(known) > most_known * len(own):
        found = f"{len(known):,} of {len(own):,}, the first at {known[0]}"
        reasons.append(f"images that are in train already: expected at most {most_known:g} of the batch, found {found}")
    return reasons


def _channels(images: Images, reference: Images) -> list[str]:
    """Compare the mean of every channel."""
    known, own = (part.mean(axis=(1, 2), dtype=np.float64) for part in (reference[:_MOST_COMPARED], images))
    spread = known.std(axis=0)
    off = np.abs(own.mean(axis=0) - known.mean(axis=0))
    allowed = spread * (_DRIFT + _CHANCE / np.sqrt(len(own)))
    return [
        f"mean of channel {channel}: expected {known[:, channel].mean():.1f} ± {allowed[channel]:.1f} as in the"
        f" reference, found {own[:, channel].mean():.1f}"
        for channel in np.flatnonzero(off > allowed)
    ]


def _classes(batch: Labelled, reference: RawImages) -> list[str]:
    """Compare how often images lie nearest to the mean image of their class; classes that blur into one say nothing."""
    from scipy.special import bdtr

    names = reference.class_names
    known = Labelled(reference.train.images[:_MOST_COMPARED], reference.train.labels[:_MOST_COMPARED])
    flat = known.images.reshape(len(known), -1).astype(np.float32)
    present = [label for label in range(len(names)) if (known.labels == label).any()]
    centres = np.stack([flat[known.labels == label].mean(axis=0) for label in present])
    nearest = np.array(present)
    of_known = nearest[_closest(flat, centres)]
    of_batch = nearest[_closest(batch.images.reshape(len(batch), -1).astype(np.float32), centres)]
    reasons = []
    for label in np.unique(batch.labels):
        mine = of_batch[batch.labels == label]
        usual = float((of_known[known.labels == label] == label).mean()) if label in present else 0.0
        agree = int((mine == label).sum())
        if agree < usual * len(mine) / 2 and bdtr(agree, len(mine), usual) < _SURPRISE:
            most = names[np.bincount(mine).argmax()]
            reasons.append(
                f"class {names[label]!r} does not look like itself: expected about {usual:.0%} of its images nearest to"
                f" its mean image as in the reference, found {agree} of {len(mine)}; most look like {most!r}"
            )
    return reasons


def _closest(flat: npt.NDArray[np.float32], centres: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the row of the nearest centre; |x|² is the same for all, so it is left out."""
    distances = (centres * centres).sum(axis=1) - 2 * flat @ centres.T
    return np.asarray(distances.argmin(axis=1), np.int64)
