"""Configuration of Keras: backend, devices and number of threads.

Call `configure` before the first import of Keras, in every process that uses it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import pydantic

from pipeline.backend import cores, gpus
from pipeline.core import params
from pipeline.core.errors import ParamsError

Backend = Literal["tensorflow", "jax", "torch"]
_DEBUGGING = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")  # Keras cuts every training short where they are set


class RuntimeSettings(params.Settings):
    """Section `runtime` of params.

    Attributes:
        backend: What Keras runs on.
        workers: Number of worker processes; 0 for one per GPU, or one per core where there is no GPU.
    """

    backend: Backend
    workers: int = pydantic.Field(ge=0, le=1024)


def load_settings() -> RuntimeSettings:
    """Return the section `runtime`, after checking that the environment does not contradict it."""
    settings = params.load("runtime", RuntimeSettings)
    check_backend(settings.backend)
    return settings


def check_backend(backend: Backend) -> None:
    """Check that the backend is installed and that the environment requests no other.

    Raises:
        ParamsError: KERAS_BACKEND names another backend, or the backend is not installed.
    """
    if wanted := other_backend(backend):
        raise ParamsError(
            "two backends are configured",
            expected=f"runtime.backend={backend} from params.yaml",
            found=f"KERAS_BACKEND={wanted} in the environment",
            next_step=f"unset KERAS_BACKEND, or set runtime.backend to {wanted}",
        )
    if importlib.util.find_spec(backend) is None:
        raise ParamsError(
            f"runtime.backend is {backend}, which is not installed",
            expected="an installed backend",
            found="none",
            next_step="`pipeline doctor` lists what is installed and how to install the rest",
        )


def other_backend(backend: str) -> str | None:
    """Return the backend that the environment requests, if it is another one."""
    wanted = os.environ.get("KERAS_BACKEND")
    return wanted if wanted and wanted != backend else None


def configure(backend: Backend, threads: int | None = None) -> None:
    """Set Keras up in this process, independent of the user's ``keras.json``.

    Args:
        backend: What Keras runs on.
        threads: CPU threads to use; None leaves the choice to the backend. Small models gain little from a second
            thread, so worker processes use one each (measured by benchmarks/throughput.py on 2 cores: one process with
            two threads 6,500 images/s, two workers with one thread each 11,700).

    Raises:
        ParamsError: See `check_backend`; or Keras cannot be imported with the user's ``keras.json``.
    """
    check_backend(backend)
    os.environ["KERAS_BACKEND"] = backend
    for name in _DEBUGGING:
        os.environ.pop(name, None)
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if backend == "tensorflow":
        _configure_tensorflow(threads)
    elif backend == "torch" and threads is not None:
        import torch

        torch.set_num_threads(threads)
    elif backend == "jax" and "jax" not in sys.modules:
        os.environ.setdefault(
            "XLA_PYTHON_CLIENT_PREALLOCATE", "false"
        )  # memory as it is needed: workers may share a GPU
        if threads == 1:
            os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    _configure_keras()


def _configure_keras() -> None:
    """Import Keras and set what a ``keras.json`` may have changed: its settings decide results, so they are ours."""
    try:
        with _silent_stderr():
            import keras
    except (AttributeError, TypeError, ValueError) as error:  # what its import raises about the file's content
        home = os.environ.get("KERAS_HOME") or "~/.keras"
        raise ParamsError(
            "Keras cannot be imported",
            expected=f"valid settings in {home}/keras.json",
            found=f"{type(error).__name__}: {error}",
            next_step="correct or remove that file",
        ) from error
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("float32")


def _configure_tensorflow(threads: int | None) -> None:
    """Import TensorFlow without its notices.

    oneDNN stays on: measured with one thread, MNIST-sized images and two convolutions, it trains 1.5 to 2.2 times as
    many images a second. TensorFlow reports it at every import, whatever the log level, so standard error is captured.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of retracing, which every new model needs
    with _silent_stderr():
        import tensorflow

    if threads is not None:
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(threads)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Capture what native code writes to standard error; print it only if the block fails."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(saved, kept.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@dataclass(frozen=True)
class Workers:
    """The worker processes of a stage.

    Attributes:
        environments: Of each, what is different from this process: a GPU of its own.
        reason: Why there are so many.
    """

    environments: list[dict[str, str]]
    reason: str

    def __str__(self) -> str:
        count = len(self.environments)
        return f"{count} worker{'' if count == 1 else 's'}: {self.reason}"


def workers(count: int) -> Workers:
    """Return the worker processes that training runs in: each with a GPU of its own, or a core's worth of work.

    Args:
        count: Number of workers; 0 for one per GPU, or one per core where there is no GPU. More workers than GPUs share
            them in turn.
    """
    visible = gpus.visible()
    if visible.gpus:
        reason = f"runtime.workers={count}" if count else f"one per GPU, for {visible.reason}"
        names = [visible.gpus[slot % len(visible.gpus)] for slot in range(count or len(visible.gpus))]
        return Workers([{gpus.VARIABLE: name} for name in names], reason)
    limit = cores.usable()
    reason = f"runtime.workers={count}" if count else f"one per core; {visible.reason}; {limit.reason}"
    return Workers([{} for _ in range(count or limit.usable)], reason)


def worker_environments(count: int) -> list[dict[str, str]]:
    """Return the environment of each worker process, and print their number with its reason; see `workers`."""
    chosen = workers(count)
    print(chosen, file=sys.stderr, flush=True)
    return chosen.environments
