"""Relative paths in the environment are relative to where a command was typed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy

from pipeline.core import typed_paths
from pipeline.project import own_code


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("sqlite:///team.db", "sqlite:///{}/team.db"),
        ("sqlite:///../team.db?timeout=5", "sqlite:///{parent}/team.db?timeout=5"),
        ("sqlite+pysqlite:///a/team.db", "sqlite+pysqlite:///{}/a/team.db"),
        ("file:runs", "file://{}/runs"),
        ("./runs", "{}/runs"),
        ("team/runs", "{}/team/runs"),
        *[
            (uri, uri)
            for uri in (
                "sqlite:////srv/team.db", "sqlite:///:memory:", "sqlite:///file:a?mode=memory&uri=true", "file:///srv",
                "/srv/runs", "https://host/a", "localhost:5000/a", "postgresql://host/db", "databricks", "",
            )
        ],
    ],
)  # fmt: skip
def test_an_address_names_the_file_of_whoever_typed_it(
    uri: str, absolute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = absolute.format(tmp_path, parent=tmp_path.parent)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(name, uri)
    typed_paths.resolve()
    typed_paths.resolve()
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        assert os.environ[name] == expected
        assert typed_paths.typed(name) == uri


@pytest.mark.parametrize("name", ["a%20b", "100%", "what?", "a b", "a#b", "ä"])
def test_the_absolute_address_opens_the_file_in_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    uri = typed_paths.absolute_uri("sqlite:///team.db?timeout=5")
    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("create table a (b int)"))
    engine.dispose()
    assert [path.name for path in folder.iterdir()] == ["team.db"]
    assert typed_paths.local_path(uri) == folder / "team.db"


def test_certificates_and_folders_are_relative_to_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("REQUESTS_CA_BUNDLE", "MLFLOW_TRACKING_SERVER_CERT_PATH", "TMPDIR", "AWS_CONFIG_FILE", "SSL_CERT_DIR")
    for name in names:
        monkeypatch.setenv(name, "a/b")
    typed_paths.resolve()
    assert {os.environ[name] for name in names} == {f"{tmp_path}/a/b"}


def test_a_working_directory_that_was_removed_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///team.db")
    typed_paths.resolve()
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///team.db"
    assert own_code.foreign_project(Path()) is None
