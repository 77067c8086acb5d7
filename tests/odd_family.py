"""A family whose presets fail in every way that hyperparameters can; test_search.py puts it into a workspace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pipeline.models.families.mlp import family as mlp
from pipeline.models.space import Choice, Hyperparameters, Space
from pipeline.models.training.recipe import PLAIN

GOOD: Hyperparameters = {
    **PLAIN, "layers": 1, "units": 64, "batch_norm": True, "activation": "relu", "dropout": 0.1,
    "optimizer": "adamw", "schedule": "cosine", "learning_rate": 3e-3, "weight_decay": 1e-4, "batch_size": 50,
}  # fmt: skip


class Family(mlp.Family):
    """Presets that differ in one respect from one that trains well; all batch sizes are outside the space."""

    space: ClassVar[Space] = {**mlp.Family.space, "units": Choice(choices=(64, 128))}
    searched: ClassVar[Mapping[str, Any]] = {**mlp.Family.searched, "units": [64, 128]}

    def presets_for(self, dataset: str) -> Mapping[str, Hyperparameters]:
        return {
            "good": GOOD,
            "diverging": {**GOOD, "learning_rate": 1e38, "batch_norm": False},
            "impossible": {**GOOD, "units": 0},
            "enormous": {**GOOD, "units": 2**40},
            "large": {**GOOD, "units": 512},
        }
