"""Worker processes: what they answer, and what becomes of tasks whose worker dies."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.engine.base import Done, Event, Failed, Progress, Work
from pipeline.engine.local import LocalExecutor

WORK = Work("engine_tasks:run", "engine_tasks:setup", {"word": "ready"})


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalExecutor]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with LocalExecutor(WORK, [{"COLOUR": "red"}, {"COLOUR": "blue"}]) as executor:
        yield executor


def events(executor: LocalExecutor, ends: int) -> list[Event]:
    """Collect events until some tasks have ended."""
    seen: list[Event] = []
    while sum(isinstance(event, Done | Failed) for event in seen) < ends:
        seen += executor.wait(timeout_s=30)
    return seen


def test_results_come_back_under_their_keys_from_prepared_workers(executor: LocalExecutor) -> None:
    for key in range(5):
        executor.submit(key, {"double": key})
    seen = events(executor, ends=5)
    done = {event.key: event.result for event in seen if isinstance(event, Done)}
    assert {key: result[0] for key, result in done.items()} == {0: 0, 1: 2, 2: 4, 3: 6, 4: 8}
    assert all(result[1] == ["ready"] for result in done.values())  # set up once, however many tasks
    assert {result[2] for result in done.values()} <= {"red", "blue"}
    assert Progress(3, "half way") in seen


def test_an_error_is_a_failed_task_and_the_worker_lives_on(executor: LocalExecutor) -> None:
    executor.submit(1, {"raise": "no such shape"})
    failed = events(executor, ends=1)[-1]
    assert isinstance(failed, Failed)
    assert "no such shape" in failed.reason
    executor.submit(2, {"double": 4})
    assert isinstance(events(executor, ends=1)[-1], Done)


def test_a_task_whose_worker_dies_runs_again(executor: LocalExecutor, tmp_path: Path) -> None:
    executor.submit(1, {"die_unless": str(tmp_path / "tried")})
    assert [event.result for event in events(executor, ends=1) if isinstance(event, Done)] == ["second try"]


def test_a_task_that_kills_three_workers_fails_and_harms_no_other(executor: LocalExecutor) -> None:
    executor.submit(1, {"always_die": True})
    executor.submit(2, {"double": 1})
    ended = {event.key: event for event in events(executor, ends=2) if not isinstance(event, Progress)}
    assert isinstance(ended[2], Done)
    failed = ended[1]
    assert isinstance(failed, Failed)
    assert "3 workers died on it" in failed.reason
    assert "-9" in failed.reason


def wait_for(condition: Any, seconds: float = 60) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        from pipeline.engine.base import Work
        from pipeline.engine.local import LocalExecutor
        if __name__ == "__main__":
            executor = LocalExecutor(Work("engine_tasks:run", "engine_tasks:setup", {{"word": "ready"}}), [{{}}])
            executor.submit(1, {{"say_pid_in": {str(tmp_path / "pid")!r}}})
            while True:
                list(executor.wait(timeout_s=60))
    """)
    (tmp_path / "parent.py").write_text(script)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], env={**os.environ, "PYTHONPATH": path})
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    worker = psutil.Process(int((tmp_path / "pid").read_text()))
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs([worker], timeout=20)
    assert not alive, "the worker outlived its parent"
    assert gone
