"""A database as the place of runs: whether MLflow can use it, and its upgrade if an older MLflow has made it.

MLflow migrates a database in which it misses a table, in place and without a word, and the release that made it cannot
open it any more. So the revision of its tables is read here, before MLflow opens it.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import filelock

from pipeline.core.errors import TrackingError
from pipeline.core.files import new_file, unwritable
from pipeline.tracking.address import Fault, scheme_of
from pipeline.tracking.errors import first_line

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

OTHER = "name another file in MLFLOW_TRACKING_URI, or unset it: runs go to mlflow.db here"
_VERSIONS = Path("store", "db_migrations", "versions")
_REVISION = re.compile(r"^revision\b[^=\n]*=\s*[\"'](\w+)", re.MULTILINE)
_BEFORE = re.compile(r"^down_revision\b[^=\n]*=(.*)$", re.MULTILINE)
_TABLES = {"experiments", "runs"}  # of every release of MLflow
_HEADER = b"SQLite format 3\0"
_BUSY_S = 20.0  # for which MLflow, too, waits for a SQLite file that another process has locked
_UPGRADING, _BACKUP = "upgrading", "backup"

State = Literal["new", "incomplete", "current", "older", "newer", "foreign"]


@dataclass(frozen=True)
class Contents:
    """What a database holds.

    Attributes:
        state: Of its tables, compared with the installed MLflow. ``incomplete`` ones MLflow creates when it opens it.
        revision: Their revision; empty if it has none.
        artifacts: Where each experiment keeps its artifacts, by its name.
    """

    state: State
    revision: str = ""
    artifacts: Mapping[str, str] = field(default_factory=dict)


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite address; None for other addresses, and where SQLite itself parses the name."""
    if scheme_of(uri) != "sqlite":
        return None
    name = uri.partition(":///")[2].partition("?")[0]
    return None if not name or name.startswith((":memory:", "file:")) else Path(name)


def examine(uri: str, *, timeout_s: float, write: bool = True) -> Fault | Contents:
    """Return why MLflow cannot use a database, or what it holds. Nothing in it changes.

    Args:
        uri: Its address, in the right form.
        timeout_s: What it may take to answer.
        write: Open a SQLite file for writing, which rolls back what a killed process has left in it.
    """
    file = sqlite_file(uri)
    if file is None and scheme_of(uri) == "sqlite" and "file:" not in uri:
        return Fault(
            "a database in memory, which ends with each process", "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
        )
    if file is not None:
        if found := _unusable_file(file):
            return found
        if not file.exists() or not file.stat().st_size:
            return Contents("new")
    return _described(uri, _contents(uri, file, timeout_s, write))


def _unusable_file(file: Path) -> Fault | None:
    """Return why a file cannot become, or is not, a SQLite database."""
    if file.is_dir():
        return Fault("a folder", f"export MLFLOW_TRACKING_URI=sqlite:///{file / 'mlflow.db'}")
    if not file.exists():
        reason = unwritable(file.parent)
        return Fault(reason, OTHER) if reason else None
    if not os.access(file, os.R_OK | os.W_OK):
        return Fault("a file that this user may not read and write", f"let this user read and write {file}")
    with file.open("rb") as opened:
        start = opened.read(len(_HEADER))
    return Fault("a file that is no database", OTHER) if start and start != _HEADER else None


def _contents(uri: str, file: Path | None, timeout_s: float, write: bool) -> Fault | Contents:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = _engine(uri, file, timeout_s, write)
    except ModuleNotFoundError as error:
        return Fault(f"no {error.name}, which connects to it", "install that package")
    except (SQLAlchemyError, ValueError) as error:  # the text may repeat a password
        return Fault(type(error).__name__, OTHER)
    try:
        with engine.connect() as connection:
            return _read(connection)
    except SQLAlchemyError as error:
        if file is not None and not write and file.with_name(f"{file.name}-journal").exists():
            return Contents("incomplete")  # a killed process was writing: whoever opens it next rolls that back
        cause = getattr(error, "orig", None) or error
        locked = "locked" in str(cause)
        return Fault(first_line(cause), OTHER if file and not locked else "check that database", file is None or locked)
    finally:
        engine.dispose()


