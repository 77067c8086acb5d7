"""Fetches and loads registered models. Loading runs the code that is stored with a model: check its origin before."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipeline.core.errors import PipelineError, TrackingError
from pipeline.registry.versions import Version, or_none
from pipeline.tracking.errors import translated
from pipeline.tracking.runs import load_mlflow, tracking_uri

_DEFINES_A_MODEL = "MLmodel"  # the file that every model of MLflow has
_OUT_OF_MEMORY = ("MemoryError", "ResourceExhaustedError", "OutOfMemoryError")  # of Python, TensorFlow, PyTorch

T = TypeVar("T")


class UnusableChampionError(TrackingError):
    """A champion cannot be loaded, or gives no predictions."""


def has_files(version: Version) -> bool:
    """Return whether the files of a version exist; nothing is loaded."""
    mlflow = load_mlflow()
    uri = f"models:/{version.name}/{version.version}"

    def listed() -> Any:
        with translated():
            return mlflow.artifacts.list_artifacts(artifact_uri=uri)

    return any(file.path == _DEFINES_A_MODEL for file in or_none(listed) or [])


def fetch(name: str, version: str, into: Path) -> Path:
    """Copy the files of a version into a folder and return where they lie.

    Raises:
        TrackingError: There is no such version, or it cannot be read.
    """
    mlflow = load_mlflow()
    uri = f"models:/{name}/{version}"
    try:
        with translated():
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(into)))
    except (TrackingError, OSError) as error:
        found = str(error).partition("\n")[0][:300]
        raise TrackingError(f"{name} version {version} cannot be fetched", found=found) from None


def load_model(uri: str) -> Any:
    """Return a model as MLflow serves it: ``models:/<model id>`` or ``models:/<name>/<version>``."""
    mlflow = load_mlflow()
    with translated():
        mlflow.set_tracking_uri(tracking_uri())
        return mlflow.pyfunc.load_model(uri)


def use(champion: Version, function: Callable[[Any], T]) -> T:
    """Load a champion and return what a function makes of it.

    Args:
        champion: A version of this project; see `pipeline.registry.champions`.
        function: Gets the model as MLflow serves it.

    Raises:
        UnusableChampionError: The model cannot be loaded, or the function fails with it.
        TrackingError: The server does not deliver the model's files.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = fetch(champion.name, champion.version, Path(folder))
        try:
            return function(load_mlflow().pyfunc.load_model(str(files)))
        except Exception as error:
            if _is_of_this_machine(error):
                raise
            found = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            reason = f"it gives no predictions ({found})"
            raise UnusableChampionError(no_competitor(champion.name, champion.version, reason)) from error


def _is_of_this_machine(error: Exception) -> bool:
    """Return whether an error has another cause than the model: no memory, no space, or an input of the stage."""
    no_resources = isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)
    return no_resources or isinstance(error, PipelineError) or type(error).__name__ in _OUT_OF_MEMORY


def no_competitor(name: str, number: str, reason: str) -> str:
    """Return the sentence about a champion that cannot compete."""
    return f"version {number} of {name}, the champion so far, does not compete: {reason}"
