"""The tracking server: no secret is shown, errors are one line, and a server that is away stops no training."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import TrackingError
from pipeline.tracking import server
from pipeline.tracking.errors import redacted, translated
from pipeline.tracking.identity import workspace_id
from pipeline.tracking.runs import KEY, Tracker
from tests.tracking_server import answering, certificate

ROOT = Path(__file__).parents[1]
VARIABLES = ("URI", "USERNAME", "PASSWORD", "TOKEN", "INSECURE_TLS", "SERVER_CERT_PATH")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set what MLflow reads, and restore what the code below writes."""
    for name in (*(f"MLFLOW_TRACKING_{name}" for name in VARIABLES), "REQUESTS_CA_BUNDLE", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in {"MAX_RETRIES": "0", "TIMEOUT": "1"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    yield
    for name in VARIABLES:
        os.environ.pop(f"MLFLOW_TRACKING_{name}", None)


# The address, and the user and password that MLflow gets; None where an address has none that can be moved.
HTTP = [
    ("http://ada:SECRET@{}", "ada", "SECRET"),
    ("http://ada:SEC/RET@{}", "ada", "SEC/RET"),
    ("http://ada:SEC#RET@{}", "ada", "SEC#RET"),
    ("http://ada:SEC?RET@{}", "ada", "SEC?RET"),
    ("http://ada:SEC@RET@{}", "ada", "SEC@RET"),
    ("http://ada:SEC:RET@{}", "ada", "SEC:RET"),
    ("http://ada:SEC%RET@{}", "ada", "SEC%RET"),
    ("http://ada:SEC%2FRET@{}", "ada", "SEC/RET"),
    ("http://ada:SECRÉTпароль@{}", "ada", "SECRÉTпароль"),
    ("http://SECRETTOKEN@{}", "SECRETTOKEN", None),
    ("HTTP://ada:SECRET@{}/team@home", "ada", "SECRET"),
    ("http://{}/?password=SECRET", None, None),
    ("http://{}/path?token=SECRET#SECRET", None, None),
]
DATABASES = [
    "postgresql://ada:SECRET@127.0.0.1:{}/runs",
    "postgresql://ada:SEC/RET@127.0.0.1:{}/runs",
    "postgresql://ada:SEC@RET@127.0.0.1:{}/runs",
    "mysql+pymysql://ada:SEC%40RET@127.0.0.1:{}/runs",
    "postgresql://127.0.0.1:{}/runs?password=SECRET&sslpassword=SECRET",
    "postgresql://ada:SECRET@127.0.0.1:notaport/runs",
    "nothing://ada:SECRET@127.0.0.1:{}/runs",
]


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a port of this machine at which nobody listens."""
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def assert_hidden(text: str) -> None:
    assert not [part for part in ("SEC", "RET", "пароль") if part in text], text


@pytest.mark.parametrize(("form", "user", "password"), HTTP)
def test_credentials_leave_the_address_and_no_message_shows_them(
    form: str, user: str | None, password: str | None, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", form.format(refusing))
    with pytest.raises(TrackingError, match="the tracking server cannot be used") as failure:
        Tracker("digits")
    assert_hidden(str(failure.value))
    assert_hidden(server.shown_uri())
    assert failure.value.__cause__ is None
    assert (os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")) == (user, password)
    from mlflow import MlflowClient

    uri = os.environ["MLFLOW_TRACKING_URI"]
    with pytest.raises(TrackingError) as failure, translated():  # what MLflow says when it is called past the check
        MlflowClient(uri).search_experiments()
    assert_hidden(str(failure.value))
    assert_hidden(redacted(f"Basic of {user}:{password}, {form.format(refusing)}, {password} and {uri}"))


@pytest.mark.parametrize("form", DATABASES)
def test_the_address_of_a_database_is_shown_without_its_secrets(
    form: str, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = form.format(refusing.partition(":")[2])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError) as failure:
        Tracker("digits")
    assert_hidden(str(failure.value))
    assert_hidden(redacted(f"cannot connect to {uri}"))


def test_a_command_moves_credentials_before_it_starts_other_processes(tmp_path: Path) -> None:
    """The stage's own environment, and so that of its workers, has the address without them."""
    program = (
        "import os, subprocess, sys; from pipeline.core import process\n"
        "process.run(lambda: subprocess.call([sys.executable, '-c', "
        '\'import os; print([os.environ[f"MLFLOW_TRACKING_{n}"] for n in ("URI", "USERNAME", "PASSWORD")])\']))'
    )
    env = {**os.environ, "MLFLOW_TRACKING_URI": "https://ada:love/lace@host:5000/a", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout == "['https://host:5000/a', 'ada', 'love/lace']\n", done.stderr


@pytest.fixture
def pages(tmp_path: Path):
    """Run `make ui` with a server that prints its arguments and the store that it would open."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make")
    tool = tmp_path / "venv" / "bin" / "mlflow"
    tool.parent.mkdir(parents=True)
    tool.write_text('#!/bin/sh\necho "arguments: $*"\necho "store: $MLFLOW_BACKEND_STORE_URI"\n')
    tool.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    installed = tmp_path / "installed"
    installed.touch()

    def run(uri: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [make, "--no-print-directory", "ui", "VENV=venv", f"INSTALLED={installed}", "PORT=5001", *more]
        env = {**os.environ, "MLFLOW_TRACKING_URI": uri}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    return run


def test_the_pages_are_started_without_an_address_on_the_command_line(pages) -> None:
    uri = "postgresql://ada:lovelace@db:5432/runs"
    shown, store = pages(uri).stdout.splitlines()[-2:]
    assert shown.startswith("arguments: server ")
    assert "lovelace" not in shown
    assert store == f"store: {uri}"


@pytest.mark.parametrize(
    ("uri", "file", "store"),
    [
        ("", "runs/a/mlflow.db", "sqlite:///{}/runs/a/mlflow.db"),
        ("sqlite:///team.db", "team.db", "sqlite:///{}/team.db"),
        ("sqlite+pysqlite:///team.db?timeout=5", "team.db", "sqlite+pysqlite:///{}/team.db?timeout=5"),
        ("sqlite:///{}/x.db", "x.db", "sqlite:///{}/x.db"),
        ("postgresql://db/runs", "x", "postgresql://db/runs"),
    ],
)
def test_the_pages_show_the_store_that_is_set_whatever_the_workspace(
    uri: str, file: str, store: str, pages, tmp_path: Path
) -> None:
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / file).touch()
    (tmp_path / "runs/a/team.db").touch()  # of an earlier release
    done = pages(uri.format(tmp_path), "WORKSPACE=runs/a")
    assert done.stdout.splitlines()[-1] == f"store: {store.format(tmp_path)}", done.stderr


@pytest.mark.parametrize(
    ("uri", "advice"),
    [("", "make demo, make ui WORKSPACE=runs/demo"), ("sqlite:///mlflow.db", "correct or unset MLFLOW_TRACKING_URI")],
)
def test_pages_without_runs_are_one_line(uri: str, advice: str, pages, tmp_path: Path) -> None:
    done = pages(uri)
    assert done.stderr.splitlines()[0] == f"error: no runs: expected {tmp_path}/mlflow.db; next: {advice}"


@pytest.mark.parametrize(("status", "reason"), [(200, None), (404, "HTTP 404"), (401, "HTTP 401"), (503, "HTTP 503")])
def test_a_server_is_asked_with_the_credentials_of_the_user(
    status: int, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status) as (uri, seen):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//ada:lovelace@"))
        assert (server.unavailable() or "None").startswith(str(reason))
    assert set(seen) == {"Basic YWRhOmxvdmVsYWNl"}


def test_a_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(None) as (uri, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert server.unavailable(0.2) == "ReadTimeoutError"


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_server_with_a_certificate_of_its_own_is_trusted_as_mlflow_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = certificate(tmp_path)
    with answering(200, files) as (uri, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert (server.unavailable() or "").startswith("SSLError: its certificate is not trusted")
        for name, value in (
            ("MLFLOW_TRACKING_SERVER_CERT_PATH", str(files[0])),
            ("REQUESTS_CA_BUNDLE", str(files[0])),
            ("MLFLOW_TRACKING_INSECURE_TLS", "true"),
        ):
            with monkeypatch.context() as only:
                only.setenv(name, value)
                assert server.unavailable() is None, name


def test_limits_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "9")
    server.load_mlflow()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "9"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "30"


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs: making one takes a second, copying it none."""
    file = tmp_path_factory.mktemp("empty") / "runs.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
        Tracker("digits")
    return file


@pytest.fixture
def tracker(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """A tracker on a database of its own."""
    shutil.copy(empty_database, tmp_path / "runs.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    return Tracker("digits")


def test_an_error_of_mlflow_is_one_line_and_keeps_its_code(tracker: Tracker) -> None:
    with pytest.raises(TrackingError) as failure:
        tracker.client.get_run("0" * 32)
    assert failure.value.error_code == "RESOURCE_DOES_NOT_EXIST"  # type: ignore[attr-defined]
    assert "\n" not in str(failure.value)
    with pytest.raises(TypeError):  # a bug keeps its traceback
        tracker.client.get_run()


def test_an_experiment_that_was_deleted_is_one_line(tracker: Tracker) -> None:
    run = tracker.start("key", "name", tags={})
    tracker.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(TrackingError, match=r"the experiment digits was deleted.* restore -x 1"):
        Tracker("digits")
    with pytest.raises(TrackingError, match="was deleted"):
        tracker.log_metrics(run.run_id, {"a": 1.0})


@pytest.fixture
def impatient() -> Iterator[None]:
    """Let MLflow wait for a locked database for 50 ms instead of 20 s."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def shorten(
        _connection: object, _cursor: object, statement: str, parameters: object, *_: object
    ) -> tuple[Any, Any]:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 50"), parameters

    event.listen(Engine, "before_cursor_execute", shorten, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", shorten)


@pytest.mark.usefixtures("impatient")
def test_a_locked_database_is_one_line(tracker: Tracker, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(tmp_path / "runs.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match="the tracking database is locked"):
            tracker.start("key", "name", tags={})
        other.rollback()
    assert "Traceback" not in capfd.readouterr().err
    assert tracker.start("key", "name", tags={}).status == "RUNNING"


@pytest.mark.usefixtures("impatient")
def test_a_run_that_is_interrupted_inside_a_transaction_ends_killed(tracker: Tracker) -> None:
    """The cursor of the statement that Ctrl-C cuts short keeps the database locked while the error is handled."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def press_ctrl_c(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if armed and statement.startswith("SELECT"):
            armed.clear()
            raise KeyboardInterrupt

    def log() -> None:
        with tracker.running("key", "name", {}) as run_id:
            tracker.log_metrics(run_id, {"a": 1.0})
            armed.append(True)
            tracker.log_metrics(run_id, {"a": 2.0})

    armed: list[bool] = []
    event.listen(Engine, "after_cursor_execute", press_ctrl_c)
    try:
        with pytest.raises(KeyboardInterrupt):
            log()
    finally:
        event.remove(Engine, "after_cursor_execute", press_ctrl_c)
    assert [run.status for run in tracker.runs("").values()] == ["KILLED"]


def test_a_workspace_has_one_id_and_a_copy_without_its_data_another(tmp_path: Path) -> None:
    first = workspace_id(tmp_path / "data")
    assert len(first) == 12
    assert workspace_id(tmp_path / "data") == first
    assert workspace_id(tmp_path / "clone" / "data") != first
    assert sorted(path.name for path in (tmp_path / "data" / "workspace").iterdir()) == ["id", "lock"]


def test_a_run_is_known_by_its_key(tracker: Tracker) -> None:
    assert tracker.start("a", "name", tags={}) == tracker.start("a", "name", tags={})
    assert set(tracker.runs(f"tags.`{KEY}` = 'a'")) == {"a"}
