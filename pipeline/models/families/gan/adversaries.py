"""Both networks in one model, trained by plain `fit()`. Import it where Keras is loaded anyway.

One step gives each network its own loss: the discriminator's sees fakes through a stopped gradient, so that it teaches
the generator nothing; the generator's goes through a discriminator whose weights have stopped gradients, so that it
teaches the discriminator nothing. Their sum is one loss for one optimizer, and needs only what Keras does the same on
every backend. No frozen flags, no second optimizer, no Python between batches.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from pipeline.models.families.gan.networks import PENALISED
from pipeline.models.training.ema import follow, start
from pipeline.models.values import Hyperparameters, real, whole, word, yes

_SIGMA = 0.02  # step of the finite difference, in values of a pixel from 0 to 1


def _non_saturating(real: Any, fake: Any, judged: Any) -> tuple[Any, Any]:
    """Each image is real or not: binary cross-entropy, and for the generator as if its images were real."""
    return ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake)), ops.mean(ops.softplus(-judged))


def _hinge(real: Any, fake: Any, judged: Any) -> tuple[Any, Any]:
    """Hinge loss: beyond a margin, the discriminator stops learning."""
    return ops.mean(ops.relu(1 - real)) + ops.mean(ops.relu(1 + fake)), -ops.mean(judged)


def _relativistic(real: Any, fake: Any, judged: Any) -> tuple[Any, Any]:
    """Of a real image and a generated one of the same label, which is real? Keeps generators from dropping modes.

    See Jolicoeur-Martineau, arXiv:1807.00734, and Huang et al., arXiv:2501.05441.
    """
    return ops.mean(ops.softplus(fake - real)), ops.mean(ops.softplus(ops.stop_gradient(real) - judged))


_LOSSES = {"non_saturating": _non_saturating, "hinge": _hinge, "relativistic": _relativistic}


class Adversaries(keras.Model):
    """A generator and a discriminator in training, and the running average of the generator, which is what is kept.

    Args:
        generator, average: Two generators of one kind; the second becomes the average of the first.
        discriminator: Judges images.
        hyperparameters: A point of the family's space.
        seed: Of noise.
    """

    def __init__(
        self,
        generator: keras.Model,
        average: keras.Model,
        discriminator: keras.Model,
        hyperparameters: Hyperparameters,
        seed: int,
    ) -> None:
        super().__init__(dtype="float32")  # of counters and averages; the networks have a policy of their own
        self.generator, self.average, self.discriminator = generator, average, discriminator
        start(average, generator)
        self._noise = keras.random.SeedGenerator(seed)
        self._latent = whole(hyperparameters, "latent")
        self._conditional = yes(hyperparameters, "conditional")
        self._adversarial = _LOSSES[word(hyperparameters, "loss")]
        self._penalty = real(hyperparameters, "penalty")
        self._momentum = real(hyperparameters, "average")
        self._steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")
        self._of_generator = keras.metrics.Mean("generator_loss")
        self._of_discriminator = keras.metrics.Mean("discriminator_loss")

    def build(self, input_shape: Any) -> None:
        """Do nothing: the networks are already built."""
        del input_shape
        self.built = True

    def call(self, shown: Any, training: bool = False) -> Any:
        """Return logits (N, 1) by what was judged: ``real``, ``fake`` and ``judged``, the generator's own hope.

        Args:
            shown: ``images``, uint8 (N, H, W, C), and ``labels``, (N,).
            training: Whether noise is drawn for the penalty and the average moves on.
        """
        real = ops.cast(shown["images"], "float32") / 255
        labels = [shown["labels"]] if self._conditional else []
        count = ops.shape(real)[0]
        noise = keras.random.normal((count, self._latent), seed=self._noise)
        fake = self.generator([noise, *labels] if labels else noise, training=training)
        logits = {
            "real": self._judge(real, labels),
            "fake": self._judge(ops.stop_gradient(fake), labels),
            "judged": self._judge_only(fake, labels),
        }
        if training and self._penalty:
            some = max(1, count // PENALISED) if isinstance(count, int) else ops.maximum(1, count // PENALISED)
            shifted = real[:some] + _SIGMA * keras.random.normal(ops.shape(real[:some]), seed=self._noise)
            logits["shifted"] = self._judge(shifted, [of[:some] for of in labels])
        if training:
            follow(self.average, self.generator, self._momentum, self._steps)
        return logits

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the sum of both losses in nats (or hinge units), the gradient penalty included."""
        del x, y, sample_weight
        real, fake, judged = y_pred["real"], y_pred["fake"], y_pred["judged"]
        discriminator, generator = self._adversarial(real, fake, judged)
        self._of_discriminator.update_state(discriminator)
        self._of_generator.update_state(generator)
        if training and "shifted" in y_pred:
            # The mean of ((D(x + σε) - D(x)) / σ)² over noise ε is |∇D(x)|² for small σ: R1 without a second gradient.
            slopes = (y_pred["shifted"] - real[: ops.shape(y_pred["shifted"])[0]]) / _SIGMA
            discriminator = discriminator + self._penalty / 2 * ops.mean(ops.square(slopes))
        return discriminator + generator

    def _judge(self, images: Any, labels: list[Any]) -> Any:
        return self.discriminator([images, *labels] if labels else images, training=True)

    def _judge_only(self, images: Any, labels: list[Any]) -> Any:
        """Return logits whose gradient reaches the images, but not the discriminator's weights."""
        network = self.discriminator
        weights = [ops.stop_gradient(weight) for weight in network.trainable_variables]
        judged, _ = network.stateless_call(
            weights, network.non_trainable_variables, [images, *labels] if labels else images, training=True
        )
        return judged
