"""The reference model that is a recurrent network."""

from __future__ import annotations

from pipeline.models.base import Preset
from pipeline.models.training.recipe import PLAIN

PRESETS = (
    Preset(
        "R14",
        "SimpleRNN 16 and one number: a regression on four sequences",
        "sequences",
        (1, 2, 1),  # one step of two features
        {
            **PLAIN,
            "cell": "simple",
            "layers": 1,
            "units": 16,
            "bidirectional": False,
            "residual": False,
            "pooling": "last",
            "head_units": 0,
            "dropout": 0.0,
        },
        classes=1,
    ),
)
