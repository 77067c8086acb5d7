"""A network in training: its augmented inputs and its loss. Import it where Keras is loaded anyway.

Only what Keras does the same on every backend is used: `call` and `compute_loss`. The network itself knows nothing of
this, so what is exported consists of Keras's own layers and loads anywhere, in safe mode.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from pipeline.models.training.augmentation import Augment
from pipeline.models.training.ema import follow, start
from pipeline.models.values import Hyperparameters, real


class Trainer(keras.Model):
    """Wraps a network that turns raw images (N, H, W, C) into logits (N, classes).

    Args:
        network: The network; it is trained in place.
        average: Another of the same kind, which becomes the running average of the first and answers in its stead;
            None where the hyperparameters want none.
        hyperparameters: Those of `recipe.TRAINING`.
        seed: Of augmentation.
    """

    def __init__(
        self, network: keras.Model, average: keras.Model | None, hyperparameters: Hyperparameters, seed: int
    ) -> None:
        super().__init__()
        self.network = network
        self.average = average
        if average is not None:
            start(average, network)
        self._generator = keras.random.SeedGenerator(seed)
        self._augment = Augment(hyperparameters, self._generator)
        self._smoothing = real(hyperparameters, "label_smoothing")
        self._l2 = real(hyperparameters, "l2")
        self._mixup = real(hyperparameters, "mixup")
        self._momentum = real(hyperparameters, "average")
        # What crosses from `call` to `compute_loss`, and from one span of epochs to the next, is state of the model.
        self._share = self.add_weight(shape=(), initializer="ones", trainable=False, name="share")
        self._lowest = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(math.inf), trainable=False, name="lowest_loss"
        )
        self._waited = self.add_weight(shape=(), initializer="zeros", trainable=False, name="waited")
        self._steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")

    def build(self, input_shape: Any) -> None:
        """Do nothing: the network is already built."""
        del input_shape
        self.built = True

    def call(self, images: Any, training: bool = False) -> Any:
        """Return logits; in training, of changed images, mixed in pairs if mixup is on."""
        if not training:
            return (self.average or self.network)(images, training=False)
        images = self._augment(images)
        if self._mixup:
            self._share.assign(keras.random.beta((), self._mixup, self._mixup, seed=self._generator))
            images = self._share * images + (1 - self._share) * ops.flip(images, axis=0)
        if self.average is not None:
            follow(self.average, self.network, self._momentum, self._steps)
        return self.network(images, training=True)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the mean cross-entropy in nats; in training with smoothed and mixed labels and the L2 penalty."""
        del x
        classes = y_pred.shape[-1]
        truth = ops.one_hot(ops.reshape(y, (-1,)), classes)
        if training and self._smoothing:
            truth = truth * (1 - self._smoothing) + self._smoothing / classes
        losses = keras.losses.categorical_crossentropy(truth, y_pred, from_logits=True)
        if training and self._mixup:
            swapped = keras.losses.categorical_crossentropy(ops.flip(truth, axis=0), y_pred, from_logits=True)
            losses = self._share * losses + (1 - self._share) * swapped
        if sample_weight is not None:
            losses = losses * ops.cast(ops.reshape(sample_weight, (-1,)), losses.dtype)
        loss = ops.mean(losses)
        if training and self._l2:
            kernels = [weight for weight in self.network.trainable_variables if len(weight.shape) > 1]
            loss = loss + self._l2 * sum(ops.sum(ops.square(ops.cast(kernel, "float32"))) for kernel in kernels)
        return loss

    def waited(self, loss: float) -> int:
        """Record a validation loss and return the number of epochs without improvement."""
        lower = loss < float(self._lowest)
        self._waited.assign(0.0 if lower else float(self._waited) + 1)
        if lower:
            self._lowest.assign(loss)
        return round(float(self._waited))
