"""The identity of a workspace, which separates its runs from those of others on the same tracking server."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

WORKSPACE = "pipeline.workspace"  # tag: the workspace that a run was logged from
_FOLDER = "workspace"


def workspace_id(data: Path) -> str:
    """Return the random id of the workspace that a data folder belongs to; made once, by whoever needs it first.

    The id is in no parameter, in no output and not in git: a clone, a copy made by `dvc exp run --temp` and a new
    `pipeline run --workspace` are other workspaces, and log to runs of their own. Stages of one workspace share it.
    """
    file = data / _FOLDER / "id"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=".id-") as written:
            written.write(new_id() + "\n")
            written.flush()
            os.fsync(written.fileno())
            with suppress(FileExistsError):  # another stage was first
                os.link(written.name, file)
    return file.read_text(encoding="utf-8").strip()


def new_id() -> str:
    """Return a random id of 12 characters."""
    return secrets.token_hex(6)
