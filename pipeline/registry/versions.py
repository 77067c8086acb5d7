"""The registry of MLflow: registered models, their versions, tags and aliases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pipeline.tracking.runs import KEY, Connection, load_mlflow

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHALLENGER = "challenger"
_STUDY = "study"
_DATASET = "dataset"
_INHERITED = (KEY, _STUDY, _DATASET)  # tags of a run that its version keeps when the run is removed
_TRIES = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Version:
    """A registered version of a model and the run that trained it.

    Attributes:
        run_id: Id of the run; empty if the version names none.
    """

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model: its tags, its versions by alias, and when it was created, in milliseconds since 1970."""

    name: str
    tags: Mapping[str, str]
    aliases: Mapping[str, str]
    created: int


class Registry:
    """The registry of a tracking server.

    Args:
        connection: To the server; a tracker of any experiment is one, too.
    """

    def __init__(self, connection: Connection) -> None:
        self._client = connection.client

    def model(self, name: str) -> RegisteredModel | None:
        """Return a registered model, None where there is none of that name."""
        found = or_none(lambda: self._client.get_registered_model(name))
        if found is None:
            return None
        aliases = {alias: str(version) for alias, version in found.aliases.items()}
        return RegisteredModel(name, dict(found.tags), aliases, int(found.creation_timestamp))

    def create_model(self, name: str, tags: Mapping[str, str], description: str = "") -> bool:
        """Create a registered model with tags, in one step; return False where the name is taken."""
        try:
            self._client.create_registered_model(name, dict(tags), description or None)
        except load_mlflow().exceptions.MlflowException as error:
            if error.error_code == "RESOURCE_ALREADY_EXISTS":
                return False
            raise
        return True

    def tag_model(self, name: str, key: str, value: str) -> None:
        """Set a tag on a registered model."""
        _write(lambda: self._client.set_registered_model_tag(name, key, value))

    def numbered(self, name: str, number: str) -> Version | None:
        """Return a version by its number, None where there is none or it was deleted."""
        found = or_none(lambda: self._client.get_model_version(name, number))
        return None if found is None else _version(found)

    def version(self, name: str, alias: str) -> Version | None:
        """Return the version that an alias of a registered model names, None where there is none."""
        found = or_none(lambda: self._client.get_model_version_by_alias(name, alias), "INVALID_PARAMETER_VALUE")
        return None if found is None else _version(found)

    def versions(self, name: str) -> Iterator[Version]:
        """Yield all versions of a registered model."""
        return self._search(f"name = '{name}'")

    def run(self, run_id: str) -> MlflowRun | None:
        """Return a run of any experiment, None where there is none."""
        return or_none(lambda: self._client.get_run(run_id), "INVALID_PARAMETER_VALUE") if run_id else None

    def log_param(self, run_id: str, key: str, value: str) -> None:
        """Write a parameter of a run, which can never change: another value raises MLflow's own error."""
        self._client.log_param(run_id, key, value)

    def register(self, name: str, model_id: str, run_id: str, tags: Mapping[str, str]) -> Version:
        """Return the version of a registered model that holds a logged model; a new one where none does.

        Where two processes create it at once, both return the same one: the older, which alone remains.
        """
        if known := self._holding(name, model_id, run_id):
            return known[0]
        run = self._client.get_run(run_id).data.tags
        inherited = {key: run[key] for key in _INHERITED if key in run}
        created = self._client.create_model_version(
            name, source=f"models:/{model_id}", run_id=run_id, tags={**inherited, **tags}, model_id=model_id
        )
        oldest = self._holding(name, model_id, run_id)[0]
        if oldest.version != str(created.version):
            self._client.delete_model_version(name, str(created.version))
        return oldest

    def studies(self, dataset: str) -> set[str]:
        """Return the names of the studies that the versions of a dataset's registered models came from."""
        found = set()
        # Versions of earlier releases have no tags of their run, and no prefix in their model's name.
        for query in (f"tags.`{_DATASET}` = '{dataset}'", f"name LIKE '{dataset}-%'"):
            for version in self._search(query):
                if _STUDY in version.tags:
                    found.add(version.tags[_STUDY])
                elif run := self.run(version.run_id):  # None: removed for good, or on another server
                    found.add(run.data.tags.get(_STUDY, ""))
        return found - {""}

    def set_alias(self, version: Version, alias: str) -> None:
        """Point an alias of a registered model at a version."""
        _write(lambda: self._client.set_registered_model_alias(version.name, alias, version.version))

    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias."""
        _write(lambda: self._client.delete_registered_model_alias(name, alias))

    def tag_version(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags on a version, and none that it has already."""
        for key, value in tags.items():
            if version.tags.get(key) != value:
                _write(partial(self._client.set_model_version_tag, version.name, version.version, key, value))

    def untag_version(self, version: Version, key: str) -> None:
        """Remove a tag of a version where it has it."""
        if key in version.tags:
            _write(lambda: self._client.delete_model_version_tag(version.name, version.version, key))

    def _holding(self, name: str, model_id: str, run_id: str) -> list[Version]:
        """Return the versions that hold a logged model, the oldest first."""
        found = self._client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        holding = [_version(one) for one in found if one.source == f"models:/{model_id}"]  # a search gives no model_id
        return sorted(holding, key=lambda version: int(version.version))

    def _search(self, query: str) -> Iterator[Version]:
        token = None
        while True:
            page = self._client.search_model_versions(query, max_results=1000, page_token=token)
            yield from map(_version, page)
            token = page.token
            if not token:
                return


def or_none(read: Callable[[], T], *absent: str) -> T | None:
    """Return what a call returns, None where MLflow has no such thing; `absent` are further codes for that."""
    try:
        return read()
    except load_mlflow().exceptions.MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", *absent):
            return None
        raise


def _write(write: Callable[[], object]) -> None:
    """Make a call that sets or removes something, again where it fails.

    MLflow reads a row before it inserts or deletes it. Of two processes that do so at once, one violates a constraint
    of the database; at its second try, it finds the row of the other.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            write()
            return
        except load_mlflow().exceptions.MlflowException:
            if not tries_left:
                raise


def _version(version: ModelVersion) -> Version:
    return Version(
        name=version.name,
        version=str(version.version),
        run_id=version.run_id or "",
        tags=dict(version.tags or {}),
    )
