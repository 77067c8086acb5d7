"""Accepted batches are tracked by DVC: in a workspace without git, after a kill, and in a second clone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.datasets import manifest as accepted
from pipeline.retraining import tracked
from pipeline.stages import prepare
from tests.fresh_process import KILLED, exit_code
from tests.test_ingest import GOOD, OTHER, RAW, ROOT, made, put, take, take_until

DVC = (sys.executable, "-m", "dvc")
GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org")


def call(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_a_killed_ingest_did_not_add_to_dvc_the_next_one_adds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made(tmp_path, monkeypatch)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    put(root, "monday.npz", GOOD)
    assert exit_code(take_until, root, "pipeline.retraining.tracked.add_missing") == KILLED
    file = root / f"data/accepted/toy/{GOOD.digest()}.npz"
    assert file.exists()
    assert not file.with_name(f"{file.name}.dvc").exists()
    assert take(root).said == ["1 file added to DVC; next: dvc push"]
    assert f"path: {file.name}" in file.with_name(f"{file.name}.dvc").read_text()
    assert file.stat().st_mode & 0o222 == 0
    assert take(root).said == []


@pytest.mark.slow
def test_a_second_clone_pulls_accepted_batches_and_packs_and_prepares_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made(tmp_path / "one", monkeypatch)
    call(root, "git", "init", "-q")
    shutil.copyfile(ROOT / ".gitignore", root / ".gitignore")
    call(root, *DVC, "init", "-q")
    call(root, *DVC, "config", "core.analytics", "false")
    call(root, *DVC, "remote", "add", "-d", "store", str(tmp_path / "store"))
    put(root, "monday.npz", GOOD)
    put(root, "tuesday.npz", OTHER)
    (root / "data/retrain.lock").write_text("")
    assert take(root).answer.accepted == 2
    pack = root / "data/own/pets/pets-1.zip"
    pack.parent.mkdir(parents=True)
    pack.write_bytes(b"zip")
    content = {"datasets": ["toy", "pets"], "download": {"pets": {"path": "pets", "files": [{"name": pack.name}]}}}
    tracked.add_missing(root, content, print)
    call(root, "git", "add", ".")
    call(root, *GIT, "commit", "-qm", "Accept two batches")
    listed = call(root, "git", "ls-files", "data").split()
    assert listed == sorted(
        [
            *(f"data/accepted/toy/{data.digest()}.npz.dvc" for data in (GOOD, OTHER)),
            "data/own/pets/pets-1.zip.dvc",
        ]
    )
    assert call(root, "git", "status", "--short") == ""
    call(root, *DVC, "push", "-q")
    call(tmp_path, "git", "clone", "-q", str(root), "two")
    two = tmp_path / "two"
    places = two / "reports/ingest/toy", two / "data/accepted/toy"
    with pytest.raises(Exception, match=r"is missing, but the manifest lists it.*next: dvc pull"):
        accepted.grow(RAW, *places)
    call(two, *DVC, "pull", "-q")
    grown = accepted.grow(RAW, *places)
    assert (len(grown.batches), grown.images) == (2, 180)
    splits = prepare.run(grown.raw, prepare.PrepareSettings(val_fraction=0.3, seed=0)).splits
    assert len(splits.train) + len(splits.val) == len(RAW.train) + 180
    assert (two / "data/own/pets" / "pets-1.zip").read_bytes() == b"zip"
