"""The folder of all studies: who works on one, and which of them are kept."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import EngineError

_LOCK_S = 10.0  # a killed search takes a second to let go


@contextmanager
def locked(folder: Path, wait_s: float = _LOCK_S) -> Iterator[None]:
    """Hold a study's lock: two processes that write to one study would each undo what the other did.

    Raises:
        EngineError: Another process holds it.
    """
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=wait_s)
    except filelock.Timeout:
        raise EngineError(
            f"{folder.name}: another search is at work on this study",
            expected="one search at a time",
            found=f"{folder / 'lock'} is held",
            next_step="wait for it, or end it",
        ) from None
    with lock:
        yield


def idle_siblings(studies: Path, dataset: str, family: str, current: str) -> list[Path]:
    """Return the other studies of a family on a dataset, the one searched last first; not those at work now."""
    name = re.compile(rf"{re.escape(f'{dataset}-{family}')}-g\d+-[0-9a-f]+")
    found = [path for path in studies.iterdir() if name.fullmatch(path.name) and path.name != current]
    idle = [path for path in found if _idle(path)]
    return sorted(idle, key=lambda path: (_searched(path), path.name), reverse=True)


def sweep(siblings: list[Path], keep: int, protected: Collection[str]) -> list[str]:
    """Remove studies beyond a limit, and return their names.

    Args:
        siblings: The other studies of the family on the dataset, the one searched last first.
        keep: How many are kept, the current one, which is none of them, included.
        protected: Names of studies that led to a registered version: they stay, and do not count.
    """
    free = [path for path in siblings if path.name not in protected]
    for path in free[keep - 1 :]:
        with locked(path, 0):
            shutil.rmtree(path)
    return [path.name for path in free[keep - 1 :]]


def _idle(folder: Path) -> bool:
    try:
        with locked(folder, 0):
            return True
    except EngineError:
        return False


def _searched(folder: Path) -> float:
    """Return when a study was last written to, in seconds since the epoch."""
    return max((path.stat().st_mtime for path in folder.glob("study.db*")), default=0.0)
