"""What makes a study this study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Definition:
    """What makes a study this study: if any of it changes, a new study begins.

    Attributes:
        dataset: Name of the dataset.
        family: Name of the family.
        data: Digest of the training and validation data.
        code: Digest of the code that builds and trains.
        settings: The family's section of params.
        search: Sampler, pruner, seed, generation …: see `Settings.defining`.
        trial_epochs: Epochs of a whole trial.
        backend: What Keras runs on.
    """

    dataset: str
    family: str
    data: str
    code: str
    settings: Mapping[str, Any]
    search: Mapping[str, Any]
    trial_epochs: int
    backend: str

    @property
    def name(self) -> str:
        """Name of the study and of its folder."""
        told = json.dumps(asdict(self), sort_keys=True, default=str)
        digest = hashlib.sha256(told.encode()).hexdigest()[:10]
        return f"{self.dataset}-{self.family}-g{self.search['generation']}-{digest}"
