"""Files appear whole or not at all, and no two writers share a temporary name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.core import files


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with files.new_file(path) as one:
        one.write_text("one")
        files.write_text(path, "two")
        assert path.read_text() == "two"
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.new_file(path) as partial:
        partial.write_text(f"half {1 / 0}")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with files.new_file(tmp_path / "b.txt") as running:
        running.write_text("b")
        if not (child := os.fork()):
            with files.new_file(path) as partial, files.new_folder(tmp_path / "c") as folder:
                partial.write_text("half")
                (folder / "half").write_text("half")
                os._exit(9)
        os.waitpid(child, 0)
        assert len(list(tmp_path.iterdir())) == 3
        files.write_text(path, "whole")
        with files.new_folder(tmp_path / "c"):
            pass
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "b.txt", tmp_path / "c"]
