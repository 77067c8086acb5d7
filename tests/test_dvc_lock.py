"""Tracked files are written only while no stage reads them, and locks left by killed processes stop nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.fs import LocalFileSystem
from dvc.lock import make_lock
from dvc.rwlock import rwlock

from pipeline.core.errors import PipelineError
from pipeline.core.files import write_text
from pipeline.project import dvc_lock


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A DVC repository, as far as its locks are concerned."""
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/config").touch()
    return tmp_path


@pytest.fixture
def stage() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for ``dvc repro`` with a running stage."""
    with subprocess.Popen([sys.executable, "-c", "input()", "repro"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def leave(root: Path, pid: int, command: str, mode: str = "read") -> Path:
    """Write the entry of a stage that uses params.yaml."""
    entry: Any = {"pid": pid, "cmd": command}
    path = root / ".dvc/tmp/rwlock"
    path.write_text(json.dumps({mode: {str(root / "params.yaml"): [entry] if mode == "read" else entry}}))
    return path


def dvc_reads(root: Path) -> None:
    """Lock params.yaml as DVC does for a stage that depends on it, and for one that writes it."""
    for read, write in (([str(root / "params.yaml")], []), ([], [str(root / "params.yaml")])):
        with rwlock(str(root / ".dvc/tmp"), LocalFileSystem(), "dvc repro", read, write, False):
            pass


def test_a_file_is_not_written_while_a_stage_reads_it(root: Path, stage: subprocess.Popen[bytes]) -> None:
    leave(root, stage.pid, "/bin/dvc repro")
    lines: list[str] = []

    def end_of_stage(line: str) -> None:
        lines.append(line)
        stage.kill()
        stage.wait()

    wanted = rf"params.yaml cannot be written now: .*found `/bin/dvc repro` \(pid {stage.pid}\) at work; nothing was"
    with pytest.raises(dvc_lock.BusyError, match=wanted):
        dvc_lock.writing(root, root / "params.yaml", log=lines.append, wait_s=0).__enter__()
    with dvc_lock.writing(root, root / "params.yaml", log=end_of_stage):
        assert lines[-1].startswith(f"waiting for `/bin/dvc repro` (pid {stage.pid})")
        with pytest.raises(Exception, match="is busy"):
            dvc_reads_elsewhere(root)
    dvc_reads(root)


def dvc_reads_elsewhere(root: Path) -> None:
    with rwlock(str(root / ".dvc/tmp"), LocalFileSystem(), "another command", [str(root / "params.yaml")], [], False):
        pass


def test_without_dvc_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    with dvc_lock.writing(tmp_path, tmp_path / "params.yaml", log=pytest.fail):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["read", "write"])
@pytest.mark.parametrize("change", ["started later", "runs something else", "has ended"])
def test_the_lock_of_a_killed_process_is_removed_though_its_pid_lives(
    mode: str, change: str, root: Path, stage: subprocess.Popen[bytes]
) -> None:
    path = leave(root, stage.pid, "/bin/dvc checkout" if change == "runs something else" else "/bin/dvc repro", mode)
    if change == "has ended":
        stage.kill()  # and is not waited for: a zombie, whose pid exists
        os.waitid(os.P_PID, stage.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(Exception, match="is busy"):
        dvc_reads(root)
    if change == "started later":
        os.utime(path, (1e9, 1e9))
    lines: list[str] = []
    dvc_lock.remove_stale(root, lines.append)
    assert len(lines) == 1
    assert f"pid {stage.pid}" in lines[0]
    dvc_reads(root)


def test_the_lock_of_a_living_stage_stays(root: Path, stage: subprocess.Popen[bytes]) -> None:
    path = leave(root, stage.pid, "/bin/dvc repro")
    before = path.read_bytes()
    dvc_lock.remove_stale(root, pytest.fail)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[]", "\0\0\0", '{"read": 3}', '{"write": {"x": {}}}', '{"other": {}}'])
def test_a_lock_file_that_cannot_be_read_is_removed(content: str, root: Path) -> None:
    path = root / ".dvc/tmp/rwlock"
    write_text(path, content)
    with pytest.raises(Exception, match=r"RWLock|JSON"):
        dvc_reads(root)
    lines: list[str] = []
    dvc_lock.remove_stale(root, lines.append)
    assert len(lines) == 1
    assert "could not be read" in lines[0]
    dvc_reads(root)
    dvc_lock.remove_stale(root, pytest.fail)


def test_a_damaged_configuration_of_dvc_is_one_line(root: Path) -> None:
    (root / ".dvc/config").write_text("<<<<<<< HEAD\n")
    with pytest.raises(PipelineError, match=r"DVC cannot be used in .*; next: dvc status"):
        dvc_lock.writing(root, root / "params.yaml", log=pytest.fail).__enter__()


@pytest.mark.parametrize(
    "content", ["", "99999\n", "\0\0", f"{os.getpid()}\n"], ids=["empty", "other", "damaged", "own"]
)
def test_what_a_killed_dvc_leaves_in_its_other_lock_stops_nobody(content: str, root: Path) -> None:
    (root / ".dvc/tmp/lock").write_text(content)
    with make_lock(str(root / ".dvc/tmp/lock")) as lock:
        assert lock is None
