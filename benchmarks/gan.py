"""Compares the published reference GAN with ours, at equal training time and with one feature network.

For every batch, the published loop generates fakes with `predict` and calls `train_on_batch` twice. Ours is one model
with plain `fit()`. There are three trainings: the published loop; its networks (preset R19) in our model, for the same
number of steps, to compare the time per step; and our own networks, for the same number of seconds. All are scored by
the same network against the same validation images. Times are processor times, so that other load on the machine does
not matter. Prints the figures, and writes them as JSON, with a sheet of samples for each training.

    python benchmarks/gan.py --data data/prepared/mnist --features data/features/mnist/gan [--epochs 5]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.backend import configure
from pipeline.datasets.arrays import Splits, load_splits
from pipeline.evaluation import feature_network
from pipeline.models import loading
from pipeline.models.base import Span
from pipeline.models.families.gan import family as gan
from pipeline.models.families.gan.family import FittedGan, score

OURS: dict[str, Any] = {
    "architecture": "dcgan", "width": 32, "latent": 64, "conditional": True, "loss": "non_saturating", "penalty": 0.5,
    "average": 0.995, "learning_rate": 1e-3, "beta_1": 0.5, "beta_2": 0.99, "batch_size": 64,
}  # fmt: skip
BATCH, LATENT = 64, 100


def published(images: np.ndarray, epochs: int) -> tuple[Any, float, int]:
    """Return the generator that the published loop trains, the seconds it took, and its steps."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    shape = images.shape[1:]
    generator = keras.Sequential(
        [
            keras.Input((LATENT,)),
            layers.Dense(256, activation="relu"),
            layers.Dense(int(np.prod(shape)), activation="sigmoid"),
            layers.Reshape(shape),
        ]
    )
    discriminator = keras.Sequential(
        [
            keras.Input(shape),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    discriminator.compile("adam", "binary_crossentropy")
    truth = np.concatenate([np.ones((BATCH, 1)), np.zeros((BATCH, 1))])
    real = images / np.float32(255)
    # Train once before freezing it for the combined model: if frozen first, Keras 3 would never train it.
    discriminator.train_on_batch(np.concatenate([real[:BATCH], real[:BATCH]]), truth)
    discriminator.trainable = False
    combined = keras.Sequential([generator, discriminator])
    combined.compile("adam", "binary_crossentropy")
    random, steps = np.random.default_rng(0), 0
    started = time.process_time()
    for _ in range(epochs):
        order = random.permutation(len(real))
        for at in range(0, len(real) - BATCH + 1, BATCH):
            fakes = generator.predict(random.standard_normal((BATCH, LATENT)), verbose=0)
            discriminator.train_on_batch(np.concatenate([real[order[at : at + BATCH]], fakes]), truth)
            combined.train_on_batch(random.standard_normal((BATCH, LATENT)), np.ones((BATCH, 1)))
            steps += 1
    return generator, time.process_time() - started, steps


class Timed:
    """A function that measures the processor time of its calls, in seconds."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *arguments: Any) -> Any:
        started = time.process_time()
        try:
            return self._function(*arguments)
        finally:
            self.seconds += time.process_time() - started


def ours(
    hyperparameters: dict[str, Any], data: Splits, fixed: feature_network.FeatureNetwork, *, epochs: int, seconds: float
) -> tuple[Any, float, int]:
    """Return the result of our family's training, its seconds without scoring, and its steps.

    Args:
        hyperparameters: A point of the family's space.
        data: Train and validation splits.
        fixed: The feature network.
        epochs: Number of epochs to train in one call; 0 to train single epochs until the time is over. Then rebuilding
            the model for each epoch counts as training time.
        seconds: Time limit.
    """
    family = loading.load("gan", {})
    family.feature_network = fixed
    spent, epoch, fitted = 0.0, 0, None
    with tempfile.TemporaryDirectory() as folder, patch.object(gan, "score", Timed(score)) as scoring:
        state = Path(folder) / "state.npz"
        while epoch < (epochs or np.inf) and spent < seconds:
            span = Span(epoch, epoch + (epochs or 1), epochs or epoch + 1)
            started, scored = time.process_time(), scoring.seconds
            fitted = family.fit(
                hyperparameters, data, span, seed=0, state=state if epoch else None, on_epoch=lambda _: None
            )
            spent += time.process_time() - started - (scoring.seconds - scored)
            fitted.save_state(state)
            epoch = span.stop
            print(f"  epoch {epoch}, {spent:.0f} s: FID {fitted.history[-1]['val_fid']:.2f}", flush=True)
    return fitted, spent, epoch * -(-len(data.train) // int(hyperparameters["batch_size"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="prepared MNIST")
    parser.add_argument("--features", type=Path, required=True, help="folder written by the stage features")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of the published loop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gan.json")
    arguments = parser.parse_args()
    configure.configure("tensorflow", threads=arguments.threads)
    data, fixed = load_splits(arguments.data), feature_network.load(arguments.features)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {}

    def report(name: str, generator: Any, seconds: float, steps: int) -> None:
        figures = score(generator, fixed)
        result[name] = {"seconds": seconds, "ms_per_step": 1000 * seconds / steps, "steps": steps, **figures}
        FittedGan([], 0, generator, generator).draw(arguments.output.with_name(f"gan-{name}.png"))
        print(
            f"{name:10} {seconds:6.0f} s, {1000 * seconds / steps:5.1f} ms per step: FID {figures['val_fid']:8.3f}"
            f" (real {figures['floor_fid']:.3f}), KID {figures['val_kid']:.4f}, coverage {figures['val_coverage']:.0%}",
            flush=True,
        )
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    peer, limit, steps = published(np.asarray(data.train.images), arguments.epochs)
    report("published", peer, limit, steps)
    r19 = next(preset for preset in loading.load("gan", {}).presets if preset.name == "R19").hyperparameters
    fitted, seconds, steps = ours(dict(r19), data, fixed, epochs=arguments.epochs, seconds=np.inf)
    report("R19", fitted.network, seconds, steps)
    fitted, seconds, steps = ours(OURS, data, fixed, epochs=0, seconds=limit)
    report("ours", fitted.network, seconds, steps)


if __name__ == "__main__":
    main()
