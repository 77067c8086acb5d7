"""The reference models that are perceptrons."""

from __future__ import annotations

from pipeline.models.base import Preset
from pipeline.models.training.recipe import PLAIN
from pipeline.models.values import Hyperparameters

_POINT: Hyperparameters = {**PLAIN, "layers": 1, "units": 128, "batch_norm": False, "activation": "relu"}

PRESETS = (
    Preset("R4", "Dense 128, dropout 0.2", "mnist", (28, 28, 1), {**_POINT, "dropout": 0.2}),
    Preset("R9", "Dense 128", "mnist", (28, 28, 1), {**_POINT, "dropout": 0.0}),
)
