"""The reference GAN: dense layers on both sides, binary cross-entropy, nothing else."""

from __future__ import annotations

from pipeline.models.base import Preset

PRESETS = (
    Preset(
        "R19",
        "a GAN of dense layers: 100-256-784 against 784-128-1",
        "mnist",
        (28, 28, 1),
        {
            "architecture": "dense",
            "width": 128,
            "latent": 100,
            "conditional": False,
            "loss": "non_saturating",  # binary cross-entropy of the discriminator's sigmoid, written on logits
            "penalty": 0.0,
            "average": 0.0,
            "learning_rate": 1e-3,
            "beta_1": 0.9,
            "beta_2": 0.999,
            "batch_size": 64,
        },
    ),
)
