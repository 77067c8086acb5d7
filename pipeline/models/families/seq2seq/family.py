"""Sequence to sequence: an encoder reads the upper half of an image row by row, a decoder writes the lower half.

Scored by the squared error of what it writes. Beside it stands that of repeating the last row that was read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.backend import compile_options, input_pipeline
from pipeline.datasets.arrays import Images, Splits
from pipeline.evaluation import image_grid
from pipeline.models.base import BaseFamily, Fitted, Metrics, OnEpoch, Span, Spec, TrainingError
from pipeline.models.space import Choice, Hyperparameters, Range, Space
from pipeline.models.training import checkpoint, recipe
from pipeline.models.training.fitted import KerasFitted, trainable_parameters

if TYPE_CHECKING:
    import keras

_VALIDATION_BATCH = 512
_SHOWN = 10  # images in the picture


class Family(BaseFamily):
    """Stacked recurrent layers on both sides; each of the decoder's begins with what the encoder's ended with."""

    space: ClassVar[Space] = {
        "cell": Choice(choices=("gru", "lstm")),
        "layers": Range(low=1, high=3),
        "units": Choice(choices=(32, 64, 128, 192, 256)),
        "dropout": Range(low=0.0, high=0.5),
        "optimizer": Choice(choices=("adamw", "adam")),
        "schedule": Choice(choices=("cosine", "one_cycle", "constant")),
        "learning_rate": Range(low=1e-5, high=1e-1, log=True),
        "weight_decay": Range(low=0.0, high=0.1),
        "batch_size": Choice(choices=(32, 64, 128, 256)),
    }
    searched: ClassVar[Mapping[str, Any]] = {
        "cell": "gru",
        "layers": {"low": 1, "high": 2},
        "units": [128, 192],
        "dropout": 0.0,
        "optimizer": "adamw",
        "schedule": "cosine",
        "learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
        "weight_decay": 1e-4,
        "batch_size": [64, 128],
    }
    objective: ClassVar[str] = "val_score"
    task: ClassVar[str] = "complete"
    serving: ClassVar[str] = "completer"

    def build(self, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return a new model: upper halves, uint8 (N, H // 2, W, C), to the other rows, from 0 to 1, float32."""
        import keras
        from keras import layers

        height, width, channels = spec.image_shape
        known = height // 2
        kind = {"gru": layers.GRU, "lstm": layers.LSTM}[str(hyperparameters["cell"])]
        depth, units = int(hyperparameters["layers"]), int(hyperparameters["units"])
        upper = keras.Input((known, width, channels), dtype="uint8")
        rows = layers.Reshape((known, width * channels))(layers.Rescaling(1 / 255)(upper))
        x, states = rows, []
        for _ in range(depth):
            x, *state = kind(units, return_sequences=True, return_state=True)(x)
            x = layers.Dropout(float(hyperparameters["dropout"]))(x)
            states.append(state)
        # The decoder is told the same at every step: the last row that is known. What has been written so far is in
        # its state, so that a row takes one step, in training as in use.
        last = layers.Flatten()(layers.Cropping1D((known - 1, 0))(rows))
        x = layers.RepeatVector(height - known)(last)
        for state in states:
            x = kind(units, return_sequences=True)(x, initial_state=state)
            x = layers.Dropout(float(hyperparameters["dropout"]))(x)
        x = layers.Dense(width * channels)(x)
        lower = layers.Reshape((height - known, width, channels))(x)
        return keras.Model(upper, layers.Activation("sigmoid", dtype="float32")(lower), name="seq2seq")

    def trainable_parameters(self, hyperparameters: Hyperparameters, spec: Spec) -> int:
        """Return how many numbers training changes in the network that `build` gives."""
        return trainable_parameters(self.build(hyperparameters, spec))

    def fit(
        self,
        hyperparameters: Hyperparameters,
        data: Splits,
        span: Span,
        *,
        seed: int,
        state: Path | None,
        on_epoch: OnEpoch,
    ) -> Fitted:
        """Train some epochs; see `BaseFamily.fit`. On a CPU, a training cut into spans gives identical weights."""
        batch_size = min(int(hyperparameters["batch_size"]), len(data.train))

        def build() -> keras.Model:
            model = self.build(hyperparameters, Spec.of(data))
            optimizer = recipe.optimizer(hyperparameters, span.total * math.ceil(len(data.train) / batch_size))
            model.compile(optimizer, "mse", **compile_options.options())
            return model

        network = checkpoint.begin(build, state, seed)
        baseline = _baseline(data.val.images)
        history = []
        for epoch in range(span.start, span.stop):
            metrics = _train_epoch(network, data, batch_size, seed, epoch)
            if not math.isfinite(metrics["loss"] + metrics["val_loss"]):
                raise TrainingError(f"the loss diverged in epoch {epoch + 1}", found=f"loss {metrics['loss']}")
            history.append({**metrics, "baseline_mse": baseline})
            on_epoch(history[-1])
        return Completed.of(network, network, history).showing(np.asarray(data.val.images[:_SHOWN]))


@dataclass(frozen=True)
class Completed(KerasFitted):
    """A trained completer, which can show what it makes of some images."""

    shown: Images | None = None

    def showing(self, images: Images) -> Completed:
        """Return the same with images to show, uint8 (n, H, W, C)."""
        return Completed(self.history, self.parameters, self.model, self.network, images)

    def draw(self, path: Path) -> bool:
        """Write a picture: images above, and below them what was made of their upper halves."""
        if self.shown is None:
            return False
        upper = self.shown[:, : self.shown.shape[1] // 2]
        lower = np.rint(np.asarray(self.network.predict(upper, verbose=0)) * 255).astype(np.uint8)
        both = np.concatenate([self.shown, np.concatenate([upper, lower], axis=1)])
        path.write_bytes(image_grid.sheet(both, len(self.shown)))
        return True


def _halves(images: Images) -> tuple[Images, Any]:
    """Return upper halves as they are, and the other rows with values from 0 to 1."""
    known = images.shape[1] // 2
    return images[:, :known], np.asarray(images[:, known:], np.float32) / 255


def _baseline(images: Images) -> float:
    """Return the squared error of repeating the last row that is known."""
    upper, lower = _halves(np.asarray(images))
    return float(np.square(upper[:, -1:].astype(np.float32) / 255 - lower).mean())


def _train_epoch(network: keras.Model, data: Splits, batch_size: int, seed: int, epoch: int) -> Metrics:
    """Train one epoch in an order that depends on (seed, epoch) alone, so that a resumed training repeats it."""
    started = time.monotonic()
    order = np.random.default_rng([seed, epoch]).permutation(len(data.train))
    history = network.fit(
        **input_pipeline.batches(_halves(data.train.take(order).images), batch_size),
        **input_pipeline.validation(_halves(np.asarray(data.val.images)), _VALIDATION_BATCH),
        initial_epoch=epoch,
        epochs=epoch + 1,
        verbose=0,
    ).history
    metrics = {name: float(values[0]) for name, values in history.items()}
    told = {"val_score": -metrics["val_loss"], "val_mse": metrics["val_loss"]}
    return {"epoch": epoch + 1, **metrics, **told, "seconds": time.monotonic() - started, "at": time.time()}
