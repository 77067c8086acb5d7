"""Ray, for real: a head and a second node on this machine, of which the second is killed in the middle of a search."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.core.errors import EngineError
from pipeline.executors.base import Broken, Done, Event, Failed, Progress, Work
from pipeline.project import workspace
from pipeline.search.settings import Cluster
from tests.test_search import SETTINGS, Project, assert_complete, wait_for

if importlib.util.find_spec("ray") is None and os.environ.get("PIPELINE_REQUIRE") != "ray":
    pytest.skip("Ray is not installed: make test-engines", allow_module_level=True)

from pipeline.executors.ray import RayExecutor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HERE = Path(__file__).parent
WORK = Work("executor_tasks:run", "executor_tasks:setup", {"word": "ready"})


class Nodes:
    """Ray nodes on this machine, each with one CPU."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: sockets lie in it
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a node, and wait until it has joined."""
        ray = Path(sys.executable).with_name("ray")
        path = os.pathsep.join([str(HERE), str(HERE.parent)])
        environment = {**os.environ, "PYTHONPATH": path, "COLOUR": "red", "RAY_USAGE_STATS_ENABLED": "0"}
        command = [ray, "start", "--block", "--num-cpus=1", "--object-store-memory=200000000", *arguments]
        node = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.started.append(node)
        assert node.stdout is not None
        output = b""
        while b"--block" not in output:  # its last line before it waits
            line = node.stdout.readline()
            assert line, output.decode()
            output += line
        return node

    def head(self) -> subprocess.Popen[bytes]:
        port = self.address.rpartition(":")[2]
        return self.start(
            "--head", f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={self.folder}",
            "--include-dashboard=false",
        )  # fmt: skip

    def second(self) -> subprocess.Popen[bytes]:
        return self.start(f"--address={self.address}", "--node-ip-address=127.0.0.1")

    @staticmethod
    def kill(node: subprocess.Popen[bytes]) -> None:
        """Kill a node with everything that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(node.pid).children(recursive=True)
            node.send_signal(signal.SIGKILL)
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, timeout=120)
        node.wait()

    def close(self) -> None:
        for node in reversed(self.started):
            self.kill(node)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    found = Nodes()
    try:
        found.head()
        yield found
    finally:
        found.close()


@pytest.fixture
def executor(nodes: Nodes) -> Iterator[RayExecutor]:
    with RayExecutor(WORK, Cluster(address=nodes.address, cpus=1, gpus=0), silence_s=5) as executor:
        yield executor


def events(executor: RayExecutor, ends: int) -> list[Event]:
    """Collect events until some tasks have ended."""
    seen: list[Event] = []
    while sum(isinstance(event, Done | Failed | Broken) for event in seen) < ends:
        seen += executor.wait(timeout_s=1)
    return seen


def test_tasks_end_under_their_keys_as_they_do_in_worker_processes(executor: RayExecutor, tmp_path: Path) -> None:
    tasks: dict[int, dict[str, Any]] = {
        1: {"double": 4},
        2: {"raise": "no such shape"},
        3: {"die_unless": str(tmp_path / "died")},
        4: {"hang_unless": str(tmp_path / "hung")},
        5: {"no_space_for": "state.npz"},
        6: {"always_die": True},
    }
    for key, task in tasks.items():
        executor.submit(key, task)
    seen = events(executor, ends=len(tasks))
    ended: dict[int, Any] = {event.key: event for event in seen if not isinstance(event, Progress)}
    assert ended[1].result == (8, ["ready"], "red")
    assert Progress(1, "half way") in seen
    assert isinstance(ended[2], Failed)
    assert "no such shape" in ended[2].reason
    assert ended[3].result == ended[4].result == "second try"
    assert isinstance(ended[5], Broken)
    assert isinstance(ended[6], Failed)
    assert "3 workers died on it" in ended[6].reason


def test_a_worker_that_cannot_be_set_up_is_no_fault_of_the_task(nodes: Nodes) -> None:
    with RayExecutor(
        Work("executor_tasks:run", "no_such_module:setup"), Cluster(address=nodes.address, cpus=1, gpus=0)
    ) as executor:
        executor.submit(1, {"double": 4})
        broken = events(executor, ends=1)[-1]
    assert isinstance(broken, Broken)
    assert "no_such_module" in broken.reason


def test_no_cluster_is_an_error_with_its_address() -> None:
    with pytest.raises(EngineError, match=r"no Ray cluster.*search.ray.address=127.0.0.1:1,.*ray start --head"):
        RayExecutor(WORK, Cluster(address="127.0.0.1:1", cpus=1, gpus=0))


def test_killing_the_second_node_in_the_middle_of_a_search_loses_nothing(
    nodes: Nodes, tmp_path: Path, prepared_digits: Path
) -> None:
    second = nodes.second()
    settings = [*SETTINGS, "search.engine=ray", f"search.ray.address={nodes.address}"]
    workspace.prepare(tmp_path / "workspace", settings)
    data = tmp_path / "elsewhere" / "digits"
    shutil.copytree(prepared_digits, data)
    project = Project(tmp_path / "workspace", data)
    search = project.start()
    wait_for(lambda: len(project.ledger()) >= 2 and busy_workers(second) != [], search)
    assert search.poll() is None, search.communicate()[1]
    nodes.kill(second)
    _, errors = search.communicate(timeout=600)
    assert search.returncode == 0, errors
    assert_complete(project, lost_epochs=0)
    deadline = time.monotonic() + 240
    while busy_workers(nodes.started[0]):
        assert time.monotonic() < deadline, "workers outlive their search"
        time.sleep(0.2)


def busy_workers(node: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes of a node that run a task: Ray names them after it."""
    found = psutil.Process(node.pid).children(recursive=True)
    return [process for process in found if "_run" in " ".join(process.cmdline()[:1])]
