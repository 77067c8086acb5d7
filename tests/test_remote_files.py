"""Files that travel with a task: what arrives is what was sent, and a shared disk is used where there is one."""

from __future__ import annotations

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


def test_data_is_read_where_it_lies_and_copied_once_where_it_does_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files, mark = remote_files.pack(data), remote_files.fingerprint(data)
    assert remote_files.at_hand(data, mark, files) == data
    data.rename(tmp_path / "elsewhere")  # another machine
    copy = remote_files.at_hand(data, mark, files)
    assert (np.load(copy / "images.npy", mmap_mode="r") == np.arange(1000)).all()
    assert (copy / "empty").read_bytes() == b""
    assert remote_files.at_hand(data, mark, {}) == copy  # not written again
    data.mkdir()
    np.save(data / "images.npy", np.zeros(1000))  # other data at the same path
    assert remote_files.at_hand(data, mark, files) == copy


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
    remote_files.bring_home(remote_files.pack(away), home)  # told twice
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
