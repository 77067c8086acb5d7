"""Estimates the cost of a search from its budget and the measured duration of an epoch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.core.files import write_json
from pipeline.search.settings import Budget, SearchSettings

_FILE = "cost.json"


@dataclass(frozen=True)
class Measured:
    """Measured cost of training: seconds per epoch on one worker, and bytes per checkpoint."""

    epoch_s: float
    checkpoint_bytes: int


def remember(folder: Path, measured: Measured) -> None:
    """Store the measured cost in a study's folder, for the next study of the family."""
    write_json(folder / _FILE, asdict(measured))


def remembered(folders: Sequence[Path]) -> Measured | None:
    """Return the measured cost of the first study that has one, or None."""
    for path in (folder / _FILE for folder in folders):
        try:
            return Measured(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue  # the search was killed early or ran another version: a missing estimate must not fail this one
    return None


def expected_epochs(budget: Budget, settings: SearchSettings, rungs: Sequence[int]) -> int:
    """Return the approximate number of epochs of a search.

    Pruners keep a share of the trials at each rung. With halving, as many continue at the end as there are slots.
    """
    kept = {"none": 1.0, "median": 0.5}.get(settings.pruner, 1 / settings.reduction)
    least = min(settings.slots, budget.trials) if settings.pruner == "halving" else 0
    lengths = [end - start for start, end in zip([0, *rungs], rungs, strict=False)]
    epochs = sum(length * max(budget.trials * kept**place, least) for place, length in enumerate(lengths))
    return min(budget.epochs, round(epochs))


def describe(budget: Budget, epochs: int, slots: int, measured: Measured | None) -> str:
    """Return a description of the expected cost of a search.

    Args:
        budget: Limits of the search.
        epochs: Expected number of epochs; see `expected_epochs`.
        slots: Number of workers.
        measured: Measured cost of training; None if it is not known yet.
    """
    limits = f"at most {budget.trials} trials and {budget.epochs} epochs on {slots} workers"
    if measured is None:
        return f"{limits}; a time estimate follows after the first rung"
    seconds = epochs * measured.epoch_s / slots
    disk = slots * 2 * measured.checkpoint_bytes / 1e6  # a trial's last checkpoint, and the next while it is written
    return (
        f"{limits}; about {epochs} epochs of {measured.epoch_s:.1f} s each are expected: {duration(seconds)},"
        f" {max(disk, 0.1):.1f} MB of checkpoints"
    )


def duration(seconds: float) -> str:
    """Return a duration as text."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
