"""What is computed on one backend, as a process of its own: a process that has loaded Keras cannot change backends.

Prints JSON; `test_backends.py` checks it. Usage: python on_backend.py layers|trainings BACKEND FOLDER
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backend import configure
from pipeline.datasets.arrays import Splits, load_splits
from pipeline.models import base, loading
from pipeline.models.epoch_metrics import EpochMetrics

INPUT = [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
KERNEL = [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
WEIGHTS = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [0.9, 1.0, 1.1, 1.2]]


def worked_example() -> dict[str, Any]:
    """Convolve, rectify, pool and weigh the example of the reference, with layers."""
    from keras import layers

    x = np.array(INPUT, np.float32).reshape(1, 5, 5, 1)
    convolution = layers.Conv2D(1, 3, use_bias=False)
    convolution.build(x.shape)
    convolution.set_weights([np.array(KERNEL, np.float32).reshape(3, 3, 1, 1)])
    dense = layers.Dense(3, use_bias=False)
    dense.build((1, 4))
    dense.set_weights([np.array(WEIGHTS, np.float32).T])
    convolved = convolution(x)
    rectified = layers.ReLU()(convolved)
    pooled = layers.MaxPooling2D(2, padding="same")(rectified)
    named = {
        "convolved": convolved,
        "rectified": rectified,
        "pooled": pooled,
        "weighed": dense(layers.Flatten()(pooled)),
    }
    return {name: _array(value).squeeze().tolist() for name, value in named.items()}


def sizes() -> list[list[int]]:
    """Return (W, F, P, S, output) of convolutions and poolings of many sizes."""
    from keras import layers

    found = []
    for width, size, strides in [(5, 3, 1), (28, 5, 1), (28, 3, 2), (32, 2, 2), (7, 3, 2), (8, 3, 3), (9, 4, 2)]:
        for padding in (0, 1, 2):
            x = np.zeros((1, width, width, 1), np.float32)
            padded = layers.ZeroPadding2D(padding)(x) if padding else x
            both = (layers.Conv2D(1, size, strides=strides), layers.MaxPooling2D(size, strides=strides))
            found += [[width, size, padding, strides, int(layer(padded).shape[1])] for layer in both]
    return found


def settings() -> list[Any]:
    """Return the settings of Keras that decide results."""
    from keras import config

    policy = config.dtype_policy().name
    return [config.floatx(), config.epsilon(), config.image_data_format(), policy, config.max_steps_per_epoch()]


def trainings(folder: Path) -> dict[str, list[float]]:
    """Return the losses of two epochs of a small model of each family, with all options on, then of the same again."""
    from test_models import NETWORKS, POINTS

    from pipeline.models.base import Span

    data = load_splits(folder)
    options = {"mixup": 0.2, "cutout": 4, "flip": True, "l2": 1e-4}
    losses = {}
    for name in NETWORKS:
        family = loading.load(name, {"class_weights": "balanced"})
        point = {**POINTS[name], **options}
        runs = [
            family.fit(point, data, Span(0, 2, 2), seed=1, state=None, on_epoch=lambda _: None).history
            for _ in range(2)
        ]
        losses[name] = [epoch["loss"] for run in runs for epoch in run]
    return {**losses, "seq2seq": completer(data), "transfer": transferred(data, folder.with_name("pretrained"))}


def completer(data: Splits) -> list[float]:
    """Return the losses of two epochs of a completer, then of the same again."""
    point = {"cell": "gru", "layers": 2, "units": 16, "dropout": 0.1, "optimizer": "adamw", "schedule": "cosine",
             "learning_rate": 5e-3, "weight_decay": 1e-4, "batch_size": 32}  # fmt: skip
    family = loading.load("seq2seq", {})
    return [epoch["loss"] for _ in range(2) for epoch in fitted(family, point, data)]


def transferred(data: Splits, folder: Path) -> list[float]:
    """Return the losses of two epochs of what begins with a perceptron's layers, then of the same again."""
    from test_models import POINTS

    folder.mkdir(exist_ok=True)
    known = loading.load("mlp", {})
    known.fit(POINTS["mlp"], data, base.Span(0, 1, 1), seed=1, state=None, on_epoch=lambda _: None).export(folder)
    file, named = folder / "model.keras", "models:/digits-classifier@champion"
    pin = {"version": "1", "file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    family = loading.load("transfer", {"init_from": named, "pin": {"init_from": named, **pin}})
    return [
        epoch["loss"] for _ in range(2) for epoch in fitted(family, {**POINTS["transfer"], "fine_tune": True}, data)
    ]


def distances(folder: Path) -> list[float]:
    """Return the distances to real images after two epochs of a generator, then of the same again."""
    from pipeline.evaluation import feature_network

    data = load_splits(folder)
    point = {"architecture": "dcgan", "width": 16, "latent": 32, "conditional": True, "loss": "relativistic",
             "penalty": 0.5, "average": 0.9, "learning_rate": 1e-3, "beta_1": 0.5, "beta_2": 0.99,
             "batch_size": 16}  # fmt: skip
    feature_network.train(data, folder.with_name("scale"), steps=20, seed=0)
    family = loading.load("gan", {})
    family.feature_network = feature_network.load(folder.with_name("scale"))
    return [epoch["val_fid"] for _ in range(2) for epoch in fitted(family, point, data)]


def fitted(family: base.BaseFamily, point: dict[str, Any], data: Splits) -> list[EpochMetrics]:
    """Return the metrics of two epochs."""
    return family.fit(point, data, base.Span(0, 2, 2), seed=1, state=None, on_epoch=lambda _: None).history


def _array(value: Any) -> Any:
    from keras import ops

    return ops.convert_to_numpy(value)


def main() -> None:
    """Print what one backend computes."""
    what, backend, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    configure.configure(backend, threads=1)  # type: ignore[arg-type]
    import keras

    if what == "layers":
        computed = {"example": worked_example(), "sizes": sizes(), "settings": settings()}
    else:
        computed = {"losses": trainings(folder), "distances": distances(folder)}
    print(json.dumps({"backend": keras.backend.backend(), **computed}))


if __name__ == "__main__":
    main()
