"""A tracking server that cannot be used is found before the search, in one line whose advice helps."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import doctor
from pipeline.core.errors import TrackingError
from pipeline.project import preflight
from pipeline.tracking import server
from pipeline.tracking.address import Fault
from pipeline.tracking.runs import Tracker
from tests.tracking_server import PAGE, MlflowServer, answering

ROOT = Path(__file__).parents[1]
SETTINGS = {"datasets": ["digits"], "families": ["knn"], "register": {}}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of the test's own, and no setting of the user's."""
    monkeypatch.chdir(tmp_path)
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
    yield
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        os.environ.pop(f"MLFLOW_TRACKING_{name}", None)


def fault_of(uri: str, monkeypatch: pytest.MonkeyPatch) -> Fault:
    """Return the fault of an address, which the commands and doctor report alike."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = server.examine(["digits"]).fault
    assert found is not None
    with pytest.raises(TrackingError) as failure:
        preflight.check_tracking(SETTINGS, Path(), print)
    assert found.next_step in str(failure.value)
    assert "\n" not in str(failure.value)
    Path("params.yaml").write_text("datasets: [digits]\n")
    [check] = doctor._tracking()
    assert (check.status, check.advice) == ("missing", found.next_step)
    return found


def follow(found: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what a fault advises."""
    words = shlex.split(found.next_step)
    assert words[0] == "export"
    name, _, value = words[1].partition("=")
    monkeypatch.setenv(name, value)


