"""Generative adversarial networks, scored by the distance of their images from validation images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.backend import compile_options, input_pipeline
from pipeline.backend.mixed_precision import policy
from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Images, Labelled, Labels, Splits
from pipeline.evaluation import generative_metrics, image_grid
from pipeline.evaluation.feature_network import FeatureNetwork, labels_like
from pipeline.models.base import Preset, Spec
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.families.gan import networks
from pipeline.models.families.gan.networks import PENALISED
from pipeline.models.families.gan.presets import PRESETS
from pipeline.models.space import Choice, Range, Space
from pipeline.models.training.fitted import KerasFitted, trainable_parameters
from pipeline.models.training.keras_family import KerasFamily, TrainingPlan, Values
from pipeline.models.values import SHARE, Bounds, Hyperparameters, real

if TYPE_CHECKING:
    import keras

    from pipeline.models.families.gan.adversaries import Adversaries

_DRAWN = 512  # images per batch when a generator draws
_SEED = 0  # of the noise that scores and pictures are made from: the same for every epoch of every trial
_MEAN = Bounds(0, 0.99999)  # at 1, Adam divides by 0
_SIDE = 10  # of the picture, in images


class Family(KerasFamily):
    """A generator against a discriminator; what is kept is the running average of the generator."""

    space: ClassVar[Space] = {
        "architecture": Choice(choices=("dcgan", "dense")),
        # Of the discriminator's first layer.
        "width": Choice(choices=(16, 24, 32, 48, 64, 96, 128), bounds=Bounds(1, 1024)),
        "latent": Choice(choices=(32, 64, 100, 128), bounds=Bounds(1, 4096)),
        "conditional": Choice(choices=(False, True)),
        "loss": Choice(choices=("relativistic", "non_saturating", "hinge")),
        # Weight of the discriminator's squared gradient (R1).
        "penalty": Range(low=0.0, high=20.0, bounds=Bounds(0, 1000)),
        "average": Range(low=0.0, high=0.9999, bounds=SHARE),  # share of the average that a step leaves; 0: no average
        "learning_rate": Range(low=1e-5, high=1e-2, log=True, bounds=Bounds(0, 100, above=True)),
        "beta_1": Range(low=0.0, high=0.9, bounds=_MEAN),  # Adam's means
        "beta_2": Range(low=0.9, high=0.999, bounds=_MEAN),
        "batch_size": Choice(choices=(32, 64, 128, 256), bounds=Bounds(1, 65_536)),
    }
    searched: ClassVar[Mapping[str, Any]] = {
        "architecture": "dcgan",
        "width": 32,
        "latent": 64,
        "conditional": True,
        "loss": "non_saturating",
        "penalty": {"low": 0.2, "high": 2.0, "log": True},
        "average": 0.995,
        "learning_rate": {"low": 5e-4, "high": 2e-3, "log": True},
        "beta_1": 0.5,
        "beta_2": 0.99,
        "batch_size": 64,
    }
    presets: ClassVar[tuple[Preset, ...]] = PRESETS
    objective: ClassVar[str] = "val_score"
    task: ClassVar[str] = "generate"
    serving: ClassVar[str] = "generator"
    needs_feature_network: ClassVar[bool] = True

    def build(self, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return a new generator; see `networks.generator`."""
        return networks.generator(hyperparameters, spec)

    def trainable_parameters(self, hyperparameters: Hyperparameters, spec: Spec) -> int:
        """Return how many numbers training changes in both networks together."""
        return trainable_parameters(
            networks.generator(hyperparameters, spec), networks.discriminator(hyperparameters, spec)
        )

    def epoch_cost(self, hyperparameters: Hyperparameters, spec: Spec) -> float:
        """Return the multiply-adds of a training image; see `BaseFamily.epoch_cost`.

        For each image the generator draws one, and both are judged. The generator learns from a further judgement, of
        which the discriminator's weights need no gradient: a third less. The penalty judges one image in a few again.
        """
        judged = 2 + 2 / 3 + (1 / PENALISED if real(hyperparameters, "penalty") else 0)
        drawn = networks.generator_maps(hyperparameters, spec).multiply_adds
        return drawn + judged * networks.discriminator_maps(hyperparameters, spec).multiply_adds

    def plan(self, data: Splits) -> TrainingPlan:
        """Return how both networks train: on images and labels, scored in the features of a fixed network.

        Raises:
            DataError: There is no such network.
        """
        del data
        fixed = self.feature_network
        if fixed is None:
            raise DataError(
                "gan: no feature network", expected="that of the stage features", next_step="dvc repro features"
            )

        def timed_score(model: Adversaries, values: Values) -> Values:
            del values
            started = time.monotonic()
            found = score(model.average, fixed)
            return {**found, "scoring_seconds": time.monotonic() - started}

        return TrainingPlan(arrays=_labelled, validates=False, score=timed_score)

    def compiled(self, hyperparameters: Hyperparameters, spec: Spec, *, steps: int, seed: int) -> Adversaries:
        """Return both networks with their optimizer; see `KerasFamily.compiled`."""
        import keras

        del steps  # the rate is constant
        adversaries = self._adversaries(hyperparameters, spec, seed)
        rate, *means = (float(hyperparameters[name]) for name in ("learning_rate", "beta_1", "beta_2"))
        adversaries.compile(optimizer=keras.optimizers.Adam(rate, *means), **compile_options.options())
        return adversaries

    def fitted(
        self, model: Adversaries, hyperparameters: Hyperparameters, data: Splits, history: list[EpochMetrics]
    ) -> FittedGan:
        """Return the running average of the generator."""
        return FittedGan.of(model, self._exported(model.average, hyperparameters, Spec.of(data)), history)

    def _adversaries(self, hyperparameters: Hyperparameters, spec: Spec, seed: int) -> Adversaries:
        from pipeline.models.families.gan.adversaries import Adversaries

        generator, average = (networks.generator(hyperparameters, spec) for _ in range(2))
        return Adversaries(generator, average, networks.discriminator(hyperparameters, spec), hyperparameters, seed)

    def _exported(self, network: keras.Model, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return a generator by itself, in single precision."""
        with policy("float32", heavy=False):
            exported = self.build(hyperparameters, spec)
        exported.set_weights(network.get_weights())
        return exported


@dataclass(frozen=True)
class FittedGan(KerasFitted):
    """A trained generator, which can draw sample images."""

    def draw(self, path: Path) -> bool:
        """Write a picture of generated images, a class per column if the generator is conditional."""
        labels = np.tile(np.arange(_SIDE) % _classes(self.network), _SIDE)
        path.write_bytes(image_grid.sheet(generate(self.network, labels, _SEED), _SIDE))
        return True


def score(generator: keras.Model, fixed: FeatureNetwork) -> Values:
    """Return how near generated images are to validation images, from the same noise at every call."""
    count = len(fixed.val.features)
    drawn = fixed.embed(generate(generator, labels_like(fixed.val.classes, count, _SEED), _SEED))
    fid = generative_metrics.fid(drawn.features, fixed.val.features)
    return {
        "val_score": -fid,  # a search maximises
        "val_fid": fid,
        "val_kid": generative_metrics.kid(drawn.features, fixed.val.features),
        "val_coverage": generative_metrics.covered(drawn.classes, fixed.val.classes, fixed.classes) / fixed.classes,
        "floor_fid": fixed.floor.fid,
        "floor_kid": fixed.floor.kid,
    }


def generate(generator: keras.Model, labels: Labels, seed: int) -> Images:
    """Return as many images as labels, uint8 (N, H, W, C); an unconditional generator ignores them."""
    inputs = generator.inputs
    noise = np.random.default_rng(seed).standard_normal((len(labels), inputs[0].shape[1]), np.float32)
    batch = [noise, labels.astype(np.int32)][: len(inputs)]
    drawn = input_pipeline.predict(generator, batch, _DRAWN)
    return np.rint(np.asarray(drawn, np.float32) * 255).astype(np.uint8)


def _classes(generator: keras.Model) -> int:
    """Return the number of classes of a conditional generator; of another, 1."""
    embeddings = [layer for layer in generator.layers if type(layer).__name__ == "Embedding"]
    return int(embeddings[0].input_dim) if embeddings else 1


def _labelled(part: Labelled) -> tuple[dict[str, Any]]:
    return ({"images": part.images, "labels": part.labels.astype(np.int32)},)
