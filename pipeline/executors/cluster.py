"""Section `search.ray` of params: a Ray cluster, and what a task needs there."""

from __future__ import annotations

import pydantic

from pipeline.core import params


class Cluster(params.Settings):
    """A Ray cluster, and what a rung needs there.

    Attributes:
        address: Of the cluster: ``auto`` for the one that this machine belongs to, ``local`` to start one here.
        cpus: CPU cores of a rung.
        gpus: GPUs of a rung; a half lets two rungs share one.
    """

    address: str
    cpus: int = pydantic.Field(ge=1)
    gpus: float = pydantic.Field(ge=0)
