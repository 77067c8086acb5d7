"""SIGINT and SIGTERM end every command, stage and DVC between them, wherever they were started; exit codes are kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKS = """
import sys, time
from pipeline.core import process
def main():
    print("works", flush=True)
    time.sleep(600)
process.run(main)
"""
SWALLOWS = """
import os, signal, sys, time
from pipeline.core import process, termination
class Box:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(3): pass
def main():
    Box()
    termination.check()
process.run(main)
"""
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def started(*command: str, **more: object) -> subprocess.Popen[str]:
    """Start a command and wait until it prints a line."""
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=more.pop("cwd", ROOT), **more
    )  # type: ignore[call-overload]
    for line in running.stdout:
        if line == "works\n":
            break
    else:
        raise AssertionError(running.communicate()[1])
    return running  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("place", ["foreground", "background", "container"])
def test_a_signal_ends_a_command_with_its_exit_code(place: str, number: signal.Signals) -> None:
    before = {
        "foreground": (),
        "background": ("sh", "-c", 'trap "" INT; exec "$@"', "sh"),  # a shell ignores SIGINT for `command &`
        "container": ("unshare", "--pid", "--fork", "--kill-child"),
    }[place]
    if place == "container" and subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a PID namespace")
    running = started(*before, sys.executable, "-c", WORKS)
    process = psutil.Process(running.pid)
    target = process.children()[0] if place == "container" else process
    target.send_signal(number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == CODES[number], errors
    assert errors.count("\n") == 1
    assert "finished work is kept" in errors


def test_a_request_that_a_destructor_swallows_is_raised_by_the_next_check() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 143, done.stderr
    assert "Exception ignored" in done.stderr


STAGE = """
import os, sys, time
from pathlib import Path
from pipeline.core import process
def main():
    name = sys.argv[1]
    with open("log", "a") as log: print(name, os.getpid(), file=log)
    if name == "long":
        print("works", flush=True)
        try: time.sleep(600)
        except BaseException as error:
            with open("log", "a") as log: print(type(error).__name__, file=log)
            raise
    Path(name).write_text("done")
process.stage(main)
"""
GRAPH = "stages:\n" + "".join(
    f"  {name}:\n    cmd: python3 -m pipeline.stages {name}\n    {deps}outs: [{name}]\n"
    for name, deps in (("long", ""), ("after", "deps: [long]\n    "))
)
COMMAND = """
import sys
from pathlib import Path
from pipeline.core import process
from pipeline.project import dvc, lock
def main():
    with lock.hold(Path.cwd(), "test", wait_s=0): return dvc._repro(Path.cwd(), [], quiet=False)
process.run(main)
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A project of two stages, the first of which does not end; its package has a `stages` of its own."""
    shutil.copytree(ROOT / "pipeline/core", tmp_path / "pipeline/core")
    for folder in ("", "project", "tracking"):
        (tmp_path / "pipeline" / folder).mkdir(exist_ok=True)
        for file in (ROOT / "pipeline" / folder).glob("*.py"):
            shutil.copyfile(file, tmp_path / "pipeline" / folder / file.name)
    (tmp_path / "pipeline/stages").mkdir()
    (tmp_path / "pipeline/stages/__init__.py").write_text("")
    (tmp_path / "pipeline/stages/__main__.py").write_text(STAGE)
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "params.yaml").write_text("{}\n")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    return tmp_path


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_to_a_command_ends_dvc_and_its_stage_first(graph: Path, number: signal.Signals) -> None:
    running = started(
        sys.executable, "-c", COMMAND, cwd=graph, start_new_session=True, env={**os.environ, "PYTHONPATH": ""}
    )
    below = psutil.Process(running.pid).children(recursive=True)
    busy = subprocess.run([sys.executable, "-c", COMMAND], cwd=graph, capture_output=True, text=True, check=False)
    assert "another command is at work" in busy.stderr
    running.send_signal(number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == CODES[number], errors
    assert not [process for process in below if process.is_running()], "the command ended before what it had started"
    words = (graph / "log").read_text().split()
    assert words[0::2][0] == "long"
    assert words[2:] == [{signal.SIGINT: "KeyboardInterrupt", signal.SIGTERM: "Terminated"}[number]]


def test_a_stage_whose_command_has_ended_does_not_begin(graph: Path) -> None:
    env = {**os.environ, "PIPELINE_COMMAND": f"{os.getpid()} 1.5"}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.stages", "after"],
        cwd=graph,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the command that started this stage has ended")
    assert not (graph / "after").exists()


def test_a_command_waits_for_a_stage_that_runs_without_it(graph: Path) -> None:
    stage = started(sys.executable, "-m", "pipeline.stages", "long", cwd=graph)
    busy = subprocess.run([sys.executable, "-c", COMMAND], cwd=graph, capture_output=True, text=True, check=False)
    stage.terminate()
    stage.communicate()
    assert busy.returncode == 1
    assert "found a stage of `dvc repro`" in busy.stderr


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("words", ["check", "check --no-such-option", "--help"])
def test_a_closed_standard_stream_changes_no_exit_code(words: str, closed: str, tmp_path: Path) -> None:
    command = f"cd {ROOT} && {sys.executable} -m pipeline.cli.main {words}"
    codes = [
        subprocess.run(
            ["sh", "-c", f"{line} || exit $?"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        ).returncode
        for line in (command, f"{command} {closed}")
    ]
    assert codes[0] == codes[1]
