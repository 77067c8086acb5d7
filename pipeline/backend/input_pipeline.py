"""How arrays reach a model: in the order in which they are to be seen, batch by batch.

On TensorFlow, Keras hands arrays to tf.data, whose autotuning notices the end of an epoch only when its own period is
over. That doubles from 10 ms on, so an epoch comes to last 10 ms times a power of two (seen with TensorFlow 2.21). Here
all lies in memory and nothing is left to tune, so it is told not to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

_AHEAD = 2  # batches that wait to be taken


def batches(arrays: Any, batch_size: int) -> dict[str, Any]:
    """Return the arguments with which `fit` sees arrays in their order.

    Args:
        arrays: A tuple of what `fit` calls x and, where there is one, y; x may be a dict of arrays.
        batch_size: Images that are seen at once.
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
    """Return what a network gives for arrays, one for each of its inputs, as arrays."""
    import keras

    parts = []
    for start in range(0, len(inputs[0]), batch_size):
        asked = [array[start : start + batch_size] for array in inputs]
        parts.append(network.predict_on_batch(asked if len(asked) > 1 else asked[0]))
    return keras.tree.map_structure(lambda *outputs: np.concatenate(outputs), *parts)


def _tensorflow() -> bool:
    import keras

    return bool(keras.backend.backend() == "tensorflow")


def _dataset(arrays: Any, batch_size: int) -> Any:
    """Return a `tf.data.Dataset` of batches, the last as small as what is left."""
    import keras
    import tensorflow

    with tensorflow.device("CPU:0"):  # a batch at a time goes to where it is computed with
        held = keras.tree.map_structure(tensorflow.convert_to_tensor, arrays)
        count = len(keras.tree.flatten(held)[0])

        def batch(number: Any) -> Any:
            start = number * batch_size
            return keras.tree.map_structure(lambda array: array[start : start + batch_size], held)

        dataset = tensorflow.data.Dataset.range(-(-count // batch_size)).map(batch).prefetch(_AHEAD)
    options = tensorflow.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
