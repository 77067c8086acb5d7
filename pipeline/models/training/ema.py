"""A running average of a network's weights, which smooths the noise of a high learning rate.

It makes metrics in the middle of a training predict its final result, on which a search bases its decisions.
Optimizers of Keras keep one, too (`use_ema`), but of trainable weights only, begun at random ones, and validation sees
it after it has been swapped in: this one also averages normalisation statistics, and predicts beside the network.
Import it where Keras is loaded anyway.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

_EARLY = 10  # at first the average is of about a tenth of the steps so far, so that the first ones do not linger in it


def start(average: keras.Model, network: keras.Model) -> None:
    """Set an average to a network's weights; nothing but `follow` changes it from then on."""
    average.trainable = False
    average.set_weights(network.get_weights())


def follow(average: keras.Model, network: keras.Model, momentum: float, steps: keras.Variable) -> None:
    """Move an average towards a network, once a step of its training. To be called while a backend traces.

    Args:
        average: A network of the same kind.
        network: The one in training.
        momentum: Share of the average that stays, in the long run.
        steps: How many steps there have been, a state of the model that is trained; one is added.
    """
    steps.assign(steps + 1)
    share: Any = ops.minimum(momentum, steps / (steps + _EARLY))
    for mean, weight in zip(average.weights, network.weights, strict=True):
        if "seed_generator" not in weight.path:
            value = ops.stop_gradient(ops.convert_to_tensor(weight))
            mean.assign(mean + (1 - share) * (value - mean))  # a weight that is frozen stays exactly what it was
