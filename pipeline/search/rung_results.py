"""The recorded results of a study's rungs: the only truth about it, from which everything else is computed.

A file for each rung, ``results/trial-00003/epoch-0009.json``, appears whole or not at all, and never changes. The
search itself is a function of these files and of its settings; so it can be replayed after a kill, or with a larger
budget.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import EngineError
from pipeline.core.files import write_json, write_text
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.values import Hyperparameters

FOLDER = "results"
_POINT = "point.json"
_ELAPSED = "elapsed.json"


@dataclass(frozen=True)
class RungResult:
    """What training a rung has given.

    Attributes:
        epochs: Metrics of the rung's epochs; empty if it failed.
        measured: Measurements of the model, by name.
        worker: Name of the worker.
        failed: Why the rung could not be trained; empty if it was.
        disturbed: Whether it may be due to the machine: memory ran out, workers died, or it was trained on a device of
            another class than the study's.
    """

    epochs: list[EpochMetrics] = field(default_factory=list)
    measured: Mapping[str, float] = field(default_factory=dict)
    worker: str = ""
    failed: str = ""
    disturbed: bool = False


class RungResults:
    """The results of one study, in its folder. The caller must hold the study's lock.

    Args:
        study: Folder of the study.
    """

    def __init__(self, study: Path) -> None:
        self._study = study
        self._folder = study / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[tuple[int, int], RungResult] = {}

    def claim(self, number: int, point: Hyperparameters) -> None:
        """Begin a trial with some hyperparameters; results of another point under its number are removed."""
        folder = self._folder / _name(number)
        try:
            same = json.loads((folder / _POINT).read_text(encoding="utf-8")) == point
        except (OSError, ValueError):
            same = False
        if not same:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(self.checkpoints(number), ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(folder / _POINT, point)

    def get(self, number: int, stop: int) -> RungResult | None:
        """Return the result of the rung of a trial that ends at an epoch; None if it has not been trained.

        Raises:
            EngineError: The file cannot be read as a result.
        """
        if (number, stop) not in self._known:
            path = self._path(number, stop)
            try:
                self._known[number, stop] = _read(path)
            except FileNotFoundError:
                return None
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise EngineError(
                    f"{path}: not the result of a rung",
                    found=f"{type(error).__name__}: {error}",
                    next_step="remove this file: the rung is trained again",
                ) from error
        return self._known[number, stop]

    def put(self, number: int, stop: int, result: RungResult) -> None:
        """Record the result of a rung."""
        content = {**vars(result), "epochs": [epoch.flat() for epoch in result.epochs]}
        write_text(self._path(number, stop), json.dumps(content, indent=1))  # a metric may be no number
        self._known[number, stop] = result

    def checkpoints(self, number: int) -> Path:
        """Return the folder of a trial's checkpoints."""
        return self._study / "checkpoints" / _name(number)

    @property
    def elapsed_s(self) -> float:
        """Wall time of all processes that have searched, in seconds."""
        try:
            return float(json.loads((self._study / _ELAPSED).read_text(encoding="utf-8"))["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0  # a figure for people only: nothing is decided by it

    @elapsed_s.setter
    def elapsed_s(self, seconds: float) -> None:
        write_json(self._study / _ELAPSED, {"seconds": round(seconds, 1)})

    def _path(self, number: int, stop: int) -> Path:
        return self._folder / _name(number) / f"epoch-{stop:04d}.json"


def _name(number: int) -> str:
    return f"trial-{number:05d}"


def _read(path: Path) -> RungResult:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return RungResult(**{**content, "epochs": [EpochMetrics.from_flat(epoch) for epoch in content["epochs"]]})
