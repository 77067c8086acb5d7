"""A rung: some epochs of one training, as a task that any engine can run, anywhere, more than once.

Its result lies on disk beside its checkpoint, and both appear together or not at all. So a rung that was finished is
never computed again: not when the worker dies before it could answer, not when the parent dies before it listened.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.datasets.base import Splits, load_splits, new_folder
from pipeline.models import scale
from pipeline.models.base import Metrics, Span, TrainingError, load
from pipeline.models.space import Hyperparameters

_PICTURE = "samples.png"


@dataclass(frozen=True)
class Rung:
    """What to train, from which checkpoint, and where to leave the next one.

    Attributes:
        family: Name of the family.
        settings: Its section of params, as it was when the search started.
        hyperparameters: A point of its search space.
        data: Folder of the prepared dataset.
        seed: Seed of the training.
        span: Epochs to train now.
        folder: Where the checkpoints of this training lie, one folder per rung.
        ledger: File that gets a line ``training epoch`` for every epoch computed: what the search really cost.
        export: Whether to leave a folder ``model`` beside the checkpoint; see `exported_model`.
        features: Folder written by the stage `features`, for families that need it.
    """

    family: str
    settings: dict[str, Any]
    hyperparameters: Hyperparameters
    data: Path
    seed: int
    span: Span
    folder: Path
    ledger: Path
    export: bool = False
    features: Path | None = None


@dataclass(frozen=True)
class Trained:
    """What became of a rung: the metrics of its epochs, and the number of parameters of the model.

    Attributes:
        pictures: Files that show what the model gives after its last epoch; there until the next rung is finished.
    """

    epochs: list[Metrics]
    parameters: int
    pictures: list[str] = field(default_factory=list)


def run(rung: Rung, emit: Callable[[Metrics], None]) -> Trained:
    """Train a rung, or find it trained already, and return its metrics.

    Raises:
        TrainingError: These hyperparameters cannot be trained.
    """
    finished = _checkpoint(rung.folder, rung.span.stop)
    if not finished.exists():
        _train(rung, finished, emit)
    trained = Trained(**json.loads((finished / "trained.json").read_text()))
    _remove_older(rung.folder, finished)
    return trained


def exported_model(rung: Rung) -> Path:
    """Return the folder of files that a rung with `export` leaves: what the family's serving code loads."""
    return _checkpoint(rung.folder, rung.span.stop) / "model"


def _train(rung: Rung, finished: Path, emit: Callable[[Metrics], None]) -> None:
    def on_epoch(metrics: Metrics) -> None:
        with rung.ledger.open("a") as ledger:  # one short append: whole lines even from several processes
            ledger.write(f"{rung.folder.name} {int(metrics['epoch'])}\n")
        emit(metrics)

    family = load(rung.family, rung.settings)
    if family.needs_scale and rung.features is not None:
        family.scale = scale.load(rung.features)
    version = (rung.data / "meta.json").stat().st_mtime_ns
    state = _checkpoint(rung.folder, rung.span.start) / "state.npz" if rung.span.start else None
    rung.folder.mkdir(parents=True, exist_ok=True)
    try:
        fitted = family.fit(
            rung.hyperparameters,
            _load_data(rung.data, version),
            rung.span,
            seed=rung.seed,
            state=state,
            on_epoch=on_epoch,
        )
    except (MemoryError, ValueError) as error:  # Keras raises ValueError for impossible shapes
        raise TrainingError(f"{type(error).__name__}: {error}") from error
    with new_folder(finished) as partial:
        fitted.save_state(partial / "state.npz")
        if rung.export:
            (partial / "model").mkdir()
            fitted.export(partial / "model")
        drawn = [str(finished / _PICTURE)] if fitted.draw(partial / _PICTURE) else []
        trained = Trained(fitted.history, fitted.parameters, drawn)
        (partial / "trained.json").write_text(json.dumps(asdict(trained)))


@functools.lru_cache(maxsize=1)
def _load_data(folder: Path, version: int) -> Splits:  # version: a dataset prepared anew is loaded anew
    del version
    return load_splits(folder)


def _checkpoint(folder: Path, epochs: int) -> Path:
    return folder / f"epoch-{epochs:04d}"


def _remove_older(folder: Path, newest: Path) -> None:
    """Keep one checkpoint per training, so that disk use stays bounded."""
    for older in folder.glob("epoch-*"):
        if older < newest:
            shutil.rmtree(older, ignore_errors=True)
