"""Section `search.ray` of params: a Ray cluster, and the resources of a task."""

from __future__ import annotations

import pydantic

from pipeline.core import params


class Cluster(params.Settings):
    """A Ray cluster, and the resources of a rung.

    Attributes:
        address: Address of the cluster: ``auto`` for the cluster of this machine, ``local`` to start one here.
        cpus: CPU cores per rung.
        gpus: GPUs per rung; with 0.5, two rungs share one GPU.
    """

    address: str
    cpus: int = pydantic.Field(ge=1)
    gpus: float = pydantic.Field(ge=0)
