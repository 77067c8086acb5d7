"""The file of `pipeline references`: what the reference models of a dataset reached."""

from __future__ import annotations

from pipeline.artifacts.base import Artifact


class Reference(Artifact):
    """A trained reference model.

    Attributes:
        name: Name of the preset.
        title: What it is.
        task: The family's task.
        key: Identifies what was trained: data, code, hyperparameters and length.
        value: The objective on validation data after the last epoch; None if it could not be trained.
        failed: The reason; empty if it was trained.
        run: Id of the MLflow run; empty if it could not be trained.
    """

    name: str
    title: str
    family: str
    task: str
    key: str
    value: float | None = None
    failed: str = ""
    parameters: int = 0
    epochs: int = 0
    seconds: float = 0.0
    run: str = ""


class References(Artifact):
    """The reference models of a dataset, `reports/references/<dataset>.json`.

    Attributes:
        data_digest: Digest of the data that all of them were trained on.
    """

    data_digest: str
    models: tuple[Reference, ...]
