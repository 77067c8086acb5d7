"""A training task: some epochs of one training, which any executor can run, anywhere, more than once.

Its result lies on disk beside its checkpoint, and both appear together or not at all. So a finished task is never
computed again, whether the worker dies before it returns the result or the parent before it reads it.
"""

from __future__ import annotations

import functools
import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.backend.mixed_precision import device_class
from pipeline.core.files import new_folder
from pipeline.core.seeds import fold
from pipeline.datasets.arrays import Splits, load_splits
from pipeline.evaluation import feature_network
from pipeline.executors.base import Work
from pipeline.models.base import Fitted, Span, TrainingError
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.loading import load
from pipeline.models.values import Hyperparameters

_LATENCY_CALLS = 40
_PICTURE = "samples.png"


@dataclass(frozen=True)
class TrainingTask:
    """What to train, from which checkpoint, and where to leave the next one.

    Attributes:
        family: Name of the family.
        settings: Its section of params, as it was when the search started.
        hyperparameters: A point of its search space.
        data: Folder of the prepared dataset.
        seed: Seed of the training.
        span: Epochs to train now.
        folder: Where the checkpoints of this training lie, one folder per task.
        ledger: File that gets a line ``training epoch`` for every epoch computed: the actual cost of the search.
        export: Whether to leave a folder ``model`` beside the checkpoint when the training ends; see `exported_model`.
        latency: Whether to measure how long the model takes to label one image.
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
    latency: bool = False
    features: Path | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Folders that it reads."""
        return (self.data,) if self.features is None else (self.data, self.features)

    def placed(self, inputs: Sequence[Path], folder: Path, ledger: Path) -> TrainingTask:
        """Return the same task with its files elsewhere: an executor may carry it to another machine."""
        features = None if self.features is None else inputs[1]
        return replace(self, data=inputs[0], features=features, folder=folder, ledger=ledger)


@dataclass(frozen=True)
class TaskResult:
    """The result of a task.

    Attributes:
        epochs: Their metrics.
        parameters: Of the model.
        latency_ms: Latency of predicting one image, if it was measured.
        checkpoint_bytes: Size of its checkpoint.
        pictures: Files in the task's folder that show what the model gives after its last epoch; there until the next
            task is finished.
        device: Class of the device that trained it; see `mixed_precision.device_class`.
    """

    epochs: list[EpochMetrics]
    parameters: int
    latency_ms: float | None = None
    checkpoint_bytes: int = 0
    pictures: list[str] = field(default_factory=list)
    device: str = ""

    def measured(self) -> dict[str, float]:
        """Return the measurements of the model, by name."""
        known = {"parameters": self.parameters, "latency_ms": self.latency_ms}
        return {name: value for name, value in known.items() if value is not None}

    def plain(self) -> dict[str, Any]:
        """Return the result in the form of its JSON file, ``trained.json``."""
        return {**vars(self), "epochs": [epoch.flat() for epoch in self.epochs]}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the result that a file holds.

        Raises:
            OSError: The file cannot be read.
            ValueError, KeyError, TypeError: It holds something else.
        """
        plain = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**plain, "epochs": [EpochMetrics.from_flat(epoch) for epoch in plain["epochs"]]})


def work(backend: str) -> Work:
    """Return what workers do: `run` tasks, with Keras set up for a backend and one thread.

    Importing TensorFlow starts no thread, so workers may be forked from a process that has imported it. JAX warns of
    forks, and with PyTorch they have not been tried.
    """
    return Work(
        "pipeline.models.training.task:run",
        "pipeline.backend.configure:configure",
        {"backend": backend, "threads": 1},
        forkable=backend == "tensorflow",
    )


def run(task: TrainingTask, emit: Callable[[EpochMetrics], None]) -> TaskResult:
    """Train a task, or find it trained already, and return its result.

    Raises:
        TrainingError: These hyperparameters cannot be trained.
    """
    finished = _checkpoint(task.folder, task.span.stop)
    if not finished.exists():
        _train(task, finished, emit)
    trained = TaskResult.read(finished / "trained.json")
    _remove_older(task.folder, finished)
    return trained


def exported_model(task: TrainingTask) -> Path:
    """Return the folder of files that a task with `export` leaves: what the family's serving code loads."""
    return _checkpoint(task.folder, task.span.stop) / "model"


def _train(task: TrainingTask, finished: Path, emit: Callable[[EpochMetrics], None]) -> None:
    def on_epoch(metrics: EpochMetrics) -> None:
        with task.ledger.open(
            "a", encoding="utf-8"
        ) as ledger:  # one short append: whole lines even from several processes
            ledger.write(f"{task.folder.name} {metrics.epoch}\n")
        emit(metrics)

    family = load(task.family, task.settings)
    if family.needs_feature_network and task.features is not None:
        family.feature_network = feature_network.load(task.features)
    version = (task.data / "meta.json").stat().st_mtime_ns
    state = _checkpoint(task.folder, task.span.start) / "state.npz" if task.span.start else None
    span = task.span
    if state is not None and not state.exists():  # lost: the same epochs from the beginning give the same weights
        state, span = None, replace(span, start=0)
    task.folder.mkdir(parents=True, exist_ok=True)
    try:
        fitted = family.fit(
            task.hyperparameters,
            _load_data(task.data, version),
            span,
            seed=fold(task.seed),
            state=state,
            on_epoch=on_epoch,
        )
    except Exception as error:
        if _out_of_memory(error):
            raise TrainingError("out of memory", found=_first_line(error)) from error
        if isinstance(error, ValueError):  # Keras raises it for impossible shapes
            raise TrainingError("the model cannot be built or trained", found=_first_line(error)) from error
        raise
    with new_folder(finished) as partial:
        fitted.save_state(partial / "state.npz")
        if task.export and (span.stop == span.total or fitted.history[-1].stopped):
            (partial / "model").mkdir()
            fitted.export(partial / "model")
        latency = _latency_ms(fitted, _load_data(task.data, version)) if task.latency else None
        size = (partial / "state.npz").stat().st_size
        drawn = [f"{finished.name}/{_PICTURE}"] if fitted.draw(partial / _PICTURE) else []
        trained = TaskResult(fitted.history, fitted.parameters, latency, size, drawn, _device_class())
        (partial / "trained.json").write_text(json.dumps(trained.plain()), encoding="utf-8")


def _out_of_memory(error: Exception) -> bool:
    """Return whether an error of any backend means out of memory; by name, as only one backend is installed."""
    kinds = ("ResourceExhausted", "OutOfMemory")
    signs = ("RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory", "not enough memory")
    named = any(kind in base.__name__ for base in type(error).__mro__ for kind in kinds)
    return named or isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0][:300]


def _latency_ms(fitted: Fitted, data: Splits) -> float:
    """Return the median time to predict one image, after the calls in which the backend prepares itself."""
    image = np.asarray(data.val.images[:1])
    taken = []
    for _ in range(_LATENCY_CALLS):
        started = time.perf_counter()
        fitted.answer(image)
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken[_LATENCY_CALLS // 4 :])


@functools.lru_cache(maxsize=1)
def _load_data(folder: Path, version: int) -> Splits:  # version: a dataset prepared anew is loaded anew
    del version
    return load_splits(folder)


_device_class = functools.cache(device_class)


def _checkpoint(folder: Path, epochs: int) -> Path:
    return folder / f"epoch-{epochs:04d}"


def _remove_older(folder: Path, newest: Path) -> None:
    """Keep one checkpoint per training, so that disk use stays bounded."""
    for older in folder.glob("epoch-*"):
        if older < newest:
            shutil.rmtree(older, ignore_errors=True)
