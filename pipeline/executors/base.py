"""What an engine is: something that runs tasks elsewhere and tells what becomes of them.

A task is any picklable value; `Work` names the function that runs it. Whoever submits tasks stays the only one to
touch studies and tracking servers.
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
    """What workers do, by name, so that it can be told to another process or machine.

    Attributes:
        function: ``package.module:name`` of ``function(task, emit) -> result``; `emit` sends a progress message.
        setup: ``package.module:name`` of a function that prepares a worker before its first task.
        setup_arguments: Keyword arguments for it, such as JSON can hold.
        forkable: Whether workers may be forked from a process in which `setup` was called: it starts no threads,
            keeps nothing open, and does no harm when it is called again in the worker.
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
    """A task has raised, or every worker that tried it has died."""

    key: int
    reason: str
    worker: str


@dataclass(frozen=True)
class Broken:
    """A task could not be run for a reason that is not its own, such as a full disk: later it may succeed."""

    key: int
    reason: str
    worker: str


Event = Progress | Done | Failed | Broken

# What a machine lacks or forbids, whatever the task: no space, no quota, a file too large, a failing or read-only disk,
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
    """Runs tasks on a number of slots. Use as a context manager: leaving it ends every worker."""

    @property
    def slots(self) -> int:
        """How many tasks can run at once."""

    def warm_up(self) -> None:
        """Start workers where they take long to start, though there is nothing to do yet."""

    def submit(self, key: int, task: Any) -> None:
        """Queue a task under a key of the caller's choice."""

    def wait(self, timeout_s: float) -> Iterator[Event]:
        """Yield what has happened, after at most `timeout_s` seconds of waiting for something to happen."""

    def close(self) -> None:
        """End every worker at once; what they were computing is lost."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *exception: object) -> None: ...


def resolve(name: str) -> Callable[..., Any]:
    """Return the function that ``package.module:name`` names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


# How a task ends, as workers say it.
ENDS: dict[str, type[Done | Failed | Broken]] = {"done": Done, "failed": Failed, "broken": Broken}


def answer(function: Callable[..., Any], task: Any, emit: Callable[[Any], None]) -> tuple[str, Any]:
    """Run a task, and return how it ended, a name in `ENDS`, with its result or the reason. For workers."""
    try:
        return "done", function(task, emit)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told and decides
        machine = isinstance(error, OSError) and error.errno in _MACHINE
        return "broken" if machine else "failed", _reason(error)


def _reason(error: Exception) -> str:
    """Return what failed, in one line, and where for errors that nobody foresaw."""
    told = f"{type(error).__name__}: {error}".strip()
    if error.__class__.__module__.startswith("pipeline."):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/pipeline/" in frame.filename.replace(os.sep, "/")]
    where = f" ({ours[-1].name}, line {ours[-1].lineno})" if ours else ""
    return " ".join(told.split())[:500] + where
