"""Compile options: the steps per call into the backend, and whether XLA compiles them."""

from __future__ import annotations

from typing import Any

_STEPS = 32


def options() -> dict[str, Any]:
    """Return the arguments of a model's `compile` for the current backend.

    PyTorch takes one step at a time. JAX must compile: Keras runs it operation by operation otherwise. Elsewhere XLA is
    2-3 times slower on a CPU, and compiles for longer than a small model trains.
    """
    import keras

    backend = keras.backend.backend()
    return {"steps_per_execution": 1 if backend == "torch" else _STEPS, "jit_compile": backend == "jax"}
