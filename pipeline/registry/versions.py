"""The model registry: versions of a dataset's registered model, and which of them is champion."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import TrackingError
from pipeline.tracking.errors import translated
from pipeline.tracking.runs import Tracker, load_mlflow, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHALLENGER = "challenger"


@dataclass(frozen=True)
class Version:
    """A registered version of a model and the run that trained it."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]


class Registry:
    """The registry of the server that a tracker writes to.

    Args:
        tracker: Of any experiment: the registry is the same.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._client = tracker.client

    def version(self, name: str, alias: str) -> Version | None:
        """Return the version that an alias of a registered model names, None where there is none."""
        try:
            return _version(self._client.get_model_version_by_alias(name, alias))
        except load_mlflow().exceptions.MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise TrackingError("the registry cannot be read", found=str(error).splitlines()[0][:300]) from None

    def fetch(self, name: str, version: str, into: Path) -> Path:
        """Copy the files of a version into a folder and return where they lie.

        Raises:
            TrackingError: There is no such version, or it cannot be read.
        """
        mlflow = load_mlflow()
        try:
            with translated():
                return Path(
                    mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/{version}", dst_path=str(into))
                )
        except (TrackingError, OSError) as error:
            raise TrackingError(
                f"{name} version {version} cannot be fetched", found=str(error).splitlines()[0][:300]
            ) from None

    def register(self, name: str, model_id: str, run_id: str, tags: Mapping[str, str]) -> Version:
        """Return the version of a registered model that holds a logged model; a new one where none does."""
        exceptions = load_mlflow().exceptions
        source = f"models:/{model_id}"
        try:
            self._client.create_registered_model(name)
        except exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise TrackingError("the registry cannot be written", found=str(error).splitlines()[0][:300]) from None
        for version in self._client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
            if version.source == source:  # its model_id is not filled in by a search
                return _version(version)
        created = self._client.create_model_version(
            name, source=source, run_id=run_id, tags=dict(tags), model_id=model_id
        )
        return _version(created)

    def studies(self, dataset: str) -> set[str]:
        """Return the names of the studies that the versions of a dataset's registered models came from."""
        found = set()
        for version in self._client.search_model_versions(f"name LIKE '{dataset}-%'"):
            with suppress(load_mlflow().exceptions.MlflowException):  # its run was deleted for good, or is elsewhere
                found.add(self._client.get_run(version.run_id).data.tags.get("study", ""))
        return found - {""}

    def set_alias(self, version: Version, alias: str) -> None:
        """Point an alias of a registered model at a version."""
        self._client.set_registered_model_alias(version.name, alias, version.version)

    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias where it exists."""
        if self.version(name, alias) is not None:
            self._client.delete_registered_model_alias(name, alias)

    def tag_version(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags on a version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(version.name, version.version, key, value)


def load_model(uri: str) -> Any:
    """Return a model as MLflow serves it: ``models:/<model id>`` or ``models:/<name>/<version>``."""
    mlflow = load_mlflow()
    with translated():
        mlflow.set_tracking_uri(tracking_uri())
        return mlflow.pyfunc.load_model(uri)


def _version(version: ModelVersion) -> Version:
    return Version(
        name=version.name,
        version=str(version.version),
        run_id=str(version.run_id),
        tags=dict(version.tags or {}),
    )
