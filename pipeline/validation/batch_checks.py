"""Checks of an incoming batch: the expectations of the gate, and comparisons with the images of train.

The gate checks a batch on its own, against the reference of train, and against test. This module also compares it with
the images of train: few of them may be in train already, and labels must have the same meaning as in train. The label
check is coarse on purpose: it detects a different numbering of classes, not single wrong labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.validate import Reference
from pipeline.core import params
from pipeline.datasets.arrays import Labelled, RawImages, image_digests
from pipeline.validation import suites
from pipeline.validation.expectations import Outcome
from pipeline.validation.naming import Names
from pipeline.validation.suites import ValidateSettings

_MOST_COMPARED = 10_000  # images of train; more do not make the comparison more precise. Of a batch, at a time
_DESCRIPTIONS = {  # of expectations whose names do not explain themselves
    "label": "labels that are not classes",
    "contrast": "blank images",
    "repeats-batch": "images that occur twice in the batch",
    "near-batch": "images that look the same within the batch",
    "leaked-batch": "images that are in test",
    "near-leaked-batch": "images that look the same as one in test",
    "two-classes": "images that are in the batch or the dataset under another class",
    "class-shift": "classes whose levels differ from train",
    "mean-batch": "images darker or lighter than those of train",
    "std-batch": "images with less or more contrast than those of train",
    "ink-batch": "images with less or more ink than those of train",
    "roughness-batch": "images smoother or noisier than those of train",
    "entropy-batch": "images with fewer or more grey levels than those of train",
    "negative-batch": "images that look like negatives of the others",
    "saturation-batch": "images with less or more colour than those of train",
    "clipped-batch": "images with more or fewer white pixels than those of train",
}
_LEAST_LIKE = 0.25  # of the usual share; measured: digits shifted by a pixel keep 0.4 of it, another class none
_SURPRISE = 1e-6  # a class is rejected if labels as correct as in train would give its result with a lower probability


@dataclass(frozen=True)
class BatchDecision:
    """The reasons to reject a batch (empty if it is accepted), and the outcomes of the gate."""

    reasons: tuple[str, ...]
    outcomes: tuple[Outcome, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The names of failed expectations that do not reject the batch."""
        return tuple(outcome.name for outcome in self.outcomes if not outcome.passed and not outcome.stops)


def judge(
    dataset: str,
    batch: Labelled,
    known: RawImages,
    scale: Reference,
    settings: ValidateSettings,
    params_file: Path = params.PARAMS_FILE,
) -> BatchDecision:
    """Return the decision on a batch, with every reason to reject it.

    Args:
        dataset: The name of the dataset to add the batch to.
        batch: At least one image.
        known: The current dataset, with accepted batches in train.
        scale: The reference of train in the report of `validate`.
        settings: Section ``validate`` of params.
        params_file: The params file, whose lines the reasons name.
    """
    checked = suites.check_batch(batch, known, scale, settings, dataset, docs_folder=None)
    outcomes = suites.with_settings(checked, params_file)
    stopping = [outcome for outcome in outcomes if outcome.stops]
    reasons = [_reason(outcome) for outcome in stopping]
    if not reasons:
        reasons += _in_train(batch, known, settings.max_duplicates)
    if all(outcome.name == "two-classes" for outcome in stopping):  # then labels and shapes are comparable
        reasons += _label_mismatches(batch, known)  # whether classes are numbered otherwise explains two-classes, too
    return BatchDecision(tuple(reasons), outcomes)


def _reason(outcome: Outcome) -> str:
    """Return the message about an expectation that was not met."""
    description = _DESCRIPTIONS.get(outcome.name, f"expectation {outcome.name!r}")
    return f"{description} ({outcome.name}): expected {outcome.wanted}, found {outcome.found}"


def _in_train(batch: Labelled, known: RawImages, most: float) -> list[str]:
    """Report images that are in train already: they would count twice."""
    places = {digest: index for index, digest in enumerate(image_digests(known.train.images))}
    repeated = [(places[digest], index) for index, digest in enumerate(image_digests(batch.images)) if digest in places]
    if len(repeated) <= most * len(batch):
        return []
    names = Names({"train": known.train, suites.BATCH: batch}, known.class_names)
    pairs = [f"{names.image('train', one)} and {names.image(suites.BATCH, other)}" for one, other in repeated[:5]]
    more = ", …" if len(repeated) > len(pairs) else ""
    found = f"{len(repeated):,} of {len(batch):,}: {', '.join(pairs)}{more}"
    return [f"images that are in train already: expected at most {most:g} of the batch, found {found}"]


def _label_mismatches(batch: Labelled, known: RawImages) -> list[str]:
    """Report classes whose images are nearest to the mean image of their class much less often than in train.

    Classes with similar mean images are not reported: their share is low in train too.
    """
    from scipy.special import bdtr

    names = known.class_names
    step = -(-len(known.train) // _MOST_COMPARED)
    train = Labelled(known.train.images[::step], known.train.labels[::step])
    flat = train.images.reshape(len(train), -1).astype(np.float32)
    present = np.unique(train.labels)
    centres = np.stack([flat[train.labels == label].mean(axis=0) for label in present])
    of_train = present[_closest(flat, centres)]
    steps = [batch.images[at : at + _MOST_COMPARED] for at in range(0, len(batch), _MOST_COMPARED)]
    of_step = [_closest(step.reshape(len(step), -1).astype(np.float32), centres) for step in steps]
    of_batch = present[np.concatenate(of_step)]
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
    """Return the row of the nearest centre; |x|² is omitted because it is the same for all centres."""
    distances = (centres * centres).sum(axis=1) - 2 * flat @ centres.T
    return np.asarray(distances.argmin(axis=1), np.int64)
