"""Precision of training: weights are always stored in 32 bits, products may be computed in 16.

Measured on one core of a CPU with AVX-512 BF16 (benchmarks/precision.py, 32×32×3 images): the network `fast` trains 1.4
times as fast with bfloat16 as with float32, a plain stack of 32 and 64 filters 1.1 times.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pipeline.backend import gpus

Precision = Literal["auto", "float32", "mixed_bfloat16"]

_FLAGS = {"avx512_bf16", "amx_bf16"}
_AMPERE = 8  # the first generation of NVIDIA's GPUs whose units multiply bfloat16


@contextmanager
def policy(precision: Precision, *, heavy: bool) -> Iterator[None]:
    """Build networks in a given precision inside the block.

    Args:
        precision: ``auto`` is bfloat16 where the network is heavy and the device computes with it.
        heavy: Whether the network spends its time in wide convolutions.
    """
    import keras

    if precision == "auto":
        precision = "mixed_bfloat16" if heavy and native_bfloat16() else "float32"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def device_class() -> str:
    """Return the class of device on which a training gives the same result, without importing Keras.

    CPUs with bfloat16 units train heavy networks in another precision than others.
    """
    if gpus.visible().gpus:
        return "gpu"
    return "cpu-bfloat16" if _FLAGS & _cpu_flags() else "cpu"


@functools.cache
def native_bfloat16() -> bool:
    """Return whether the device that Keras uses multiplies bfloat16 faster than float32."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        gpus = tensorflow.config.list_physical_devices("GPU")
        if not gpus:
            return bool(_FLAGS & _cpu_flags())
        details = tensorflow.config.experimental.get_device_details(gpus[0])
        return bool(details.get("compute_capability", (0, 0))[0] >= _AMPERE)
    if backend == "jax":
        import jax

        capability = str(getattr(jax.devices()[0], "compute_capability", "0"))  # a CPU has none
        return float(capability or 0) >= _AMPERE
    return False


def _cpu_flags() -> set[str]:
    """Return the CPU's feature flags as Linux reports them; an empty set on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
