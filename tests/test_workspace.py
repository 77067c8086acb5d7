"""What a person has set in a workspace stays as it was when `pipeline run` brings it up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.core.errors import PipelineError
from pipeline.project import workspace

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace."""
    folder = tmp_path_factory.mktemp("made") / "workspace"
    workspace.prepare(folder, [])
    return folder


def dvc_config(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", "config", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_new_workspace_needs_no_git(made: Path) -> None:
    assert (made / ".dvc/config").read_text() == "[core]\n    no_scm = true\n    analytics = false\n"


@pytest.mark.parametrize(
    "lines",
    [
        "['remote \"store\"']\n    url = s3://bucket/path\n",
        "[cache]\n    type = symlink\n    dir = /shared/cache\n",
        "[core]\n    no_scm = true\n    autostage = true\n# a comment\n",
    ],
    ids=["a remote", "a cache", "without our settings"],
)
def test_the_configuration_of_dvc_is_kept(lines: str, made: Path) -> None:
    config = made / ".dvc/config"
    config.write_text(lines)
    workspace.prepare(made, [])
    assert config.read_text() == lines


def test_a_configuration_that_is_a_link_stays_one(made: Path, tmp_path: Path) -> None:
    config, shared = made / ".dvc/config", tmp_path / "shared"
    config.unlink()
    config.symlink_to(shared)  # to a disk that is not mounted now
    workspace.prepare(made, [])
    assert config.is_symlink()
    assert not shared.exists()
    shared.write_text("[core]\n    remote = store\n")
    workspace.prepare(made, [])
    assert config.readlink() == shared
    assert dvc_config(made, "core.remote") == "store\n"


def test_params_are_written_through_a_link_but_never_into_the_project(made: Path, tmp_path: Path) -> None:
    own, shared = made / "params.yaml", tmp_path / "params.yaml"
    own.rename(shared)
    own.symlink_to(shared)
    workspace.prepare(made, ["search.seed=7"])
    assert own.is_symlink()
    assert "seed: 7" in shared.read_text()
    project = ROOT / "params.yaml"
    before = project.read_bytes()
    own.unlink()
    own.symlink_to(project)
    with pytest.raises(PipelineError, match=r"params\.yaml is the project's own: .*; next: rm "):
        workspace.prepare(made, ["search.seed=7"])
    assert project.read_bytes() == before
    own.unlink()  # as the message says
    workspace.prepare(made, ["search.seed=7"])
    assert not own.is_symlink()


@pytest.mark.parametrize(
    ("setting", "typed", "meant"),
    [
        ("download.pets={{path: {}}}", "pets", "{}/pets"),
        ("download.pets.path={}", "../pets", "{parent}/pets"),
        ("download.pets.path={}", "/srv/pets", "/srv/pets"),
    ],
)
def test_a_path_on_the_command_line_is_relative_to_where_it_is_typed(
    setting: str, typed: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = workspace.require_usable(tmp_path / "work", ["download.pets={path: in params}", setting.format(typed)])
    path = Path(YAML(typ="safe").load(text)["download"]["pets"]["path"])
    assert path.is_absolute()
    assert path.resolve() == Path(meant.format(tmp_path, parent=tmp_path.parent))
