"""Sequence to sequence: an encoder reads the upper half of an image row by row, a decoder writes the lower half.

Scored by the squared error of what it writes. Beside it stands that of repeating the last row that was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.backend import compile_options
from pipeline.core.errors import ParamsError
from pipeline.datasets.arrays import Images, Splits
from pipeline.evaluation import image_grid
from pipeline.models.base import Spec
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.multiply_adds import recurrent
from pipeline.models.space import Choice, Range, Space
from pipeline.models.training import recipe
from pipeline.models.training.fitted import KerasFitted, trainable_parameters
from pipeline.models.training.keras_family import KerasFamily, TrainingPlan, Values
from pipeline.models.values import DROPOUT, Bounds, Hyperparameters, real, whole, word

if TYPE_CHECKING:
    import keras

_SHOWN = 10  # images in the picture


class Family(KerasFamily):
    """Stacked recurrent layers on both sides; each of the decoder's begins with what the encoder's ended with."""

    space: ClassVar[Space] = {
        "cell": Choice(choices=("gru", "lstm")),
        "layers": Range(low=1, high=3, bounds=Bounds(1, 16)),
        "units": Choice(choices=(32, 64, 128, 192, 256), bounds=Bounds(1, 4096)),
        "dropout": Range(low=0.0, high=0.5, bounds=DROPOUT),
        "optimizer": Choice(choices=("adamw", "adam")),
        "schedule": Choice(choices=("cosine", "one_cycle", "constant")),
        "learning_rate": Range(low=1e-5, high=1e-1, log=True, bounds=recipe.TRAINING["learning_rate"].bounds),
        "weight_decay": Range(low=0.0, high=0.1, bounds=recipe.TRAINING["weight_decay"].bounds),
        "batch_size": Choice(choices=(32, 64, 128, 256), bounds=recipe.TRAINING["batch_size"].bounds),
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

    def require_fit(self, side: int) -> None:
        """Check that an image has two halves; see `BaseFamily.require_fit`."""
        super().require_fit(side)
        if side < 2:
            raise ParamsError(f"{self.name}: the images have no halves", expected="at least 2 rows", found=side)

    def epoch_cost(self, hyperparameters: Hyperparameters, spec: Spec) -> float:
        """Return the multiply-adds of an image; see `BaseFamily.epoch_cost`."""
        height, width, channels = spec.image_shape
        row, cell, units = width * channels, word(hyperparameters, "cell"), whole(hyperparameters, "units")
        # The encoder reads the upper rows and the decoder writes the others, each with as many layers.
        further = (whole(hyperparameters, "layers") - 1) * recurrent(cell, units, units)
        written = height - height // 2
        return float(height * (recurrent(cell, row, units) + further) + written * units * row)

    def build(self, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return a new model: upper halves, uint8 (N, H // 2, W, C), to the other rows, from 0 to 1, float32."""
        import keras
        from keras import layers

        height, width, channels = spec.image_shape
        known = height // 2
        kind = {"gru": layers.GRU, "lstm": layers.LSTM}[word(hyperparameters, "cell")]
        depth, units = whole(hyperparameters, "layers"), whole(hyperparameters, "units")
        upper = keras.Input((known, width, channels), dtype="uint8")
        rows = layers.Reshape((known, width * channels))(layers.Rescaling(1 / 255)(upper))
        x, states = rows, []
        for _ in range(depth):
            x, *state = kind(units, return_sequences=True, return_state=True)(x)
            x = layers.Dropout(real(hyperparameters, "dropout"))(x)
            states.append(state)
        # The decoder gets the same input at every step: the last known row. What it has written so far is in its state,
        # so that a row takes one step, in training as in use.
        last = layers.Flatten()(layers.Cropping1D((known - 1, 0))(rows))
        x = layers.RepeatVector(height - known)(last)
        for state in states:
            x = kind(units, return_sequences=True)(x, initial_state=state)
            x = layers.Dropout(real(hyperparameters, "dropout"))(x)
        x = layers.Dense(width * channels)(x)
        lower = layers.Reshape((height - known, width, channels))(x)
        return keras.Model(upper, layers.Activation("sigmoid", dtype="float32")(lower), name="seq2seq")

    def trainable_parameters(self, hyperparameters: Hyperparameters, spec: Spec) -> int:
        """Return how many numbers training changes in the network that `build` gives."""
        return trainable_parameters(self.build(hyperparameters, spec))

    def plan(self, data: Splits) -> TrainingPlan:
        """Return how a completer trains: on both halves of images, beside the error of repeating the last row."""
        baseline = _baseline(data.val.images)

        def score(model: keras.Model, values: Values) -> Values:
            del model
            return {"val_score": -values["val_loss"], "val_mse": values["val_loss"], "baseline_mse": baseline}

        return TrainingPlan(arrays=lambda part: _halves(np.asarray(part.images)), score=score)

    def compiled(self, hyperparameters: Hyperparameters, spec: Spec, *, steps: int, seed: int) -> keras.Model:
        """Return a new network to train by squared error; see `KerasFamily.compiled`."""
        del seed  # nothing is drawn beside the layers
        model = self.build(hyperparameters, spec)
        model.compile(recipe.optimizer(hyperparameters, steps), "mse", **compile_options.options())
        return model

    def fitted(
        self, model: keras.Model, hyperparameters: Hyperparameters, data: Splits, history: list[EpochMetrics]
    ) -> Completed:
        """Return the network, with validation images to show."""
        del hyperparameters
        return Completed.of(model, model, history).showing(np.asarray(data.val.images[:_SHOWN]))


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