@pytest.mark.parametrize("form", ["{}", '"http://{}"', "'http://{}'", " http://{}\r\n", "http:{}", "http:///{}", "{}/"])
def test_an_address_that_mlflow_misreads_comes_with_the_one_that_was_meant(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(200) as (uri, _):
        found = fault_of(form.format(uri.removeprefix("http://")), monkeypatch)
        assert not found.away
        follow(found, monkeypatch)
        assert server.examine().fault is None


@pytest.mark.parametrize(
    ("uri", "instead"),
    [
        ("mlflow.example.org", "http://mlflow.example.org"),
        ("localhost:5000/mlflow", "http://localhost:5000/mlflow"),
        ("mlflow:5000", "http://mlflow:5000"),
        ("ada:lovelace@mlflow:5000", "http://mlflow:5000, with its user and password"),
        ("postgres://ada:lovelace@db/runs", "postgresql://db/runs, with its user and password"),
        ("postgresql:/db/runs", "postgresql://db/runs"),
    ],
)
def test_an_address_without_its_scheme(uri: str, instead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault_of(uri, monkeypatch).next_step == f"export MLFLOW_TRACKING_URI={instead}"


@pytest.mark.parametrize(
    "form",
    [
        "{}", "./runs", "file://{}", "sqlite:///{}", "sqlite:///runs", "'{}'", "sqlite://team.db", "sqlite:team.db",
        "team.db", "sqlite3:///team.db", "sqlite:///:memory:", "sqlite://",
    ],
)  # fmt: skip
def test_a_folder_or_a_misspelt_file_comes_with_the_address_of_a_database(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    found = fault_of(form.format(tmp_path / "runs"), monkeypatch)
    for _ in range(2):  # quotes around a folder are two faults
        follow(found, monkeypatch)
        examined = server.examine().fault
        found = examined or found
    assert examined is None
    assert list(tmp_path.rglob("*.db")) == []


def test_a_file_that_is_no_database_of_this_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mlflow.db"
    for content in (b"runs and models\n" * 9, b"\x89PNG", b"SQLite format 3\0" + bytes(200)):
        file.write_bytes(content)
        assert "database" in fault_of(f"sqlite:///{file}", monkeypatch).found
        assert file.read_bytes() == content
    file.unlink()
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE studies (id INTEGER)")
    found = fault_of(f"sqlite:///{file}", monkeypatch)
    assert found.found == "a database of another program"
    below = fault_of(f"sqlite:///{file}/deep/mlflow.db", monkeypatch)
    assert below.found == f"{file}, which is no folder"
    assert (
        found.next_step
        == below.next_step
        == "name another file in MLFLOW_TRACKING_URI, or unset it: runs go to mlflow.db here"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert server.examine().fault is None
    file.unlink()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert server.examine().fault is None


@pytest.mark.parametrize("scheme", ["s3", "nothing", "htp"])
def test_a_scheme_that_mlflow_does_not_know(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"the scheme {scheme}, which" in fault_of(f"{scheme}://ada:lovelace@host/runs", monkeypatch).found


NO_CALL = '{"error_code": "ENDPOINT_NOT_FOUND"}'
NO_EXPERIMENT = '{"error_code": "RESOURCE_DOES_NOT_EXIST"}'


@pytest.mark.parametrize(
    ("status", "version", "api", "found"),
    [
        (200, "2.22.0", (200, "{}"), "MLflow 2.22.0, older than 3.17"),
        (200, "3.5.0rc1", (200, "{}"), "MLflow 3.5.0rc1, older than 3.17"),
        (200, PAGE, (404, PAGE), "HTTP 404, and not the answer of MLflow 3.17 or later"),
        (200, PAGE, (200, PAGE), "HTTP 200, and not the answer"),
        (404, PAGE, (404, NO_CALL), "HTTP 404, and not the answer"),
        (404, PAGE, (403, PAGE), "HTTP 403: MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_a_server_without_the_calls_that_are_used_here(
    status: int, version: str, api: tuple[int, str], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status, version=version, api=api) as (uri, _):
        assert fault_of(uri, monkeypatch).found.startswith(found)


@pytest.mark.parametrize(
    ("status", "version", "api"),
    [
        (200, "3.17.0", (404, PAGE)),
        (200, ' "3.18.0.dev0"\n', (404, PAGE)),
        (200, "4.0.0", (404, PAGE)),
        (404, PAGE, (200, '{"models": []}')),
        (404, PAGE, (404, NO_EXPERIMENT)),
    ],
)
def test_a_server_with_the_calls_that_are_used_here(
    status: int, version: str, api: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status, version=version, api=api) as (uri, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{uri}/team/mlflow")
        assert server.examine().fault is None


def test_the_oldest_server_is_the_release_that_the_tests_run_against() -> None:
    [pin] = [each for each in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
             if each.startswith("mlflow")]  # fmt: skip
    assert re.match(r"mlflow>=([\d.]+)", pin)[1] == ".".join(map(str, server.OLDEST))  # type: ignore[index]


def test_a_server_that_is_away_is_asked_once_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    assert server.ANSWER_S == 3
    said: list[str] = []
    with answering(503) as (uri, seen):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        found = server.examine(["digits"]).fault
        assert len(seen) == 1
        preflight.check_tracking(SETTINGS, Path(), said.append)
    assert found is not None
    assert found.away
    assert said[0].startswith("champions are not checked before the search: the tracking server cannot be used")


def test_a_database_server_without_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200) as (uri, _):
        found = fault_of(uri.replace("http", "postgresql") + "/runs", monkeypatch)
    assert re.fullmatch("no psycopg2?, which connects to it", found.found)
    assert found.next_step == "install that package"


# ---------------------------------------------------------------- artifacts


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("mlflow-artifacts:/1", "artifacts only MLflow's server can reach"),
        ("mlflow-artifacts://host:5000/1", "artifacts only MLflow's server can reach"),
        ("s3://bucket/runs", "which need the package botocore"),
        ("file://{}/file/artifacts", "file, which is no folder"),
        ("{}/file/artifacts", "file, which is no folder"),
    ],
)
def test_an_experiment_whose_artifacts_are_out_of_reach(
    location: str, found: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    (database.parent / "file").write_text("")
    uri = f"sqlite:///{database}"
    MlflowClient(uri).create_experiment("digits", artifact_location=location.format(database.parent))
    assert found in fault_of(uri, monkeypatch).found
    with pytest.raises(TrackingError, match=re.escape(found)):
        Tracker("digits")
    assert Tracker("other").experiment_id != "0"


@pytest.mark.slow  # MLflow's server takes seconds to load; test_mlflow_mirror.py logs through it
def test_artifacts_of_a_server_are_reached_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient
    from mlflow.server import handlers

    running = MlflowServer(tmp_path)
    try:
        MlflowClient(running.uri).create_experiment("digits served")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", handlers._get_tracking_store().db_uri)
        found = server.examine(["digits served"]).fault
        assert found is not None
        assert found.next_step.startswith("set MLFLOW_TRACKING_URI to the http:// address of the server that made it")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
        assert server.examine(["digits served", "not there yet"]).fault is None
        assert Tracker("digits served").experiment_id
    finally:
        running.stop()
