"""Commands run the code of the folder that they work on, also where another checkout's environment starts them.

An environment holds the code of the checkout in which `make install` has run. Typed in a git worktree or a second
clone, its `pipeline` would apply the first one's rules to the second one's data.
"""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pipeline.core.errors import PipelineError
from pipeline.project.lock import to_stderr
from pipeline.tracking import provenance

MARKER = Path(".pipeline-workspace")  # in a folder that `pipeline run` has made
_MODULE = f"{provenance.PACKAGE}.cli.main"  # which another process loads
_STARTED_FOR = "PIPELINE_STARTED_FOR"  # the workspace for which this process has replaced another: it does so once


class ForeignCodeError(PipelineError):
    """The code that runs is another checkout's."""


def require(folder: Path, *, start_again: bool = True) -> None:
    """Return if the code that runs is that of the project around a folder, or if there is none.

    In a workspace, this process is replaced by the same command with the workspace's own copy of the code.

    Args:
        folder: What a command works on.
        start_again: False leaves the process as it is in a workspace.

    Raises:
        ForeignCodeError: The project is another checkout, or a copy that has no such command.
    """
    project = foreign_project(folder)
    if project is None or (not start_again and is_workspace(project)):
        return
    if is_workspace(project) and os.environ.get(_STARTED_FOR) != str(project):
        _start_again(project)
    command = Path(sys.argv[0])
    program = str(command) if command.name == "pipeline" else shlex.join([sys.executable, "-P", "-m", _MODULE])
    raise ForeignCodeError(
        "the code that runs is not the code of this checkout",
        expected=project / provenance.PACKAGE,
        found=provenance.this_project() / provenance.PACKAGE,
        done="nothing was changed",
        next_step=f"PYTHONPATH={shlex.quote(str(project))} {program} {shlex.join(sys.argv[1:])}",
    )


def foreign_project(folder: Path) -> Path | None:
    """Return the project or workspace around a folder if its code is not the code that runs."""
    try:
        project = _project_around(folder.resolve())
    except FileNotFoundError:  # the working directory was removed
        return None
    own = project is None or (project / provenance.PACKAGE).resolve() == provenance.this_project() / provenance.PACKAGE
    return None if own else project


def is_workspace(project: Path) -> bool:
    """Return whether a project is a copy made by `pipeline run`."""
    return (project / MARKER).exists()


def _project_around(folder: Path) -> Path | None:
    for place in (folder, *folder.parents):
        with suppress(PermissionError):  # of a folder above, which this user may not look into
            if (place / provenance.GRAPH).is_file() and (place / provenance.PACKAGE / "stages" / "search.py").is_file():
                return place
    return None


def _start_again(workspace: Path) -> NoReturn:
    """Replace this process by the same command with a workspace's own code.

    Raises:
        ForeignCodeError: The copy is of a release that has no such command.
    """
    here = provenance.this_project()
    if not (workspace / provenance.PACKAGE / "cli" / "main.py").is_file():
        raise ForeignCodeError(
            f"the copy of the code in {workspace} is of an earlier release",
            expected=workspace / provenance.PACKAGE / "cli" / "main.py",
            done="nothing was changed",
            next_step=f"`pipeline run --workspace {shlex.quote(str(workspace))}` in {here} replaces it",
        )
    if provenance.code_digest(workspace) != provenance.code_digest(here):
        to_stderr(
            f"note: the code of {workspace} runs, which differs from that of {here};"
            f" `pipeline run --workspace {shlex.quote(str(workspace))}` there replaces it"
        )
    paths = [str(workspace), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), _STARTED_FOR: str(workspace)}
    sys.stdout.flush()
    # -P: the working directory may be the checkout.
    os.execve(sys.executable, [sys.executable, "-P", "-m", _MODULE, *sys.argv[1:]], env)
