"""Files appear whole or not at all, no two writers share a temporary name, and a person's files keep their access."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core import files, params
from pipeline.core.errors import ParamsError
from pipeline.core.files import rewrite_text
from pipeline.datasets import manifest
from pipeline.datasets.manifest import ManifestEntry
from pipeline.project import dvc_lock, params_edit
from tests.fresh_process import KILLED, exit_code

ROOT = Path(__file__).resolve().parents[1]
PARAMS = "search: {generation: 1}  # shared\n"
NOBODY = 65534


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A params file."""
    path = tmp_path / "shared" / "params.yaml"
    path.parent.mkdir()
    path.write_text(PARAMS)
    return path


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A params file that other users can reach: the folders of pytest are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, "params.yaml")
        path.write_text(PARAMS)
        yield path


@pytest.mark.parametrize("chain", [1, 2])
def test_a_generation_is_written_through_links(chain: int, file: Path, tmp_path: Path) -> None:
    link = file
    for number in range(chain):
        new = tmp_path / f"link{number}" / "params.yaml"
        new.parent.mkdir()
        new.symlink_to(os.path.relpath(link, new.parent))
        link = new
    assert params_edit.next_generation(link) == 2
    assert link.is_symlink()
    assert "generation: 2" in file.read_text()
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_manifest_is_written_through_a_link(tmp_path: Path) -> None:
    shared, link = tmp_path / "shared", tmp_path / "toy"
    shared.mkdir()
    link.symlink_to(shared)
    manifest.append(link, ManifestEntry(digest="a" * 64, batch="x", images=1, classes=("0",)))
    assert link.is_symlink()
    assert len(manifest.read_manifest(shared)) == 1


@pytest.mark.parametrize("mode", [0o664, 0o640, 0o600])
@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_the_mode_does_not_depend_on_the_umask(mode: int, umask: int, file: Path) -> None:
    file.chmod(mode)
    before = os.umask(umask)
    try:
        params_edit.next_generation(file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == mode


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_owner_and_group_are_kept(file: Path) -> None:
    os.chown(file, 12345, 23456)
    rewrite_text(file, PARAMS)
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 23456)


@pytest.mark.skipif(os.getuid() != 0, reason="another user is needed")
@pytest.mark.parametrize("refused", ["the folder", "the group"])
def test_a_user_who_may_not_write_leaves_the_file_as_it_was(refused: str, open_to_all: Path) -> None:
    file = open_to_all
    if refused == "the group":
        file.parent.chmod(0o777)
    before = file.stat()
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); os.chdir({str(file.parent)!r})\n"
        "from pathlib import Path\n"
        "from pipeline.core import files, process\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "process.run(lambda: files.rewrite_text(Path('params.yaml'), 'new'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml cannot be written: found ")
    assert done.stderr.count("\n") == 1
    assert file.stat() == before  # before it is read: that may change the time of the last access
    assert file.read_text() == PARAMS
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("kind", ["a folder", "a file below a file"])
def test_params_that_cannot_be_read_are_one_line(kind: str, file: Path) -> None:
    path = file.parent if kind == "a folder" else file / "params.yaml"
    with pytest.raises(ParamsError, match=r"cannot be read: found .*; next: let this user read it"):
        params.read(path)


@pytest.mark.skipif(os.getuid() != 0, reason="another user is needed")
def test_params_of_mode_600_are_one_line_for_a_colleague(open_to_all: Path) -> None:
    open_to_all.chmod(0o600)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(ParamsError, match="cannot be read: found Permission denied"):
            params.read(open_to_all)
    finally:
        os.seteuid(0)


def test_dvc_finds_a_linked_file_locked_by_the_name_that_it_uses(file: Path, tmp_path: Path) -> None:
    from dvc.fs import LocalFileSystem
    from dvc.rwlock import rwlock

    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/config").touch()
    link = tmp_path / "params.yaml"
    link.symlink_to(file)
    with dvc_lock.writing(tmp_path, link, log=pytest.fail):
        for name in (link, file):
            with (
                pytest.raises(Exception, match="is busy"),
                rwlock(str(tmp_path / ".dvc/tmp"), LocalFileSystem(), "other", [str(name)], [], False),
            ):
                pass


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


def write_half(file: Path, new_folder: Path) -> None:
    with files.new_file(file) as partial, files.new_folder(new_folder) as folder:
        partial.write_text("half")
        (folder / "half").write_text("half")
        os._exit(KILLED)


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with files.new_file(tmp_path / "b.txt") as running:
        running.write_text("b")
        assert exit_code(write_half, path, tmp_path / "c") == KILLED
        assert len(list(tmp_path.iterdir())) == 3
        files.write_text(path, "whole")
        with files.new_folder(tmp_path / "c"):
            pass
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "b.txt", tmp_path / "c"]
