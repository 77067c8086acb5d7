"""What a batch must meet before anything learns from it: the gate, and what only train's images can tell.

The gate judges a batch by itself, by the scale that train sets, and against test. Here it is compared with the images
of train: hardly any of them may be there already, and labels must mean what they mean there. That is coarse on purpose:
it catches labels that are numbered otherwise, not a wrong one here and there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.validate import Reference
from pipeline.datasets.arrays import Images, Labelled, RawImages
from pipeline.validation import suites
from pipeline.validation.expectations import Outcome
from pipeline.validation.suites import ValidateSettings

_MOST_COMPARED = 10_000  # images of train; more make the likeness no sharper
_MEANS = {  # expectations whose names do not say it
    "label": "labels that are no class",
    "contrast": "blank images",
    "repeats-batch": "images that occur twice in the batch",
    "near-batch": "images that look the same within the batch",
    "leaked-batch": "images that are in test",
    "near-leaked-batch": "images that look the same as one in test",
    "class-shift": "classes whose levels are not those of train",
    "mean-batch": "images darker or lighter than those of train",
    "std-batch": "images of less or more contrast than those of train",
    "ink-batch": "images with less or more ink than those of train",
    "saturation-batch": "images of less or more colour than those of train",
    "clipped-batch": "images with more or fewer white pixels than those of train",
}
_LEAST_LIKE = 0.25  # of the usual share; measured: digits a pixel aside keep 0.4 of it, those of another class nothing
_SURPRISE = 1e-6  # a class is refused when labels as right as those of train would look so odd so rarely


@dataclass(frozen=True)
class BatchDecision:
    """Why a batch is refused (nothing: it is accepted), and what the gate observed."""

    reasons: tuple[str, ...]
    outcomes: tuple[Outcome, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The expectations that were not met, and stop nothing."""
        return tuple(outcome.name for outcome in self.outcomes if not outcome.passed and not outcome.stops)


def judge(
    dataset: str, batch: Labelled, known: RawImages, scale: Reference, settings: ValidateSettings
) -> BatchDecision:
    """Return every reason against a batch.

    Args:
        dataset: Which one the batch wants to join.
        batch: At least one image.
        known: The dataset as it is now, accepted batches included in train.
        scale: What the report of validate says that train is like.
        settings: Section ``validate`` of params.
    """
    outcomes = tuple(
        suites.check_batch(batch, known.test, scale, settings, dataset, len(known.class_names), docs_folder=None)
    )
    reasons = [_told(outcome) for outcome in outcomes if outcome.stops]
    if not reasons:  # so the batch has labels and a shape that can be compared
        reasons = [*_taken(batch.images, known.train.images, settings.max_duplicates), *_meanings(batch, known)]
    return BatchDecision(tuple(reasons), outcomes)


def _told(outcome: Outcome) -> str:
    rows = ", ".join(f"{'class' if outcome.of_classes else 'image'} {index}" for _, index in outcome.rows[:10])
    seen = ", ".join(f"{key} {value:g}" for key, value in outcome.observed.items() if key != "unexpected")
    found = "; ".join(told for told in (f"{outcome.unexpected_count:,} ({rows})" if rows else "", seen) if told)
    means = _MEANS.get(outcome.name, f"expectation {outcome.name!r}")
    return f"{means} ({outcome.name}): expected {outcome.expected}, found {found}"


def _taken(images: Images, train: Images, most: float) -> list[str]:
    """Count the images that are in train already: they would weigh double."""
    there = set(_digests(train))
    again = [index for index, digest in enumerate(_digests(images)) if digest in there]
    if len(again) <= most * len(images):
        return []
    found = f"{len(again):,} of {len(images):,}, the first at {again[0]}"
    return [f"images that are in train already: expected at most {most:g} of the batch, found {found}"]


def _digests(images: Images) -> list[bytes]:
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]


def _meanings(batch: Labelled, known: RawImages) -> list[str]:
    """Compare how often images lie nearest to the mean image of their class; classes that blur into one say nothing."""
    from scipy.special import bdtr

    names = known.class_names
    step = -(-len(known.train) // _MOST_COMPARED)
    train = Labelled(known.train.images[::step], known.train.labels[::step])
    flat = train.images.reshape(len(train), -1).astype(np.float32)
    present = np.unique(train.labels)
    centres = np.stack([flat[train.labels == label].mean(axis=0) for label in present])
    of_train = present[_closest(flat, centres)]
    of_batch = present[_closest(batch.images.reshape(len(batch), -1).astype(np.float32), centres)]
    reasons = []
    for label in np.unique(batch.labels):
        mine = of_batch[batch.labels == label]
        usual = float((of_train[train.labels == label] == label).mean()) if label in present else 0.0
        agree = int((mine == label).sum())
        if agree < usual * len(mine) * _LEAST_LIKE and bdtr(agree, len(mine), usual) < _SURPRISE:
            most = names[np.bincount(mine).argmax()]
            reasons.append(
                f"class {names[label]!r} does not look like itself: expected about {usual:.0%} of its images nearest to"
                f" its mean image as in train, found {agree} of {len(mine)}; most look like {most!r}"
            )
    return reasons


def _closest(flat: npt.NDArray[np.float32], centres: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the row of the nearest centre; |x|² is the same for all, so it is left out."""
    distances = (centres * centres).sum(axis=1) - 2 * flat @ centres.T
    return np.asarray(distances.argmin(axis=1), np.int64)
