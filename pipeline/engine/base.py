"""What an engine is: something that runs tasks elsewhere and tells what becomes of them.

A task is any picklable value; `Work` names the function that runs it. Whoever submits tasks stays the only one to
touch studies and tracking servers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Work:
    """What workers do, by name, so that it can be told to another process or machine.

    Attributes:
        function: ``package.module:name`` of ``function(task, emit) -> result``; `emit` sends a progress message.
        setup: ``package.module:name`` of a function that prepares a worker, once, before its first task.
        setup_arguments: Keyword arguments for it.
    """

    function: str
    setup: str
    setup_arguments: Mapping[str, Any] = field(default_factory=dict)


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


Event = Progress | Done | Failed


class Executor(Protocol):
    """Runs tasks on a number of slots. Use as a context manager: leaving it ends every worker."""

    slots: int

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
