"""Checks the tracking server, and the champions in its registry, before a search begins, which may take hours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import TrackingError
from pipeline.tracking import database, server


def check_tracking(content: Mapping[str, Any], project: Path, say: Callable[[str], None]) -> None:
    """Check that runs can be logged, and the champions of the models that will be registered.

    A server that is away is reported in a line: it may be back when the first search needs it.

    Args:
        content: Params, checked.
        project: The folder in which stages run.
        say: Prints a line.

    Raises:
        TrackingError: The tracking server cannot be used, whenever it is asked.
        ForeignModelError: See `check_champions`.
    """
    with contextlib.chdir(project):
        found = server.examine(content["datasets"]).fault
    if found and not found.away:
        raise server.unusable(found)
    check_champions(content, project, say)


def check_champions(content: Mapping[str, Any], project: Path, say: Callable[[str], None]) -> None:
    """Check that the models that will be registered, and their champions, are of this project.

    A champion that cannot compete is reported in a line, as is a server that does not answer: training needs neither.

    Args:
        content: Params, checked.
        project: The folder in which stages run.
        say: Prints a line.

    Raises:
        ForeignModelError: A registered model or its champion is not of this project.
    """
    with contextlib.chdir(project):
        if not _database_may_exist():
            return
        from pipeline.registry import champions
        from pipeline.registry.versions import Registry
        from pipeline.tracking.runs import Connection

        try:
            registry = Registry(Connection())
            for name in registered_names(content):
                if fault := champions.standing(registry, name).fault:
                    say(fault)
        except champions.ForeignModelError:
            raise
        except TrackingError as error:
            say(f"champions are not checked before the search: {error}")


def registered_names(content: Mapping[str, Any]) -> list[str]:
    """Return the names of the registered models that params lead to."""
    from pipeline.evaluation import base as tasks
    from pipeline.models import loading

    families = [loading.load(family, content.get(family, {})) for family in content["families"]]
    nouns = dict.fromkeys(family.task for family in families)
    prefix = content["register"].get("prefix", "")
    return [tasks.load(task).registered_name(dataset, prefix) for dataset in content["datasets"] for task in nouns]


def _database_may_exist() -> bool:
    """Return False where runs go to a local database that has not been created."""
    file = database.sqlite_file(server.tracking_uri())
    return file is None or file.exists()
