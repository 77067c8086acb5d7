"""A database of an older MLflow is copied before it is upgraded; one that MLflow would damage is refused."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import doctor
from pipeline.core.errors import TrackingError
from pipeline.tracking import database as databases
from pipeline.tracking import server
from pipeline.tracking.runs import Connection

OF_2_X, BEFORE = "0584bdc529eb", "75868b020152"  # revisions: of a 2.x release, and the last but one
LATER = "ffffffffffff"


@pytest.fixture(scope="module")
def made_by_2_x(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as MLflow's own scripts make it up to a revision of a 2.x release: it lacks later tables."""
    import mlflow
    from alembic import command
    from alembic.config import Config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    file = tmp_path_factory.mktemp("older") / "older.db"
    config = Config()
    config.set_main_option("script_location", str(Path(mlflow.__file__).parent / "store/db_migrations"))
    engine = create_engine(f"sqlite:///{file}")
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OF_2_X)
    engine.dispose()
    return file


@pytest.fixture(params=[OF_2_X, BEFORE], ids=["lacks tables", "has all tables"])
def older(request: pytest.FixtureRequest, made_by_2_x: Path, database: Path) -> Path:
    """A database of an older MLflow, which MLFLOW_TRACKING_URI names."""
    if request.param == OF_2_X:
        shutil.copyfile(made_by_2_x, database)
    else:
        at(database, BEFORE)
    return database


def at(file: Path, revision: str) -> None:
    """Give a database another revision, and nothing else."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def revision(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def digest(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()


def use(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")


def test_the_revision_of_the_installed_mlflow_is_that_of_a_database_that_it_makes(database: Path) -> None:
    assert databases.revisions()[1] == revision(database)
    assert databases.examine(f"sqlite:///{database}", timeout_s=1).state == "current"  # type: ignore[union-attr]


def test_doctor_reports_an_older_database_and_changes_nothing(older: Path) -> None:
    before = older.read_bytes(), sorted(older.parent.iterdir())
    [check] = doctor._tracking()
    assert check.status == "warn"
    assert f"a database of an older MLflow (revision {revision(older)})" in check.found
    assert server.unavailable() is None
    assert (older.read_bytes(), sorted(older.parent.iterdir())) == before


def test_a_database_of_an_older_mlflow_is_copied_and_upgraded_with_one_line(
    made_by_2_x: Path, database: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(made_by_2_x, database)
    for _ in range(2):
        Connection()
    copy = database.with_name(f"mlflow.db.{OF_2_X}.backup")
    assert digest(copy) == digest(made_by_2_x)
    assert revision(database) == databases.revisions()[1]
    line = f"note: {database} was of an older MLflow and has been upgraded; {copy} is a copy of it as it was\n"
    assert capfd.readouterr().err == line
    assert {path.name for path in database.parent.iterdir()} == {"mlflow.db", copy.name}


def half(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
    """Stand in for an upgrade that fails in its middle."""
    with closing(sqlite3.connect(command[-1].removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("CREATE TABLE half (id INTEGER)")
    return subprocess.CompletedProcess(command, 1, "", "INFO  a\nOperationalError: table exists\n")


def test_an_upgrade_that_fails_or_is_killed_leaves_the_database_as_it_was(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(database, BEFORE)
    before = digest(database)

    def interrupted(command: list[str], **_: Any) -> None:
        half(command)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Connection()
    assert digest(database) != before
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", half)
        with pytest.raises(
            TrackingError, match=r"cannot be upgraded: found OperationalError: .*; it is as it was; next"
        ):
            Connection()
    assert digest(database) == before
    assert [path.name for path in database.parent.iterdir()] == [database.name]


def test_an_earlier_copy_is_never_overwritten(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = databases.revisions()[1]

    def done(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        at(database, newest)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", done)
    for _ in range(2):
        at(database, BEFORE)
        Connection()
    copies = sorted(database.parent.glob("*.backup*"))
    assert [path.name for path in copies] == [f"mlflow.db.{BEFORE}.backup", f"mlflow.db.{BEFORE}.backup-2"]
    assert {revision(copy) for copy in copies} == {BEFORE}


def test_a_database_of_a_newer_mlflow_is_refused_in_one_line(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at(database, LATER)
    before = database.read_bytes()
    with pytest.raises(
        TrackingError, match=f"found a database of a newer MLflow .*revision {LATER}.*name another"
    ) as failure:
        Connection()
    assert "\n" not in str(failure.value)
    assert database.read_bytes() == before
    [check] = doctor._tracking()
    assert check.status == "missing"
    use(database.with_name("other.db"), monkeypatch)
    assert server.unavailable() is None


def refused(monkeypatch: pytest.MonkeyPatch) -> str:
    """Check that a database is refused as one that a server holds is, and return the command that is advised."""
    from sqlalchemy import create_engine

    with monkeypatch.context() as patch:
        patch.setattr(databases, "sqlite_file", lambda uri: None)
        patch.setattr(databases, "_engine", lambda uri, *_: create_engine(uri))
        patch.setattr(databases, "scheme_of", lambda uri: "postgresql")
        with pytest.raises(
            TrackingError, match=r"found a database of an older MLflow.*next: make a backup of it"
        ) as failure:
            Connection()
    assert "\n" not in str(failure.value)
    [command] = re.findall("`(.*)`", str(failure.value))
    return str(command)


def test_an_older_database_that_is_no_file_is_refused_with_the_command(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = older.read_bytes()
    assert refused(monkeypatch) == 'mlflow db upgrade "$MLFLOW_TRACKING_URI"'
    assert older.read_bytes() == before
    assert [path.name for path in older.parent.iterdir()] == [older.name]


@pytest.mark.slow
def test_the_command_that_is_advised_upgrades_a_database(
    made_by_2_x: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(made_by_2_x, database)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", refused(monkeypatch)], env=env, check=True, capture_output=True)
    assert revision(database) == databases.revisions()[1]


def test_what_a_killed_process_was_writing_is_rolled_back_by_the_next_run_and_not_by_doctor(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA cache_size = 1'); "
        "c.execute('CREATE TABLE junk (x)'); "
        "c.executemany('INSERT INTO junk VALUES (?)', [('x' * 900,)] * 900); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(database)], check=False).returncode == 9
    journal = database.with_name("mlflow.db-journal")
    assert journal.exists()
    before = database.read_bytes(), journal.read_bytes()
    [check] = doctor._tracking()
    assert check.status == "ok", check
    assert (database.read_bytes(), journal.read_bytes()) == before
    assert server.unavailable() is None
    assert not journal.exists()
