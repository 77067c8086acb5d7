"""Results of Keras trainings, as a checkpoint and as an exported model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pipeline.datasets.arrays import Images
from pipeline.models.base import Fitted
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.training import checkpoint

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class KerasFitted(Fitted):
    """A trained Keras model.

    Attributes:
        model: All that training changes, with its optimizer: what a checkpoint holds.
        network: What is exported: layers of Keras and nothing else, so that it loads anywhere, in safe mode.
    """

    model: keras.Model
    network: keras.Model

    @classmethod
    def of(cls, model: keras.Model, network: keras.Model, history: list[EpochMetrics]) -> Self:
        """Return a training's result; its parameters are those of the network."""
        return cls(history, int(network.count_params()), model, network)

    def save_state(self, path: Path) -> None:
        """Write every variable of the model and its optimizer; see `checkpoint`."""
        checkpoint.save(self.model, path)

    def export(self, folder: Path) -> None:
        """Write ``model.keras``; its layers can be trained, though those of an average are not while it is one."""
        average = not self.network.trainable
        if average:
            self.network.trainable = True
        try:
            self.network.save(folder / "model.keras")
        finally:
            if average:  # training may continue with it
                self.network.trainable = False

    def answer(self, images: Images) -> object:
        """Return the network's output."""
        return self.network.predict_on_batch(images)


def trainable_parameters(*networks: keras.Model) -> int:
    """Return how many numbers training changes in some networks together."""
    return sum(math.prod(weight.shape) for network in networks for weight in network.trainable_variables)
