"""Tasks that test_executors.py gives to worker processes."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

prepared: list[str] = []
leaked: list[bytearray] = []


def setup(word: str) -> None:
    """Prepare a worker: its argument must be there when a task runs."""
    prepared.append(word)


def run(task: dict[str, Any], emit: Callable[[Any], None]) -> Any:
    """Run a task."""
    match task:
        case {"double": number}:
            emit("half way")
            return 2 * number, prepared, os.environ["COLOUR"]
        case {"identity": _}:
            return prepared, os.getpid(), os.getppid()
        case {"raise": reason}:
            raise ValueError(reason)
        case {"slow_but_alive": times}:
            for _ in range(times):
                time.sleep(0.5)
                emit("alive")
        case _:
            return misbehave(task)
    return None


def misbehave(task: dict[str, Any]) -> Any:
    """Do what no task should."""
    match task:
        case {"die_unless": flag}:
            if Path(flag).exists():
                return "second try"
            Path(flag).touch()
            os.kill(os.getpid(), 9)
        case {"hang_unless": flag}:
            if Path(flag).exists():
                return "second try"
            Path(flag).touch()
            time.sleep(600)
        case {"hang": _}:
            time.sleep(600)
        case {"leak": megabytes}:
            leaked.append(bytearray(os.urandom(1024) * 1024 * megabytes))
            return os.getpid(), len(leaked)
        case {"no_space_for": file}:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)
        case {"always_die": _}:
            os.kill(os.getpid(), 9)
        case {"write_pid_to": file}:
            Path(file).write_text(str(os.getpid()))
            time.sleep(600)  # it is to be killed long before
    return None
