"""Compares the images per second of this project's executor with the plain loop of Optuna's and Keras' examples.

Both train the same list of configurations on the same images for the same number of epochs; start-up time does not
count. The plain loop is one process that builds, compiles and fits one model after the other with Keras' defaults. The
executor is that of the search stage: one worker with one thread per core, and many steps per call. Prints both results
and their ratio, and writes them as JSON.

    python benchmarks/throughput.py [--images 30000] [--data data/prepared/mnist]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.backend import configure
from pipeline.datasets.arrays import Labelled, Splits, load_splits, save_splits
from pipeline.executors.base import Done, Failed
from pipeline.executors.local import LocalExecutor
from pipeline.models.base import Span, Spec
from pipeline.models.families.cnn.presets import PRESETS
from pipeline.models.loading import load
from pipeline.models.training import task
from pipeline.models.training.task import TrainingTask

EPOCHS = 2
_STACK = next(preset.hyperparameters for preset in PRESETS if preset.name == "R11")  # Adam at 1e-3, as in `plain`
CONFIGURATIONS: list[dict[str, Any]] = [
    {**_STACK, "plain_filters": filters, "plain_batch_norm": norm, "batch_size": batch}
    for filters in (16, 24)
    for norm in (True, False)
    for batch in (64, 128)
]
WARM_UP = {**CONFIGURATIONS[0], "plain_filters": 8}


def data(folder: Path | None, images: int) -> Splits:
    """Return MNIST from a prepared folder, or noise of the same shape: speed does not depend on pixel values."""
    if folder is not None:
        splits = load_splits(folder)
        return Splits(
            splits.train.take(np.arange(images)), splits.val.take(np.arange(1000)), splits.class_names, "bench"
        )
    random = np.random.default_rng(0)

    def noise(number: int) -> Labelled:
        pixels = random.integers(0, 256, (number, 28, 28, 1), dtype=np.uint8)
        return Labelled(pixels, random.integers(0, 10, number, dtype=np.int64))

    return Splits(noise(images), noise(1000), tuple("0123456789"), "bench")


def engine(splits: Splits, scratch: Path) -> float:
    """Return the duration on the executor in seconds, with workers already started."""
    save_splits(scratch / "data", splits)

    def rung(key: int, configuration: dict, epochs: int) -> TrainingTask:
        span = Span(0, epochs, epochs)
        return TrainingTask("cnn", {}, configuration, scratch / "data", 0, span, scratch / str(key), scratch / "log")

    with LocalExecutor(task.work("tensorflow"), configure.worker_environments(0)) as executor:
        run_all(executor, {-1 - slot: rung(-1 - slot, WARM_UP, 1) for slot in range(executor.slots)})
        started = time.monotonic()
        run_all(executor, {key: rung(key, one, EPOCHS) for key, one in enumerate(CONFIGURATIONS)})
        return time.monotonic() - started


def run_all(executor: LocalExecutor, rungs: dict[int, TrainingTask]) -> None:
    """Train every rung, and wait for all of them."""
    for key, rung in rungs.items():
        executor.submit(key, rung)
    left = set(rungs)
    while left:
        for event in executor.wait(1.0):
            if isinstance(event, Failed):
                raise SystemExit(event.reason)
            if isinstance(event, Done):
                left.discard(event.key)


def plain(splits: Splits) -> float:
    """Return the duration of the plain loop in seconds, after importing and warming up TensorFlow."""
    configure.configure("tensorflow")
    import keras

    family = load("cnn", {})
    images, labels = np.asarray(splits.train.images), np.asarray(splits.train.labels)
    validation = (np.asarray(splits.val.images), np.asarray(splits.val.labels))

    def train(configuration: dict, epochs: int) -> None:
        keras.backend.clear_session()
        model = family.build(configuration, Spec.of(splits))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(configuration["learning_rate"]), loss, metrics=["accuracy"])
        batch = configuration["batch_size"]
        model.fit(images, labels, batch_size=batch, epochs=epochs, validation_data=validation, verbose=0)

    train(WARM_UP, 1)
    started = time.monotonic()
    for configuration in CONFIGURATIONS:
        train(configuration, EPOCHS)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--data", type=Path, help="prepared MNIST; default: noise of the same shape")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "throughput.json")
    arguments = parser.parse_args()
    splits = data(arguments.data, arguments.images)
    trained = len(CONFIGURATIONS) * EPOCHS * len(splits.train)
    scratch = Path(tempfile.mkdtemp())
    try:
        ours = trained / engine(splits, scratch)
        theirs = trained / plain(splits)
    finally:
        shutil.rmtree(scratch)
    result = {
        "images_per_second": {"engine": round(ours), "plain_loop": round(theirs)},
        "throughput_ratio": ours / theirs,
    }
    print(f"engine     {ours:8,.0f} images/s\nplain loop {theirs:8,.0f} images/s\nratio      {ours / theirs:8.2f}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
