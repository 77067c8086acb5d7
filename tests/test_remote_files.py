"""Files that travel with a task: what arrives is what was sent, and a shared disk is used where there is one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.executors import remote_files
from pipeline.models.base import Span
from pipeline.models.training.task import TrainingTask


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / "images.npy", np.arange(1000))
    (folder / "empty").touch()
    return folder


def marked(folder: Path) -> tuple[remote_files.Mark, remote_files.Files]:
    files = remote_files.pack(folder)
    return remote_files.Mark(remote_files.fingerprint(folder), remote_files.digest(files)), files


def test_data_is_read_where_it_lies_and_copied_once_where_it_does_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mark, files = marked(data)
    assert remote_files.at_hand(data, mark, files) == data
    data.rename(tmp_path / "elsewhere")  # another machine
    copy = remote_files.at_hand(data, mark, files)
    assert (np.load(copy / "images.npy", mmap_mode="r") == np.arange(1000)).all()
    assert (copy / "empty").read_bytes() == b""
    assert remote_files.at_hand(data, mark, {}) == copy  # not written again
    data.mkdir()
    np.save(data / "images.npy", np.zeros(1000))  # other data at the same path
    assert remote_files.at_hand(data, mark, files) == copy
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_a_folder_that_only_looks_the_same_is_not_used(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mark, files = marked(data)
    changed = data / "images.npy"
    times = changed.stat()
    np.save(changed, np.arange(1000)[::-1])
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert remote_files.fingerprint(data) == mark.fingerprint
    assert (np.load(remote_files.at_hand(data, mark, files) / "images.npy") == np.arange(1000)).all()


@pytest.mark.parametrize("damage", ["half removed", "emptied", "planted", "a file", "a link"])
def test_a_damaged_or_planted_copy_is_made_again(
    damage: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mark, files = marked(data)
    data.rename(tmp_path / "elsewhere")
    copy = remote_files.at_hand(data, mark, files)
    if damage == "half removed":  # as a cleaner of temporary files does
        (copy / "empty").unlink()
    elif damage == "planted":
        np.save(copy / "images.npy", np.zeros(1000, np.int64))
    else:
        shutil.rmtree(copy)
        {"emptied": copy.mkdir, "a file": copy.touch, "a link": lambda: copy.symlink_to(tmp_path)}[damage]()
    again = remote_files.at_hand(data, mark, files)
    assert again == copy
    assert (np.load(again / "images.npy") == np.arange(1000)).all()
    assert (again / "empty").exists()
    assert not again.is_symlink()


def test_a_folder_that_others_can_write_to_is_not_used(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mark, files = marked(data)
    data.rename(tmp_path / "elsewhere")
    shared = tmp_path / f"vision-pipeline-{os.getuid()}"
    shared.mkdir()
    shared.chmod(0o777)
    remote_files._private_folder.cache_clear()
    copy = remote_files.at_hand(data, mark, files)
    assert not list(shared.iterdir())
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    assert (np.load(copy / "images.npy") == np.arange(1000)).all()
    shared.rmdir()
    shared.symlink_to(tmp_path / "elsewhere")
    assert remote_files.at_hand(data, mark, files) == copy
    remote_files._private_folder.cache_clear()


def test_a_checkpoint_comes_home_whole_and_replaces_the_one_before(tmp_path: Path) -> None:
    home, away = tmp_path / "home" / "trial-1", tmp_path / "away" / "trial-1"
    assert remote_files.pack(home) == {}  # the first rung has none
    (home / "epoch-0001").mkdir(parents=True)
    (home / "epoch-0001" / "state.npz").write_bytes(b"one")
    remote_files.unpack(remote_files.pack(home), away)
    assert (away / "epoch-0001" / "state.npz").read_bytes() == b"one"
    (away / "epoch-0001").rename(away / "epoch-0003")  # it trained, and removed the older one
    (away / "epoch-0003" / "state.npz").write_bytes(b"three")
    remote_files.bring_home(remote_files.pack(away), home)
    assert [path.relative_to(home).as_posix() for path in home.rglob("*.npz")] == ["epoch-0003/state.npz"]
    assert (home / "epoch-0003" / "state.npz").read_bytes() == b"three"
    remote_files.bring_home(remote_files.pack(away), home)  # the same files again
    assert (home / "epoch-0003" / "state.npz").read_bytes() == b"three"


def test_a_rung_is_placed_with_all_that_it_reads(tmp_path: Path) -> None:
    rung = TrainingTask(
        "gan", {}, {}, Path("data"), 0, Span(0, 1, 1), Path("trial"), Path("log"), features=Path("features")
    )
    places = tmp_path / "0", tmp_path / "1"
    placed = rung.placed(places, tmp_path / "trial", tmp_path / "log")
    assert (placed.data, placed.features) == places
    assert (placed.folder, placed.ledger) == (tmp_path / "trial", tmp_path / "log")
    assert rung.inputs == (Path("data"), Path("features"))
    assert placed.inputs == places
    assert TrainingTask("mlp", {}, {}, Path("data"), 0, Span(0, 1, 1), Path("t"), Path("l")).inputs == (Path("data"),)
