"""Worker processes: their results, and the tasks of workers that die."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.executors import local
from pipeline.executors.base import Broken, Done, Event, Failed, Progress, Work
from pipeline.executors.local import LocalExecutor
from pipeline.models.base import Span
from pipeline.models.training.recipe import PLAIN
from pipeline.models.training.task import TrainingTask, work

linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
WORK = Work("executor_tasks:run", "executor_tasks:setup", {"word": "ready"})


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalExecutor]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with LocalExecutor(WORK, [{"COLOUR": "red"}, {"COLOUR": "blue"}]) as executor:
        yield executor


def events(executor: LocalExecutor, ends: int) -> list[Event]:
    """Collect events until some tasks have ended."""
    seen: list[Event] = []
    while sum(isinstance(event, Done | Failed | Broken) for event in seen) < ends:
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
    assert "killed by signal 9 (SIGKILL), as Linux does when memory runs out" in failed.reason


@pytest.mark.slow
def test_a_hanging_task_is_killed_and_tried_again_and_a_slow_one_that_sends_messages_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with LocalExecutor(WORK, [{}, {}], silence_s=2) as executor:
        executor.submit(1, {"hang_unless": str(tmp_path / "tried")})
        executor.submit(2, {"slow_but_alive": 6})
        executor.submit(3, {"hang": True})
        ended = {event.key: event for event in events(executor, ends=3) if not isinstance(event, Progress)}
    assert isinstance(ended[1], Done)
    assert ended[1].result == "second try"
    assert isinstance(ended[2], Done)
    assert isinstance(ended[3], Failed)
    assert re.search(r"3 workers died on it, the last killed after \d+ s without a sign of life", ended[3].reason)


def test_time_in_which_everything_stood_still_is_no_silence_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    stopped_s = 0.0
    monkeypatch.setattr(local.time, "monotonic", lambda real=time.monotonic: real() + stopped_s)
    with LocalExecutor(WORK, [{}], silence_s=1000) as executor:
        executor.submit(1, {"hang": True})
        list(executor.wait(1))
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        stopped_s = 1500.0  # as after Ctrl-Z
        assert list(executor.wait(0.1)) == []
        assert {child.pid for child in psutil.Process().children(recursive=True)} == before
        for _ in range(300):  # a worker that is silent while this process looks is killed
            stopped_s += 4.0
            list(executor.wait(0.01))
        assert {child.pid for child in psutil.Process().children(recursive=True)} != before


def test_a_worker_that_has_grown_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with LocalExecutor(WORK, [{}], growth=100 << 20) as executor:
        for key in range(8):
            executor.submit(key, {"leak": 60})
        seen = [event.result for event in events(executor, ends=8) if isinstance(event, Done)]
    assert max(leaks for _, leaks in seen) == 3  # 60 MB as it starts, 120, and 180: 120 more than after the first
    assert len({pid for pid, _ in seen}) == 3


def test_a_full_disk_breaks_a_task_which_is_not_its_failure(executor: LocalExecutor) -> None:
    executor.submit(1, {"no_space_for": "state.npz"})
    ended = events(executor, ends=1)[-1]
    assert isinstance(ended, Broken)
    assert "No space left on device: 'state.npz'" in ended.reason


def wait_for(condition: Any, seconds: float = 60) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def in_a_process_of_its_own(folder: Path, body: str, *, forkable: bool) -> subprocess.Popen[str]:
    """Start a script that has an executor of one worker: a process has one fork server, and tests share none."""
    script = f"""
import psutil
from pipeline.executors.base import Done, Work
from pipeline.executors.local import LocalExecutor

def result_of(executor, key, task):
    executor.submit(key, task)
    while True:
        for event in executor.wait(timeout_s=30):
            if not isinstance(event, Done):
                raise SystemExit(str(event))
            return event.result

if __name__ == "__main__":
    work = Work("executor_tasks:run", "executor_tasks:setup", {{"word": "ready"}}, forkable={forkable})
    with LocalExecutor(work, [{{}}]) as executor:
{textwrap.indent(textwrap.dedent(body), " " * 8)}
"""
    (folder / "parent.py").write_text(script)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, folder / "parent.py"],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("forkable", [False, pytest.param(True, marks=linux)])
def test_all_processes_end_when_their_parent_is_killed(tmp_path: Path, forkable: bool) -> None:
    body = f"result_of(executor, 1, {{'write_pid_to': {str(tmp_path / 'pid')!r}}})"
    parent = in_a_process_of_its_own(tmp_path, body, forkable=forkable)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    worker = psutil.Process(int((tmp_path / "pid").read_text()))
    family = psutil.Process(parent.pid).children(recursive=True)
    assert worker in family
    parent.kill()
    parent.communicate()
    _, alive = psutil.wait_procs(family, timeout=120)
    assert not alive, "they outlived their parent"


@linux
def test_forked_workers_find_what_was_set_up_once_for_all(tmp_path: Path) -> None:
    body = f"""
        words, first, server = result_of(executor, 1, {{"identity": 1}})
        assert words == ["ready", "ready"], words  # once where it was forked from, once more by itself
        assert psutil.Process(server).ppid() == psutil.Process().pid
        psutil.Process(first).kill()
        _, second, same = result_of(executor, 2, {{"identity": 1}})
        assert second != first and same == server
        assert result_of(executor, 3, {{"die_unless": {str(tmp_path / "tried")!r}}}) == "second try"
        psutil.Process(server).kill()  # its worker lives on, and when that dies, too, there is another
        assert result_of(executor, 4, {{"die_unless": {str(tmp_path / "again")!r}}}) == "second try"
        words, _, other = result_of(executor, 5, {{"identity": 1}})
        assert words == ["ready", "ready"] and other != server
        print("done")
    """
    out, err = in_a_process_of_its_own(tmp_path, body, forkable=True).communicate(timeout=240)
    assert (out, err) == ("done\n", "")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_stays_bounded_over_two_hundred_trials(prepared_digits: Path, tmp_path: Path) -> None:
    """Every trial is another model, as in a search, and leaves some 11 MB behind in TensorFlow."""
    held: list[int] = []
    growth = 300
    with LocalExecutor(work("tensorflow"), [{}, {}], growth=growth << 20) as executor:
        for key in range(200):
            point = {
                **PLAIN, "layers": 1 + key % 3, "units": 16 + key, "batch_norm": key % 2 == 0, "activation": "relu",
                "dropout": 0.1, "batch_size": 100,
            }  # fmt: skip
            folder = tmp_path / f"trial-{key}"
            executor.submit(
                key,
                TrainingTask(
                    "mlp", {"space": {}}, point, prepared_digits, key, Span(0, 1, 1), folder, tmp_path / "log"
                ),
            )
        done = 0
        while done < 200:
            for event in executor.wait(timeout_s=30):
                assert not isinstance(event, Failed | Broken), event.reason
                if isinstance(event, Done):
                    done += 1
                    workers = [w for w in psutil.Process().children(recursive=True) if not w.children()]
                    held.append(max(w.memory_info().rss for w in workers) >> 20)
    print("megabytes of the larger worker after every 20 trials:", held[19::20])
    assert max(held) < held[0] + growth + 150  # without, it is 1,600 after 160 trials
