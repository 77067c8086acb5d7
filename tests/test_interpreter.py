"""A stage's command, as DVC runs it, with a PATH whose `python3` is not the one that has the project's packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without any package."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project as it is cloned: without an environment."""
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(stage: str, folder: Path, python: Path, *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command of a stage of `digits` through a shell, with a PATH that begins with an environment's `bin`."""
    command = YAML(typ="safe").load(folder / "dvc.yaml")["stages"][stage]["cmd"].replace("${item.dataset}", "digits")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env["PATH"] = os.pathsep.join([str(python / "bin"), os.defpath])
    return subprocess.run(command, shell=True, cwd=cwd or folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("inside", [".", "runs/try"], ids=["in the project", "in a workspace below it"])
def test_a_python_without_packages_starts_the_one_of_the_project(inside: str, project: Path, bare: Path):
    (project / ".venv").symlink_to(sys.prefix)
    workspace = project / inside
    if workspace != project:
        workspace.mkdir(parents=True)
        for name in ("pipeline", "params.yaml", "dvc.yaml"):
            (project / name).rename(workspace / name)
    done = run("download", workspace, bare)
    assert (done.returncode, done.stderr) == (0, "")
    assert (workspace / "data/raw/digits/digits.csv.gz").exists()


def test_the_exit_code_and_error_of_a_stage_are_passed_on(project: Path, bare: Path):
    (project / ".venv").symlink_to(sys.prefix)
    done = run("prepare", project, bare)
    assert done.returncode == 1
    assert re.fullmatch(r"error: data/raw/digits/digits.csv.gz is missing; next: dvc repro download\n", done.stderr)


def test_without_any_python_that_has_the_packages_one_line_gives_the_next_step(project: Path, bare: Path):
    done = run("download", project, bare)
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: \S+/bare0/venv/bin/python3 does not have the packages of this project: .*no psutil, and no "
        r"\.venv/bin/python in .*; next: `make install`, or .*\n",
        done.stderr,
    )


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda own, bare: own.symlink_to(bare), r"nor has \S+/\.venv/bin/python;"),
        (lambda own, bare: venv.create(own, symlinks=True, with_pip=False), r"nor has \S+/\.venv/bin/python;"),
        (lambda own, bare: _write(own / "bin/python"), r"\S+/\.venv/bin/python cannot be started: Permission denied;"),
    ],
    ids=["the same", "another without packages", "no program"],
)
def test_an_environment_that_is_not_set_up_ends_in_one_line(broken, message: str, project: Path, bare: Path):
    broken(project / ".venv", bare)
    done = run("download", project, bare)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: .*no psutil, and {message} next: .*\n", done.stderr)


def _write(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("no program\n")


def test_an_unknown_stage_is_named(project: Path):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.stages", "serach"], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*unknown stage: expected 'search'\? \(one of .*\), found 'serach'\n", done.stderr)
