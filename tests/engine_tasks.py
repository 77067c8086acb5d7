"""Tasks that test_engine.py gives to worker processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

prepared: list[str] = []


def setup(word: str) -> None:
    """Prepare a worker: what it was told must be there when a task runs."""
    prepared.append(word)


def run(task: dict[str, Any], emit: Callable[[Any], None]) -> Any:
    """Do what a task says."""
    match task:
        case {"double": number}:
            emit("half way")
            return 2 * number, prepared, os.environ["COLOUR"]
        case {"raise": reason}:
            raise ValueError(reason)
        case {"die_unless": flag}:
            if Path(flag).exists():
                return "second try"
            Path(flag).touch()
            os.kill(os.getpid(), 9)
        case {"always_die": _}:
            os.kill(os.getpid(), 9)
        case {"say_pid_in": file}:
            Path(file).write_text(str(os.getpid()))
            time.sleep(600)  # it is to be killed long before
    return None
