"""Runs name the code that made them: its commit, or why there is none, and a digest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking import provenance
from pipeline.tracking.provenance import code_version

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {"GIT_DIR": ".git", "GIT_WORK_TREE": ".", "GIT_INDEX_FILE": ".git/index", "GIT_COMMON_DIR": ".git"}


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def repository(folder: Path, *files: str) -> Path:
    """A git repository with some files, one commit."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", folder.name)
    return folder


def head(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small project with two modules."""
    return repository(tmp_path / "project", "dvc.yaml", "pipeline/a.py", "pipeline/b/c.py", ".gitignore", "README.md")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A repository of something else."""
    return repository(tmp_path / "other", "README.md")


@pytest.mark.parametrize("typed_in", ["the project", "another repository", "no repository"])
def test_the_commit_is_that_of_the_code_wherever_a_stage_is_started(
    typed_in: str, checkout: Path, other: Path, tmp_path: Path
) -> None:
    for package in ("core", "tracking"):
        shutil.copytree(ROOT / "pipeline" / package, checkout / "pipeline" / package)
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "packages")
    folder = {"the project": checkout, "another repository": other, "no repository": tmp_path}[typed_in]
    program = "from pipeline.tracking.provenance import code_tags; print(code_tags()['git.commit'])"
    env = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{head(checkout)}\n"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_variables_of_another_repository_change_nothing(
    name: str, checkout: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = head(checkout)
    monkeypatch.setenv(name, str(other / ELSEWHERE[name]))
    assert code_version(checkout).commit == commit


def test_a_checkout_of_another_user_is_read(checkout: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    commit = head(checkout)
    for path in (checkout, checkout / ".git"):
        os.chown(path, 12345, 12345)
    assert code_version(checkout).commit == commit


@pytest.mark.parametrize(
    ("change", "dirty"),
    [
        (lambda root: (root / "pipeline/a.py").write_text("changed"), True),
        (lambda root: (root / "pipeline/b/c.py").unlink(), True),
        (lambda root: (root / "pipeline/b/new.py").write_text(""), True),
        (lambda root: ((root / ".gitignore").write_text("new.py\n"), git(root, "commit", "-qam", "ignores"),
                       (root / "pipeline/new.py").write_text("")), True),
        (lambda root: (root / "pipeline/a.py~").write_text("a backup"), False),
        (lambda root: (root / "data.npz").write_text("data"), False),
        (lambda root: ((root / "pipeline/__pycache__").mkdir(), (root / "pipeline/__pycache__/x.py").touch()), False),
    ],
    ids=["edited", "removed", "untracked", "ignored", "a backup", "data", "a cache"],
)  # fmt: skip
def test_code_that_is_not_that_of_the_commit_is_dirty(change, dirty: bool, checkout: Path) -> None:
    change(checkout)
    assert code_version(checkout).commit == head(checkout) + "-dirty" * dirty


def test_without_a_commit_the_reason_and_the_digest_are_recorded(
    checkout: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = shutil.copytree(checkout, other / "vendor", ignore=shutil.ignore_patterns(".git"))
    outside = shutil.copytree(unpacked, tmp_path / "outside")
    new = shutil.copytree(unpacked, tmp_path / "new")
    git(new, "init", "--quiet")
    git(new, "add", "--all")
    broken = shutil.copytree(unpacked, tmp_path / "broken")
    (broken / provenance.RECORD).write_text("<<<<<<< ours")
    without_git = {"PATH": str(tmp_path)}
    for folder, reason, env in (
        (unpacked, f"git does not track dvc.yaml in {unpacked}", {}),
        (outside, "not a git repository (or any of the parent directories): .git", {}),
        (new, "there is no commit yet", {}),
        (broken, f"{broken / provenance.RECORD} cannot be read", {}),
        (checkout, "git cannot be started: No such file or directory", without_git),
    ):
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            version = code_version(folder)
        assert (version.commit, version.reason) == ("none", reason)
        assert version.digest == code_version(checkout).digest, "the digest is of names and content"
        with monkeypatch.context() as patch:
            patch.setattr(provenance, "_of_this_process", lambda found=version: found)
            assert provenance.code_tags() == {
                "git.commit": "none",
                "git.reason": reason,
                "code.digest": version.digest,
            }


def test_a_workspace_keeps_the_commit_that_it_was_copied_from(checkout: Path, tmp_path: Path) -> None:
    copied = code_version(checkout)
    workspace = shutil.copytree(checkout, checkout / "runs/demo", ignore=shutil.ignore_patterns(".git", "runs"))
    provenance.record(copied, workspace)
    assert code_version(workspace) == copied
    (checkout / "pipeline/a.py").write_text("the checkout moves on")
    git(checkout, "commit", "-qam", "next")
    assert code_version(workspace) == copied
    (workspace / "pipeline/a.py").write_text("edited in the workspace")
    edited = code_version(workspace)
    assert edited.commit == f"{copied.commit}-dirty"
    assert edited.digest != copied.digest
    second = tmp_path / "second"  # a workspace made from a workspace
    shutil.copytree(workspace, second)
    provenance.record(edited, second)
    assert code_version(second) == edited
