"""Input pipelines: feed arrays to a model in a fixed order, batch by batch.

On TensorFlow, Keras hands arrays to tf.data, whose autotuning notices the end of an epoch only when its own period is
over. That doubles from 10 ms on, so an epoch lasts 10 ms times a power of two (seen with TensorFlow 2.21). Here
all data lies in memory and there is nothing to tune, so autotuning is disabled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

_AHEAD = 2  # batches to prefetch


def batches(arrays: Any, batch_size: int) -> dict[str, Any]:
    """Return the arguments that make `fit` read arrays in their order.

    Args:
        arrays: A tuple of what `fit` calls x and, where there is one, y; x may be a dict of arrays.
        batch_size: Images per batch.
    """
    if _tensorflow():
        return {"x": _dataset(arrays, batch_size), "shuffle": False}
    return {**dict(zip("xy", arrays, strict=False)), "batch_size": batch_size, "shuffle": False}


def validation(arrays: Any, batch_size: int) -> dict[str, Any]:
    """Return the arguments with which `fit` validates on arrays (x, y)."""
    if _tensorflow():
        return {"validation_data": _dataset(arrays, batch_size)}
    return {"validation_data": arrays, "validation_batch_size": batch_size}


def predict(network: keras.Model, inputs: Sequence[Any], batch_size: int) -> Any:
    """Return a network's outputs for arrays, one array per input."""
    import keras

    parts = []
    for start in range(0, len(inputs[0]), batch_size):
        batch = [array[start : start + batch_size] for array in inputs]
        parts.append(network.predict_on_batch(batch if len(batch) > 1 else batch[0]))
    return keras.tree.map_structure(lambda *outputs: np.concatenate(outputs), *parts)


def _tensorflow() -> bool:
    import keras

    return bool(keras.backend.backend() == "tensorflow")


def _dataset(arrays: Any, batch_size: int) -> Any:
    """Return a `tf.data.Dataset` of batches, the last one possibly smaller."""
    import keras
    import tensorflow

    with tensorflow.device("CPU:0"):  # one batch at a time is copied to the device that computes
        held = keras.tree.map_structure(tensorflow.convert_to_tensor, arrays)
        count = len(keras.tree.flatten(held)[0])

        def batch(number: Any) -> Any:
            start = number * batch_size
            return keras.tree.map_structure(lambda array: array[start : start + batch_size], held)

        dataset = tensorflow.data.Dataset.range(-(-count // batch_size)).map(batch).prefetch(_AHEAD)
    options = tensorflow.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
