"""What a search will cost: its budget, and how far it will go into it by what an epoch was measured to take."""

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
    """What training took: seconds of an epoch on one worker, and bytes of a checkpoint."""

    epoch_s: float
    checkpoint_bytes: int


def remember(folder: Path, measured: Measured) -> None:
    """Leave in a study's folder what its training took, for the next study of the family."""
    write_json(folder / _FILE, asdict(measured))


def remembered(folders: Sequence[Path]) -> Measured | None:
    """Return what training took in the first of some studies that knows."""
    for path in (folder / _FILE for folder in folders):
        try:
            return Measured(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue  # it was killed early, or is of another version: an estimate is no reason to fail
    return None


def expected_epochs(budget: Budget, settings: SearchSettings, rungs: Sequence[int]) -> int:
    """Return about how many epochs a search will train: pruners keep a share of the trials at each rung."""
    kept = {"none": 1.0, "median": 0.5}.get(settings.pruner, 1 / settings.reduction)
    lengths = [end - start for start, end in zip([0, *rungs], rungs, strict=False)]
    per_trial = sum(length * kept**place for place, length in enumerate(lengths))
    return min(budget.epochs, round(budget.trials * per_trial))


def describe(budget: Budget, epochs: int, slots: int, measured: Measured | None) -> str:
    """Return the expected cost of a search, in words.

    Args:
        budget: Its limits.
        epochs: What it will train; see `expected_epochs`.
        slots: Workers.
        measured: What an epoch takes; None where it is not known yet.
    """
    limits = f"at most {budget.trials} trials, {budget.epochs} epochs and {budget.minutes:g} min on {slots} workers"
    if measured is None:
        return f"{limits}; the first rung will tell how long that takes"
    seconds = min(budget.minutes * 60, epochs * measured.epoch_s / slots)
    disk = slots * 2 * measured.checkpoint_bytes / 1e6  # a trial's last checkpoint, and the next as it is written
    return (
        f"{limits}; about {epochs} epochs of {measured.epoch_s:.1f} s each are expected: {_duration(seconds)},"
        f" {max(disk, 0.1):.1f} MB of checkpoints"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
