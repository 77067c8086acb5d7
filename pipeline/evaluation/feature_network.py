"""The feature network: a small fixed classifier in whose features generated and real images are compared.

A distance between two sets of images is a distance between their features. The usual network is Inception, trained on
photographs of another size; here it is the reference model R11 (one channel) or R5 (more), trained on the dataset
itself. Its layers are written out here, so that no change of a family changes it. The stage `features` trains it once
per dataset, and its digest goes with every figure: figures of two networks do not compare.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.backend import compile_options, input_pipeline
from pipeline.core.errors import DataError
from pipeline.core.files import new_folder
from pipeline.datasets.arrays import Images, Labelled, Labels, Splits
from pipeline.evaluation import generative_metrics

if TYPE_CHECKING:
    import keras

Features = npt.NDArray[np.float32]

_BATCH = 64
_RATE = 1e-3
_PREDICTED = 512  # images per batch when features are taken
_MOST = 5_000  # images per side of a distance in training: more change FID by less than two trainings differ


@dataclass(frozen=True)
class Embedding:
    """Features of some images, (N, D), and the class that the network predicts for each, (N,)."""

    features: Features
    classes: Labels


@dataclass(frozen=True)
class Floor:
    """The distances between real images and other real images: no generator can be expected to do better."""

    fid: float
    kid: float


@dataclass(frozen=True)
class FeatureNetwork:
    """A trained network and the embeddings of the data that models learn from.

    Attributes:
        network: Images, uint8 (N, H, W, C), to their features and logits.
        digest: Of the network's weights: figures compare where it is the same.
        train: Embedding of the training images.
        val: Embedding of the validation images that epochs are scored against.
        floor: The distances of as many training images from them.
        classes: Number of classes.
    """

    network: keras.Model
    digest: str
    train: Embedding
    val: Embedding
    floor: Floor
    classes: int

    def embed(self, images: Images) -> Embedding:
        """Return the embedding of images, uint8 (N, H, W, C)."""
        return _embed(self.network, images)


def train(data: Splits, folder: Path, *, steps: int, seed: int) -> float:
    """Train the network of a dataset and write it with its embeddings; return its validation accuracy.

    Args:
        data: Train and validation splits.
        folder: The folder to appear.
        steps: Training steps of 64 images.
        seed: Decides initial weights and the order of the images.
    """
    import keras

    keras.utils.set_random_seed(seed)
    network = _network(data.image_shape, len(data.class_names))
    trained = keras.Model(network.input, network.output[1])
    trained.compile(
        keras.optimizers.Adam(_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **compile_options.options(),
    )
    orders = np.random.default_rng(seed)
    rounds = -(-steps * _BATCH // len(data.train))
    order = np.concatenate([orders.permutation(len(data.train)) for _ in range(rounds)])[: steps * _BATCH]
    shown = data.train.take(order)
    trained.fit(**input_pipeline.batches((shown.images, shown.labels), _BATCH), verbose=0)
    embeddings = {"train": _embed(network, data.train.images), "val": _embed(network, data.val.images)}
    accuracy = float((embeddings["val"].classes == data.val.labels).mean())
    with new_folder(folder) as partial:
        _save(partial, network, embeddings, accuracy, len(data.class_names), data.image_shape)
    return accuracy


def load(folder: Path) -> FeatureNetwork:
    """Return the feature network of a dataset.

    Raises:
        DataError: The folder is missing, damaged, or written for a family that needs none.
    """
    try:
        info = json.loads((folder / "scale.json").read_text(encoding="utf-8"))
        if not info["needed"]:
            raise ValueError("written for a family that needs none")
        network = _network(tuple(info["image_shape"]), info["classes"])
        network.set_weights(list(_arrays(folder / "network.npz").values()))
        arrays = _arrays(folder / "seen.npz")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{folder} holds no feature network",
            expected="written by features",
            found=error,
            next_step="dvc repro features",
        ) from None
    train, val = (Embedding(arrays[f"{split}_features"], arrays[f"{split}_classes"]) for split in ("train", "val"))
    return FeatureNetwork(network, info["digest"], train, val, Floor(**info["floor"]), info["classes"])


def not_needed(folder: Path) -> None:
    """Write that a family needs no feature network."""
    with new_folder(folder) as partial:
        (partial / "scale.json").write_text(json.dumps({"needed": False}) + "\n", encoding="utf-8")


def _save(
    folder: Path,
    network: keras.Model,
    embeddings: dict[str, Embedding],
    accuracy: float,
    classes: int,
    image_shape: tuple[int, int, int],
) -> None:
    """Write plain arrays: a `.keras` file holds the time at which it was written, and would look new to DVC."""
    weights = network.get_weights()
    sha = hashlib.sha256(str([array.shape for array in weights]).encode())
    for array in weights:
        sha.update(np.ascontiguousarray(array).data)
    np.savez(folder / "network.npz", allow_pickle=False, **{f"{place:04d}": a for place, a in enumerate(weights)})
    arrays: dict[str, npt.NDArray[Any]] = {}
    for split, of in embeddings.items():
        some = slice(None) if split == "train" else slice(_MOST)
        arrays |= {f"{split}_features": of.features[some], f"{split}_classes": of.classes[some]}
    np.savez(folder / "seen.npz", allow_pickle=False, **arrays)
    val = arrays["val_features"]
    chosen = np.random.default_rng(0).permutation(len(arrays["train_features"]))[: len(val)]
    real = arrays["train_features"][chosen]
    info = {
        "needed": True,
        "digest": sha.hexdigest(),
        "image_shape": image_shape,
        "classes": classes,
        "val_accuracy": accuracy,
        "images": len(val),
        "floor": {"fid": generative_metrics.fid(real, val), "kid": generative_metrics.kid(real, val)},
    }
    (folder / "scale.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def _network(image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Return R11 for images of one channel, R5 for others, with the features before the logits as a second output."""
    import keras
    from keras import layers

    grey = image_shape[2] == 1
    inputs = keras.Input(image_shape, dtype="uint8")
    x = layers.Rescaling(1 / 255, dtype="float32")(inputs)
    for filters in (32, 64):
        padding = "valid" if grey else "same"
        x = layers.Conv2D(filters, 3, padding=padding, activation="relu", dtype="float32")(x)
        x = layers.MaxPooling2D(2, dtype="float32")(x)
    x = layers.Flatten(dtype="float32")(x)
    features = layers.Dense(128 if grey else 64, activation="relu", dtype="float32")(x)
    return keras.Model(inputs, [features, layers.Dense(classes, dtype="float32")(features)], name="scale")


def _embed(network: keras.Model, images: Images) -> Embedding:
    features, logits = input_pipeline.predict(network, [np.asarray(images)], _PREDICTED)
    return Embedding(np.asarray(features, np.float32), np.asarray(logits).argmax(axis=1).astype(np.int64))


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def labels_like(data: Labelled | Labels, count: int, seed: int) -> Labels:
    """Return labels (count,) drawn as often as the classes occur in some data."""
    labels = data.labels if isinstance(data, Labelled) else data
    drawn: Labels = np.random.default_rng(seed).choice(np.asarray(labels), count)
    return drawn
