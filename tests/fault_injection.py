"""Kills a process before one of its writes: finds the sites of all writes of a command, and kills it at a chosen one.

A site is a line of the package from which a write goes out: the nearest frame below the call and, where that is a
module of general functions such as `core.files`, the nearest frame that calls it. A write is a change to a file of the
workspace (known by Python's audit events, and by `os.fsync`), or a call of MLflow's client or Optuna's storage that may
write. Each operation of a line is a site of its own: `new_folder` makes a folder, renames it and removes another.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pipeline

PACKAGE = str(Path(pipeline.__file__).parent) + os.sep
GENERAL = tuple(PACKAGE + part for part in ("core/", "artifacts/", "tracking/", "registry/versions.py"))
CHANGES = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
    "shutil.rmtree", "shutil.copyfile", "shutil.copytree", "shutil.move", "shutil.make_archive",
}  # fmt: skip
READS = (
    "_",
    "get_",
    "search_",
    "list_",
    "download_",
    "load_",
)  # how methods of MLflow's client begin that write nothing
STORED = ("create_new_", "delete_", "set_")  # how the methods of Optuna's storage begin that write


@dataclass(frozen=True)
class Plan:
    """What the hooks of a process do.

    Attributes:
        root: Changes to files outside of this folder do not count.
        record: File to which each site is appended when it is reached.
        kill: The site before which to kill the command; empty for none.
        visit: How often the site is reached before that, this time included.
    """

    root: str
    record: str = ""
    kill: str = ""
    visit: int = 1

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


class Hooks:
    """The hooks of one process.

    Args:
        plan: What they do.
        command: The process to kill together with this one: the command whose worker this is.
    """

    def __init__(self, plan: Plan, command: int | None = None) -> None:
        self._plan, self._command = plan, command
        self._role = "worker" if command else "main"
        self._inside = False
        self._visits = 0
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.open(plan.record, flags, 0o600) if plan.record else None

    def install(self) -> None:
        """Watch every write from now on."""
        sync = os.fsync

        def fsync(file: Any) -> None:
            self.reached("os.fsync", sys._getframe(1))
            sync(file)

        os.fsync = fsync
        if "mlflow" in sys.modules:
            from mlflow import MlflowClient

            self._wrap(MlflowClient, "mlflow", lambda name: not name.startswith(READS))
        if "optuna" in sys.modules:
            from optuna.storages import RDBStorage

            self._wrap(RDBStorage, "optuna", lambda name: name.startswith(STORED))
        sys.addaudithook(self._audit)

    def _wrap(self, kind: type, label: str, chosen: Callable[[str], bool]) -> None:
        for name in filter(chosen, dir(kind)):
            method = getattr(kind, name)
            if callable(method):
                setattr(kind, name, self._watched(method, f"{label}.{name}"))

    def _watched(self, method: Callable[..., Any], operation: str) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            self.reached(operation, sys._getframe(1))
            return method(*arguments, **more)

        return call

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
                return
        elif event not in CHANGES:
            return
        folder = arguments[-1] if event.startswith("os.") else None
        if not self._inside and self._counts(arguments[0], folder):
            self.reached(event, sys._getframe(1))

    def _counts(self, path: Any, folder: Any) -> bool:
        """Return whether a path lies in the workspace, and not among the system's temporary files.

        Args:
            path: As it was passed to the call.
            folder: Descriptor of the folder that the path is relative to; negative or no number for none.
        """
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        start = Path(f"/proc/self/fd/{folder}").resolve() if isinstance(folder, int) and folder >= 0 else Path.cwd()
        whole = Path(os.path.normpath(start / os.fsdecode(path)))
        return whole.is_relative_to(self._plan.root) and not whole.is_relative_to(self._plan.root + "/tmp")

    def reached(self, operation: str, frame: FrameType) -> None:
        """Record a site, and kill the command before the chosen one."""
        where = None if self._inside else place(frame)
        if where is None:
            return
        self._inside = True
        site = f"{self._role}: {where} {operation}"
        if self._file is not None:
            os.write(self._file, f"{site}\n".encode())
        if site == self._plan.kill:
            self._visits += 1
            if self._visits == self._plan.visit:
                self._kill()
        self._inside = False

    def _kill(self) -> None:
        if self._command:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._command, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def place(frame: FrameType | None) -> str | None:
    """Return the lines of the package that a call goes out from; None where the package has no part in it."""
    lines: list[str] = []
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE):
            general = file.startswith(GENERAL)
            if not lines or not general:
                lines.append(f"{file.removeprefix(PACKAGE)}:{frame.f_lineno}")
            if not general:
                break
        frame = frame.f_back
    return " < ".join(lines) or None
