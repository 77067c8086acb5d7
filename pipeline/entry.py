"""How a stage or command starts and ends: one error line, exit codes, and no life after its parent's.

DVC runs a stage as a child process. If DVC is killed with SIGKILL it cannot pass that on, and the stage would go on
writing outputs that a new `dvc repro` has already deleted. So a stage watches the process that started it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from pipeline.errors import PipelineError

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_WATCH_INTERVAL_S = 0.5
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish"})  # DVC starts a command through one


def run(main: Callable[[], int | None]) -> None:
    """Run a command's ``main`` and exit: 0 or its own code when it returns, 1 with one line on a `PipelineError`."""
    try:
        code = main() or 0
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        code = FAILED
    except KeyboardInterrupt:
        print("interrupted: finished work is kept; run the same command again to go on", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:  # `pipeline … | head`: the reader has gone, there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def stage(main: Callable[[], None]) -> None:
    """Run a DVC stage's ``main``; see `run`. The stage ends within a second of whoever started it."""
    require_own_code()
    end_with_parent()
    run(main)


def require_own_code() -> None:
    """Refuse to run code other than the files beside dvc.yaml, which are the ones that DVC has hashed."""
    package = Path(__file__).resolve().parent
    if Path("dvc.yaml").exists() and package != (Path.cwd() / "pipeline").resolve():
        print(
            f"error: the code that runs is not the code DVC hashed: expected {Path.cwd() / 'pipeline'}, found {package};"
            " next: unset PYTHONSAFEPATH and PYTHONPATH, and run `dvc repro` in the project's root",
            file=sys.stderr,
        )
        sys.exit(FAILED)


def end_with_parent() -> None:
    """Start a thread that ends this process when the DVC that started it is killed (its workers follow by themselves).

    Does nothing when a person runs the stage by hand: `nohup python -m pipeline.search …` outlives its shell.
    """
    watched: list[psutil.Process] = []
    for ancestor in psutil.Process().parents():
        watched.append(ancestor)
        if ancestor.name() not in _SHELLS:
            break
    if watched and any(Path(word).name == "dvc" for word in watched[-1].cmdline()[:4]):
        threading.Thread(target=_watch, args=(watched,), daemon=True, name="end-with-parent").start()


def _watch(ancestors: list[psutil.Process]) -> None:
    while all(_alive(ancestor) for ancestor in ancestors):
        time.sleep(_WATCH_INTERVAL_S)
    os._exit(FAILED)


def _alive(process: psutil.Process) -> bool:
    """Tell whether a process still runs; a zombie does not, and a reused pid is another process."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
