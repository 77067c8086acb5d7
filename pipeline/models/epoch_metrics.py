"""The metrics of one epoch: a typed record in memory, a flat mapping of numbers on disk and in a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class EpochMetrics:
    """The metrics of one epoch of a training.

    Example: ``epoch["val_loss"]`` is a metric by its name, the same as ``epoch.values["val_loss"]``.

    Attributes:
        epoch: Its number, from 1.
        values: The metrics by name, such as ``loss`` and ``val_accuracy``.
        seconds: How long it took, scoring included.
        at: When it ended, in seconds since 1970.
        stopped: Whether the training ended with it, before its last epoch and for good.
    """

    epoch: int
    values: Mapping[str, float]
    seconds: float
    at: float
    stopped: bool = False

    def __getitem__(self, name: str) -> float:
        """Return a metric by its name."""
        return self.values[name]

    def flat(self) -> dict[str, float]:
        """Return the record as one mapping of numbers, the form of JSON files, of studies and of MLflow."""
        stopped = {"stopped": 1.0} if self.stopped else {}
        return {"epoch": self.epoch, **self.values, "seconds": self.seconds, "at": self.at, **stopped}

    @classmethod
    def from_flat(cls, flat: Mapping[str, float]) -> Self:
        """Return the record that `flat` wrote.

        Raises:
            KeyError: It lacks the number of the epoch, its duration or its time.
        """
        values = dict(flat)
        epoch, seconds, at = (values.pop(name) for name in ("epoch", "seconds", "at"))
        stopped = bool(values.pop("stopped", 0.0))
        return cls(int(epoch), values, seconds, at, stopped)
