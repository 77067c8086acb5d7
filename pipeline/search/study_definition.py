"""The definition of a study, from which its name follows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Definition:
    """Everything that defines a study: if any of it changes, a new study begins.

    Attributes:
        dataset: Name of the dataset.
        family: Name of the family.
        data: Digest of the training and validation data.
        code: Digest of the code that builds and trains.
        settings: The family's section of params.
        search: Sampler, pruner, seed, generation …: see `SearchSettings.defining`.
        trial_epochs: Epochs of a whole trial.
        backend: Backend of Keras.
        device: Class of the device that trains; see `mixed_precision.device_class`.
    """

    dataset: str
    family: str
    data: str
    code: str
    settings: Mapping[str, Any]
    search: Mapping[str, Any]
    trial_epochs: int
    backend: str
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Name of the study and of its folder."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"{self.dataset}-{self.family}-g{self.search['generation']}-{digest}"
