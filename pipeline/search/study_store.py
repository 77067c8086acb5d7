"""The folder of all studies: locks them, lists them, and removes old ones."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import EngineError
from pipeline.core.files import write_text
from pipeline.search import rung_results
from pipeline.tracking.identity import new_id

STUDY_FILE = "study.db"
_ID_FILE = "id"
_LOCK_S = 10.0  # a killed search takes a second to release the lock


@contextmanager
def locked(folder: Path, wait_s: float = _LOCK_S) -> Iterator[None]:
    """Hold a study's lock, so that only one process writes to the study.

    Raises:
        EngineError: Another process holds the lock.
    """
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=wait_s)
    except filelock.Timeout:
        raise EngineError(
            f"{folder.name}: another search uses this study",
            expected="one search at a time",
            found=f"{folder / 'lock'} is held",
            next_step="wait for that search, or stop it",
        ) from None
    with lock:
        for partial in folder.glob(".*.partial"):  # left by a killed search, and not written again by each
            partial.unlink(missing_ok=True)
        yield


def begun(folder: Path) -> bool:
    """Return whether a folder contains a study, without importing Optuna."""
    return (folder / rung_results.FOLDER).exists() or (folder / STUDY_FILE).exists()


def identify(folder: Path) -> str:
    """Return the key of a study in MLflow, which names this study and no other; see `key`. Its lock must be held.

    A study that is about to be created gets a random id. So a study that was lost and is searched again, and the study
    of another workspace with equal settings, have runs of their own on one tracking server.
    """
    if not begun(folder):
        write_text(folder / _ID_FILE, new_id() + "\n")
    return key(folder)


def key(folder: Path) -> str:
    """Return the key of a study in MLflow: its name and id; only its name where an earlier release has created it."""
    try:
        return f"{folder.name}.{(folder / _ID_FILE).read_text(encoding='utf-8').strip()}"
    except FileNotFoundError:
        return folder.name


def keys(studies: Path) -> set[str]:
    """Return the keys of all studies in a folder."""
    return {key(path) for path in studies.iterdir() if path.is_dir()}


def owns(key: str, run_key: str) -> bool:
    """Return whether the run with a key is a study's own or that of one of its trials."""
    return run_key == key or run_key.startswith(f"{key}-")


def idle_siblings(studies: Path, dataset: str, family: str, current: str) -> list[Path]:
    """Return the other idle studies of a family on a dataset, the most recently searched first."""
    name = re.compile(rf"{re.escape(f'{dataset}-{family}')}-g\d+-[0-9a-f]+")
    found = [path for path in studies.iterdir() if name.fullmatch(path.name) and path.name != current]
    idle = [path for path in found if _idle(path)]
    return sorted(idle, key=lambda path: (_searched(path), path.name), reverse=True)


def sweep(siblings: list[Path], keep: int, protected: Collection[str]) -> list[str]:
    """Remove studies beyond a limit, and return their names.

    Args:
        siblings: The other studies of the family on the dataset, the most recently searched first.
        keep: Number of studies to keep, including the current one, which is not in `siblings`.
        protected: Names of studies that led to a registered version. They are kept and do not count.
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
    """Return the time of the last recorded result of a study, in seconds since the Unix epoch."""
    files = [*folder.glob(f"{STUDY_FILE}*"), *folder.glob(f"{rung_results.FOLDER}/*/*.json")]
    return max((path.stat().st_mtime for path in files), default=0.0)
