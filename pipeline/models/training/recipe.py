"""The recipe of a training: the dimensions that every classifier has beside those of its model, and what they mean.

Each dimension contains what the reference models use. What a search looks at by default is less, see `SEARCHED`: a
dimension that is searched has to earn its trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.models.space import Choice, Range, Space
from pipeline.models.values import PIXELS, SHARE, Bounds, Hyperparameters, real, word

if TYPE_CHECKING:
    import keras

_WARM_UP = 0.25  # share of a one-cycle schedule in which the rate rises (chosen)
_START = 0.04  # of the highest rate, where that rise begins (chosen)

TRAINING: Space = {
    "optimizer": Choice(choices=("adamw", "adam", "sgd", "adagrad", "adadelta")),
    "schedule": Choice(choices=("cosine", "one_cycle", "constant")),
    "learning_rate": Range(low=1e-5, high=3.0, log=True, bounds=Bounds(0, 100, above=True)),
    "batch_size": Choice(choices=(16, 32, 64, 128, 256, 512), bounds=Bounds(1, 65_536)),
    "weight_decay": Range(low=0.0, high=0.1, bounds=Bounds(0, 10)),
    "l2": Range(low=0.0, high=0.1, bounds=Bounds(0, 10)),
    "label_smoothing": Range(low=0.0, high=0.3, bounds=SHARE),
    "shift": Range(low=0, high=8, bounds=PIXELS),
    "flip": Choice(choices=(False, True)),
    "turn": Range(low=0.0, high=45.0, bounds=Bounds(0, 180)),  # degrees
    "zoom": Range(low=0.0, high=0.5, bounds=Bounds(0, 1, below=True)),
    "cutout": Range(low=0, high=16, bounds=PIXELS),
    "mixup": Range(low=0.0, high=1.0, bounds=Bounds(0, 100)),
    "average": Range(low=0.0, high=0.9999, bounds=SHARE),  # of the weights: share of it that a step leaves; 0: none
}

SEARCHED: Mapping[str, Any] = {
    "optimizer": "adamw",
    "schedule": ["one_cycle", "cosine"],
    "learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
    "batch_size": [64, 128],
    "weight_decay": {"low": 1e-4, "high": 5e-2, "log": True},
    "l2": 0.0,
    "label_smoothing": [0.0, 0.1],
    "shift": {"low": 0, "high": 4},
    "flip": False,  # labels must allow it: a mirrored cat is a cat, a mirrored 3 is no 3
    "turn": [0.0, 8.0],
    "zoom": [0.0, 0.1],
    "cutout": [0, 6],
    "mixup": 0.0,
    "average": 0.99,
}

# How the reference models train: Adam at its usual rate, and nothing else.
PLAIN: Hyperparameters = {
    "optimizer": "adam",
    "schedule": "constant",
    "learning_rate": 1e-3,
    "batch_size": 32,
    "weight_decay": 0.0,
    "l2": 0.0,
    "label_smoothing": 0.0,
    "shift": 0,
    "flip": False,
    "turn": 0.0,
    "zoom": 0.0,
    "cutout": 0,
    "mixup": 0.0,
    "average": 0.0,
}


def optimizer(hyperparameters: Hyperparameters, steps: int) -> keras.Optimizer:
    """Return a new optimizer for a training of so many steps."""
    import keras

    kinds = {
        "adamw": keras.optimizers.AdamW,
        "adam": keras.optimizers.Adam,
        "sgd": keras.optimizers.SGD,
        "adagrad": keras.optimizers.Adagrad,
        "adadelta": keras.optimizers.Adadelta,
    }
    name = word(hyperparameters, "optimizer")
    decay = real(hyperparameters, "weight_decay")
    settings: dict[str, Any] = {"weight_decay": decay if decay or name == "adamw" else None}  # AdamW refuses None
    if name == "sgd":
        settings |= {"momentum": 0.9, "nesterov": True}
    return kinds[name](_rate(hyperparameters, steps), **settings)


def _rate(hyperparameters: Hyperparameters, steps: int) -> Any:
    """Return the learning rate: constant, falling to 0, or rising first."""
    import keras

    highest = real(hyperparameters, "learning_rate")
    schedule = word(hyperparameters, "schedule")
    if schedule == "constant":
        return highest
    if schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(highest, steps)
    rise = max(1, round(_WARM_UP * steps))
    return keras.optimizers.schedules.CosineDecay(
        highest * _START, max(1, steps - rise), warmup_target=highest, warmup_steps=rise
    )
