"""What a machine and a folder must offer before work begins: checked by commands at their start, and by the doctor.

Each of these faults would otherwise end a run after hours, or be found only by DVC.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import typed_paths
from pipeline.core.errors import PipelineError
from pipeline.executors import sockets
from pipeline.project import own_code
from pipeline.tracking import provenance, server

_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")


@dataclass(frozen=True)
class Fault:
    """Something that a run would fail for.

    Attributes:
        name: What was looked at.
        what: What is wrong.
        expected: What is needed.
        found: What is there.
        next_step: What to do.
    """

    name: str
    what: str
    expected: str
    found: str
    next_step: str


def require(folder: Path) -> None:
    """Check that the pipeline can run in a folder on this machine.

    Raises:
        PipelineError: The first thing that is missing.
    """
    for fault in faults(folder):
        raise PipelineError(fault.what, expected=fault.expected, found=fault.found, next_step=fault.next_step)


def faults(folder: Path) -> Iterator[Fault]:
    """Yield what a run in a folder would fail for; the folder need not exist."""
    yield from _dvc(folder.resolve())
    yield from _sockets()
    yield from _artifacts(folder.resolve())
    yield from moved_stores(folder.resolve())


def _dvc(folder: Path) -> Iterator[Fault]:
    """Check that DVC can work there: it asks for git unless it is configured otherwise."""
    from dvc.config import Config
    from dvc.exceptions import DvcException
    from dvc.scm import SCM, SCMError

    if not (folder / provenance.GRAPH).exists():
        return
    if not (folder / ".dvc").is_dir():
        if not (folder / own_code.MARKER).exists():  # `pipeline run` makes it
            expected, next_step = "a folder .dvc", f"clone the project, or `cd {_word(folder)} && dvc init --no-scm`"
            yield Fault("DVC", f"{folder} is no DVC repository", expected, "none", next_step)
        return
    try:
        SCM(str(folder), no_scm=bool(Config(str(folder / ".dvc"))["core"].get("no_scm", False)))
    except SCMError:
        yield Fault(
            "git",
            f"DVC cannot work in {folder} without git",
            "a clone of the project",
            "no git repository",
            f"clone it, or `cd {_word(folder)} && dvc config --local core.no_scm true`",
        )
    except DvcException as error:
        found = str(error).splitlines()[0]
        yield Fault("DVC", f"DVC cannot be used in {folder}", "a valid .dvc/config", found, "repair it")


def _sockets() -> Iterator[Fault]:
    if sockets.folder() is None:
        yield Fault("sockets", sockets.MISSING, sockets.EXPECTED, tempfile.gettempdir(), sockets.NEXT_STEP)


def _artifacts(folder: Path) -> Iterator[Fault]:
    """Check the paths of models on this machine: MLflow decodes escapes of URLs in them, and finds nothing there."""
    places = {Path(tempfile.gettempdir()).resolve(): "set TMPDIR to another folder"}
    if (store := typed_paths.local_path(server.tracking_uri())) is not None:
        places[(folder / store).parent.resolve()] = "rename the folder, or use another"
    for place, next_step in places.items():
        if match := _ESCAPE.search(str(place)):
            expected = "a path without % before two hexadecimal digits"
            yield Fault("artifacts", f"MLflow cannot load models from {place}", expected, match[0], next_step)


def moved_stores(folder: Path) -> Iterator[Fault]:
    """Check that a relative address names the same runs as in earlier releases, which resolved it in the workspace."""
    for name in typed_paths.URIS:
        relative, uri = typed_paths.typed(name), os.environ.get(name, "")
        local = typed_paths.local_path(relative)
        if local is None or local.is_absolute():
            continue
        before = typed_paths.local_path(typed_paths.absolute_uri(relative, folder))
        now = typed_paths.local_path(typed_paths.absolute_uri(uri))
        if before is None or now is None or before == now or now.exists() or not before.exists():
            continue
        kept = typed_paths.absolute_uri(relative, folder)
        yield Fault(
            "runs",
            f"{name}={relative} is relative to where it was typed, and the runs of earlier releases are elsewhere",
            f"runs in {now}",
            f"none there, and runs in {before}",
            f"`export {name}={_word(kept)}` to continue with them, or `mkdir -p {_word(now.parent)} &&"
            f" mv {_word(before)} {_word(now)}` to move them",
        )


def _word(text: object) -> str:
    return shlex.quote(str(text))
