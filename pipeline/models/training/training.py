"""The work that search and train give to an engine: rungs, on workers of one thread each."""

from __future__ import annotations

from pipeline.executors.base import Work


def work(backend: str) -> Work:
    """Return what workers do: `models.rung.run`, with Keras set up for a backend and one thread.

    Importing TensorFlow starts no thread, so workers may be forked from a process that has imported it. JAX warns of
    forks, and with PyTorch they have not been tried.
    """
    arguments = {"backend": backend, "threads": 1}
    return Work(
        "pipeline.models.training.rung:run",
        "pipeline.backend.runtime:configure",
        arguments,
        forkable=backend == "tensorflow",
    )