def _engine(uri: str, file: Path | None, timeout_s: float, write: bool) -> Engine:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    if file is None:
        return create_engine(uri, poolclass=NullPool)
    wait_s = max(timeout_s, _BUSY_S) if write else timeout_s
    name = f"{file.absolute().as_uri()}?mode={'rw' if write else 'ro'}"
    return create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(name, uri=True, timeout=wait_s), poolclass=NullPool
    )


def _read(connection: Connection) -> Contents:
    from sqlalchemy import inspect, text

    tables = set(inspect(connection).get_table_names())
    if not tables:
        return Contents("new")
    if not tables & _TABLES:
        return Contents("foreign")
    revision = ""
    if "alembic_version" in tables:
        revision = str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")
    if not revision:
        return Contents("incomplete")
    experiments = connection.execute(text("SELECT name, artifact_location FROM experiments"))
    artifacts = {str(name): str(location or "") for name, location in experiments}
    known, newest = revisions()
    state: State = "current" if revision == newest else "older" if revision in known else "newer"
    return Contents(state, revision, artifacts)


def _described(uri: str, contents: Fault | Contents) -> Fault | Contents:
    """Return the fault of a database that MLflow must not open; an older SQLite file can be upgraded."""
    if isinstance(contents, Fault):
        return contents
    if contents.state == "foreign":
        return Fault("a database of another program", OTHER)
    if contents.state == "newer":
        found = f"a database of a newer MLflow than the one installed here (revision {contents.revision})"
        return Fault(found, "use the project's release that runs on it, or name another database")
    if contents.state == "older" and sqlite_file(uri) is None:
        found = f"a database of an older MLflow (revision {contents.revision})"
        return Fault(found, 'make a backup of it, then `mlflow db upgrade "$MLFLOW_TRACKING_URI"`')
    return contents


@functools.cache
def revisions() -> tuple[frozenset[str], str]:
    """Return the revisions that the installed MLflow knows, and its own, without importing MLflow (3 s)."""
    spec = importlib.util.find_spec("mlflow")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("no module mlflow", name="mlflow")
    scripts = [file.read_text(encoding="utf-8") for file in (Path(spec.origin).parent / _VERSIONS).glob("*.py")]
    known = frozenset(found[1] for script in scripts if (found := _REVISION.search(script)))
    followed = {name for script in scripts for line in _BEFORE.findall(script) for name in re.findall(r"\w+", line)}
    newest = known - followed
    if len(newest) != 1:
        raise TrackingError(
            "MLflow's newest database revision cannot be read", found=", ".join(sorted(newest)) or "none"
        )
    return known, min(newest)


def upgrade(uri: str, log: Callable[[str], None]) -> None:
    """Upgrade a SQLite file of an older MLflow, after a copy beside it.

    After a kill, the next call starts from the copy.

    Args:
        uri: Its address; other databases, and those of the installed MLflow, stay as they are.
        log: Receives the line about it.

    Raises:
        TrackingError: The upgrade has failed; the file is as it was.
    """
    if (file := sqlite_file(uri)) is None:
        return
    file = file.resolve()
    lock = Path(f"{file}.upgrade.lock")
    with filelock.FileLock(lock):
        try:
            _upgrade(file, log)
        finally:
            lock.unlink(missing_ok=True)


def _upgrade(file: Path, log: Callable[[str], None]) -> None:
    for interim in file.parent.glob(f"{file.name}.*.{_UPGRADING}"):  # an upgrade was killed
        _copy(interim, file)
        interim.unlink()
    uri = f"sqlite:///{file}"
    contents = examine(uri, timeout_s=_BUSY_S)
    if isinstance(contents, Fault) or contents.state != "older":
        return
    interim = file.with_name(f"{file.name}.{contents.revision}.{_UPGRADING}")
    with new_file(interim) as partial:
        _copy(file, partial)
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", uri]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode != 0:
        _copy(interim, file)
        interim.unlink()
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["no message"]
        raise TrackingError(
            f"{file} is of an older MLflow and cannot be upgraded",
            found=lines[-1],
            done="it is as it was",
            next_step=OTHER,
        )
    names = (f"{file.name}.{contents.revision}.{_BACKUP}{'' if n == 1 else f'-{n}'}" for n in count(1))
    backup = next(path for name in names if not (path := file.with_name(name)).exists())
    interim.rename(backup)
    log(f"note: {file} was of an older MLflow and has been upgraded; {backup} is a copy of it as it was")


def _copy(source: Path, target: Path) -> None:
    """Copy a database as SQLite does: whole, also while another process uses it."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
