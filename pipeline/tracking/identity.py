"""The identity of a workspace, which separates its runs from those of others on the same tracking server."""

from __future__ import annotations

import secrets
from pathlib import Path

from pipeline.core.files import write_text

WORKSPACE = "pipeline.workspace"  # tag: the workspace that a run was logged from
_FOLDER = "workspace"


def workspace_id(data: Path) -> str:
    """Return the random id of the workspace that a data folder belongs to; made once, by whoever needs it first.

    The id is in no parameter, in no output and not in git: a clone, a copy made by `dvc exp run --temp` and a new
    `pipeline run --workspace` are other workspaces, and log to runs of their own. Stages of one workspace share it.
    """
    import filelock

    file = data / _FOLDER / "id"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(file.with_name("lock")):
            if not file.exists():  # or another stage was first
                write_text(file, new_id() + "\n")
    return file.read_text(encoding="utf-8").strip()


def new_id() -> str:
    """Return a random id of 12 characters."""
    return secrets.token_hex(6)
