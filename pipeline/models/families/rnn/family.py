"""Recurrent networks that read an image row by row: as many steps as it has rows, each a row of all its channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.models.base import Preset, Spec
from pipeline.models.families.rnn.presets import PRESETS
from pipeline.models.multiply_adds import recurrent
from pipeline.models.space import Choice, Range, Space
from pipeline.models.training.classifier import KerasClassifier
from pipeline.models.training.recipe import SEARCHED, TRAINING
from pipeline.models.values import DROPOUT, Bounds, Hyperparameters, real, whole, word, yes

if TYPE_CHECKING:
    import keras


class Family(KerasClassifier):
    """Stacked recurrent layers, one way or both, optionally residual, and a dense head trained along with them."""

    space: ClassVar[Space] = {
        "cell": Choice(choices=("lstm", "gru", "simple")),
        "layers": Range(low=1, high=4, bounds=Bounds(1, 16)),
        "units": Choice(choices=(16, 32, 64, 96, 128, 192, 256), bounds=Bounds(1, 4096)),  # of each direction
        "bidirectional": Choice(choices=(False, True)),
        "residual": Choice(choices=(False, True)),  # what a layer gives is added to what it got
        "pooling": Choice(choices=("last", "mean", "max")),  # what the head sees of the steps
        "head_units": Choice(choices=(0, 64, 128, 256), bounds=Bounds(0, 8192)),  # 0: the head is the classifier alone
        "dropout": Range(low=0.0, high=0.8, bounds=DROPOUT),
        **TRAINING,
    }
    searched: ClassVar[Mapping[str, Any]] = {
        "cell": ["lstm", "gru"],
        "layers": {"low": 1, "high": 2},
        "units": [64, 96, 128],
        "head_units": [0, 128],
        "pooling": ["last", "max"],
        "dropout": {"low": 0.0, "high": 0.4},
        **SEARCHED,
    }
    presets: ClassVar[tuple[Preset, ...]] = PRESETS

    def epoch_cost(self, hyperparameters: Hyperparameters, spec: Spec) -> float:
        """Return the multiply-adds of an image; see `BaseFamily.epoch_cost`."""
        height, width, channels = spec.image_shape
        cell, units = word(hyperparameters, "cell"), whole(hyperparameters, "units")
        directions = 2 if yes(hyperparameters, "bidirectional") else 1
        read, products = width * channels, 0
        for _ in range(whole(hyperparameters, "layers")):
            products += height * directions * recurrent(cell, read, units)
            read = directions * units
        if head_units := whole(hyperparameters, "head_units"):
            products += read * head_units
            read = head_units
        return float(products + read * spec.classes)

    def build(self, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return a recurrent network; see `KerasClassifier.build`."""
        import keras
        from keras import layers

        height, width, channels = spec.image_shape
        inputs = keras.Input(spec.image_shape, dtype="uint8")
        x = layers.Rescaling(1 / 255)(inputs)
        x = layers.Reshape((height, width * channels))(x)
        depth, pooling = whole(hyperparameters, "layers"), word(hyperparameters, "pooling")
        for layer in range(depth):
            last = layer == depth - 1 and pooling == "last"
            read = _recurrent(hyperparameters, steps=not last)(x)
            if yes(hyperparameters, "residual") and not last and read.shape == x.shape:
                read = layers.Add()([read, x])
            x = layers.Dropout(real(hyperparameters, "dropout"))(read)
        if pooling == "mean":
            x = layers.GlobalAveragePooling1D()(x)
        elif pooling == "max":
            x = layers.GlobalMaxPooling1D()(x)
        if head_units := whole(hyperparameters, "head_units"):
            x = layers.Dense(head_units, activation="relu")(x)
        return keras.Model(inputs, layers.Dense(spec.classes, dtype="float32")(x), name="rnn")


def _recurrent(hyperparameters: Hyperparameters, *, steps: bool) -> Any:
    """Return a recurrent layer that gives every step, or the last alone."""
    from keras import layers

    kind = {"lstm": layers.LSTM, "gru": layers.GRU, "simple": layers.SimpleRNN}[word(hyperparameters, "cell")]
    # Not unrolled: that trains a tenth faster and takes longer to begin (measured: one core, 28 steps, 128 units).
    layer = kind(whole(hyperparameters, "units"), return_sequences=steps)
    return layers.Bidirectional(layer) if yes(hyperparameters, "bidirectional") else layer
