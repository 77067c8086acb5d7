"""The executor interface: runs tasks in other processes and returns their results as events.

A task is any picklable value; `Work` names the function that runs it. Only the submitting process accesses studies and
tracking servers.
"""

from __future__ import annotations

import errno
import importlib
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Work:
    """The functions that workers run, by name, so that they can be sent to another process or machine.

    Attributes:
        function: ``package.module:name`` of ``function(task, emit) -> result``; `emit` sends a progress message.
        setup: ``package.module:name`` of a function that prepares a worker before its first task.
        setup_arguments: Keyword arguments of `setup`; they must be JSON-serializable.
        forkable: Whether workers may be forked from a process in which `setup` was called: it must start no threads,
            keep nothing open, and be safe to call again in the worker.
    """

    function: str
    setup: str
    setup_arguments: Mapping[str, Any] = field(default_factory=dict)
    forkable: bool = False


@dataclass(frozen=True)
class Progress:
    """A running task has sent a message."""

    key: int
    message: Any


@dataclass(frozen=True)
class Done:
    """A task has returned."""

    key: int
    result: Any
    worker: str


@dataclass(frozen=True)
class Failed:
    """A task has raised an exception, or every worker that tried it has died.

    Attributes:
        died: Whether its workers died or hung. Then the machine may be the cause, for instance for lack of memory.
    """

    key: int
    reason: str
    worker: str
    died: bool = False


@dataclass(frozen=True)
class Broken:
    """A task could not run because of the machine, such as a full disk: it may succeed later."""

    key: int
    reason: str
    worker: str


Event = Progress | Done | Failed | Broken

# Errors caused by the machine and not by the task: no space, no quota, a file too large, a failing or read-only disk,
# too many open files, no permission.
_MACHINE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EROFS,
        errno.EMFILE,
        errno.ENFILE,
        errno.EACCES,
        errno.EPERM,
    }
)


class Executor(Protocol):
    """Runs tasks on a number of slots. Use as a context manager: it ends every worker on exit."""

    @property
    def slots(self) -> int:
        """Number of tasks that can run at once."""

    def warm_up(self) -> None:
        """Start workers in advance if they are slow to start."""

    def submit(self, key: int, task: Any) -> None:
        """Queue a task under a key of the caller's choice."""

    def wait(self, timeout_s: float) -> Iterator[Event]:
        """Wait for events for at most `timeout_s` seconds, and yield them."""

    def close(self) -> None:
        """End every worker at once; unfinished tasks are lost."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *exception: object) -> None: ...


def resolve(name: str) -> Callable[..., Any]:
    """Return the function that ``package.module:name`` names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


# The event for each outcome that a worker reports.
ENDS: dict[str, type[Done | Failed | Broken]] = {"done": Done, "failed": Failed, "broken": Broken}


def answer(function: Callable[..., Any], task: Any, emit: Callable[[Any], None]) -> tuple[str, Any]:
    """Run a task in a worker; return the outcome, a key of `ENDS`, and the result or the reason."""
    try:
        return "done", function(task, emit)
    except Exception as error:  # noqa: BLE001 - report any error to the parent, which decides
        machine = isinstance(error, OSError) and error.errno in _MACHINE
        return "broken" if machine else "failed", _reason(error)


def _reason(error: Exception) -> str:
    """Return an error as one line, with its location if it is unexpected."""
    message = f"{type(error).__name__}: {error}".strip()
    if error.__class__.__module__.startswith("pipeline."):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/pipeline/" in frame.filename.replace(os.sep, "/")]
    where = f" ({ours[-1].name}, line {ours[-1].lineno})" if ours else ""
    return " ".join(message.split())[:500] + where
