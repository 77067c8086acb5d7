"""Runs tasks on a Ray cluster. No other module uses Ray.

The files of a task are transferred with it. The dataset is stored once in the object store, from which every machine
reads it. The latest checkpoint is sent with the task and returned with the result. So the machines need no shared
disk, only the same installed packages; the code of this package is sent to them. Ray retries a task whose worker or
machine has died.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.core.errors import EngineError, ParamsError
from pipeline.executors import remote_files
from pipeline.executors.base import ENDS, Broken, Event, Executor, Failed, Progress, Work, answer, resolve
from pipeline.executors.cluster import Cluster

_RETRIES = 2
_TASKS_PER_WORKER = 200
_SLOTS_EVERY_S = 5.0
_ANSWER_S = 10.0
_UP = "up"


@dataclass
class _Submitted:
    """A task submitted to Ray, and its state."""

    task: Any
    ref: Any
    starts: int = 0
    last_signal: float | None = None  # time of its last message; None while it waits for a worker


class RayExecutor:
    """An `Executor` on a Ray cluster.

    Args:
        work: The functions that the workers run.
        cluster: The cluster, and the resources of a task.
        most: Maximum number of tasks at once; 0 for the capacity of the cluster.
        silence_s: Seconds without a message after which a task counts as hanging: it is cancelled and retried.

    Raises:
        ParamsError: Ray is not installed.
        EngineError: The cluster does not respond.
    """

    def __init__(self, work: Work, cluster: Cluster, *, most: int = 0, silence_s: float | None = None) -> None:
        self._ray = _connect(cluster, work)
        self._work = work
        self._cluster = cluster
        self._most = most
        self._silence_s = silence_s
        self._submitted: dict[int, _Submitted] = {}
        self._inputs: dict[Path, tuple[remote_files.Mark, Any]] = {}
        self._board = self._start_board()
        self._remote = self._ray.remote(
            num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=_RETRIES, max_calls=_TASKS_PER_WORKER
        )(_run)
        self._counted, self._slots = -_SLOTS_EVERY_S, 1

    @property
    def slots(self) -> int:
        """Number of tasks that the cluster can run now; machines may join and leave."""
        if time.monotonic() - self._counted >= _SLOTS_EVERY_S:
            has = self._ray.cluster_resources()
            needed = {"CPU": self._cluster.cpus, "GPU": self._cluster.gpus}
            room = min(int(has.get(name, 0) / count) for name, count in needed.items() if count)
            self._slots = max(1, min(room, self._most) if self._most else room)
            self._counted = time.monotonic()
        return self._slots

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def warm_up(self) -> None:
        """Do nothing: Ray manages its workers."""

    def submit(self, key: int, task: Any) -> None:
        """Submit a task to Ray, with its files."""
        self._submitted[key] = _Submitted(task, self._send(key, task))

    def wait(self, timeout_s: float) -> Iterator[Event]:
        """Wait for events and yield them; see `Executor.wait`."""
        keys = {submitted.ref: key for key, submitted in self._submitted.items()}
        done = self._ray.wait(list(keys), num_returns=1, timeout=timeout_s)[0] if keys else []
        for key, message in self._ray.get(self._board.take.remote()):
            yield from self._handle_message(key, message)
        for ref in done:
            if keys[ref] in self._submitted:
                yield from self._receive(keys[ref])
        yield from self._end_hanging()

    def close(self) -> None:
        """Cancel every task at once, and disconnect from the cluster."""
        for submitted in self._submitted.values():
            self._ray.cancel(submitted.ref, force=True)
        self._submitted.clear()
        self._ray.shutdown()

    def _send(self, key: int, task: Any) -> Any:
        if not isinstance(task, remote_files.Portable):
            return self._remote.remote(self._work, task, (), None, self._board, key)
        marks, stored = zip(*map(self._stored, task.inputs), strict=True)
        files = remote_files.pack(task.folder)
        return self._remote.remote(self._work, task, marks, files, self._board, key, *stored)

    def _stored(self, folder: Path) -> tuple[remote_files.Mark, Any]:
        """Return a folder's mark and its content in the object store, which is stored once."""
        known = self._inputs.get(folder)
        fingerprint = remote_files.fingerprint(folder)
        if known is None or known[0].fingerprint != fingerprint:
            files = remote_files.pack(folder)
            mark = remote_files.Mark(fingerprint, remote_files.digest(files))
            known = self._inputs[folder] = (mark, self._ray.put(files))
        return known

    def _handle_message(self, key: int, message: Any) -> Iterator[Event]:
        submitted = self._submitted.get(key)
        if submitted is None:
            return  # the task has ended
        submitted.last_signal = time.monotonic()
        if message != _UP:
            yield Progress(key, message)
            return
        submitted.starts += 1
        if submitted.starts > 1 + _RETRIES:  # Ray retries tasks killed for lack of memory without limit
            self._ray.cancel(submitted.ref, force=True)
            del self._submitted[key]
            yield Failed(
                key, f"{submitted.starts - 1} workers died on it, perhaps for lack of memory", "ray", died=True
            )

    def _receive(self, key: int) -> Iterator[Event]:
        submitted = self._submitted.pop(key)
        exceptions = self._ray.exceptions
        try:
            kind, content, worker, files, lines = self._ray.get(submitted.ref)
        except exceptions.RayTaskError as error:  # only from the setup: errors of a task are in its result
            yield Broken(key, f"a worker could not be set up: {_last_line(error)}", "ray")
            return
        except exceptions.RayError as error:
            yield Failed(
                key, f"{1 + _RETRIES} workers died on it, the last with {type(error).__name__}", "ray", died=True
            )
            return
        if kind == "done" and isinstance(submitted.task, remote_files.Portable):
            remote_files.bring_home(files, submitted.task.folder)
        if lines:
            with submitted.task.ledger.open("a", encoding="utf-8") as ledger:
                ledger.write(lines)
        yield ENDS[kind](key, content, worker)

    def _end_hanging(self) -> Iterator[Event]:
        if self._silence_s is None:
            return
        for key, submitted in list(self._submitted.items()):
            if submitted.last_signal is None or time.monotonic() - submitted.last_signal < self._silence_s:
                continue
            self._ray.cancel(submitted.ref, force=True)
            if submitted.starts > _RETRIES:
                del self._submitted[key]
                reason = f"killed after {self._silence_s:.0f} s without a sign of life"
                yield Failed(key, f"{submitted.starts} workers died on it, the last {reason}", "ray", died=True)
            else:
                again = self._send(key, submitted.task)
                self._submitted[key] = _Submitted(submitted.task, again, submitted.starts)

    def _start_board(self) -> Any:
        """Start the actor that receives the tasks' messages, on this machine because others may leave the cluster."""
        here = self._ray.get_runtime_context().get_node_id()
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        return self._ray.remote(_Board).options(num_cpus=0, scheduling_strategy=strategy).remote()


class _Board:
    """An actor that collects messages of running tasks."""

    def __init__(self) -> None:
        self._messages: list[tuple[int, Any]] = []

    def post(self, key: int, message: Any) -> None:
        self._messages.append((key, message))

    def take(self) -> list[tuple[int, Any]]:
        taken, self._messages = self._messages, []
        return taken


def _run(
    work: Work,
    task: Any,
    marks: tuple[remote_files.Mark, ...],
    files: Any,
    board: Any,
    key: int,
    *stored: Mapping[str, Any],
) -> tuple[str, Any, str, remote_files.Files, str]:
    """Run a task on a Ray worker; return its outcome, its result or reason, the worker, the files and the ledger."""
    import ray

    function = _prepared(work.function, work.setup, tuple(sorted(work.setup_arguments.items())))
    posted = [board.post.remote(key, _UP)]
    worker = f"ray-{ray.get_runtime_context().get_node_id()[:8]}-{os.getpid()}"

    def emit(message: Any) -> None:
        posted[:] = [board.post.remote(key, message)]

    kind, content, left, lines = _answered(function, task, marks, files, stored, emit)
    ray.get(posted)  # wait for the last message, and so for all: `wait` drops messages of ended tasks
    return kind, content, worker, left, lines


def _answered(
    function: Any,
    task: Any,
    marks: tuple[remote_files.Mark, ...],
    files: Any,
    stored: tuple[Any, ...],
    emit: Callable[[Any], None],
) -> tuple[str, Any, remote_files.Files, str]:
    """Unpack a task's files and run it; return its outcome, its result or reason, the files and the ledger."""
    if not marks:
        return (*answer(function, task, emit), {}, "")
    with tempfile.TemporaryDirectory() as scratch:
        folder, ledger = Path(scratch) / task.folder.name, Path(scratch) / "ledger"
        remote_files.unpack(files, folder)
        inputs = [remote_files.at_hand(*source) for source in zip(task.inputs, marks, stored, strict=True)]
        placed = task.placed(inputs, folder, ledger)
        kind, content = answer(function, placed, emit)
        lines = ledger.read_text(encoding="utf-8") if ledger.exists() else ""
        return kind, content, remote_files.pack(folder) if kind == "done" else {}, lines


@functools.cache
def _prepared(function: str, setup: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    """Set up a worker process, once, and return the function that runs its tasks."""
    resolve(setup)(**dict(arguments))
    return resolve(function)


def _connect(cluster: Cluster, work: Work) -> Any:
    if importlib.util.find_spec("ray") is None:
        raise ParamsError(
            "search.engine is ray, which is not installed",
            expected="an installed ray",
            found="none",
            next_step='make install SET="cpu ray" (or "gpu ray")',
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.exceptions
    import ray.util.scheduling_strategies

    package = Path(__file__).resolve().parents[1]
    try:
        _require_answer(cluster.address)
        ray.init(
            address=cluster.address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"py_modules": [str(package)], "config": {"setup_timeout_seconds": 120}},
        )
    except (OSError, ValueError, RuntimeError) as error:  # a ConnectionError is an OSError
        raise EngineError(
            "no Ray cluster is available",
            expected=f"one at search.ray.address={cluster.address}",
            found=_last_line(error),
            next_step="run `ray start --head`, or correct the address",
        ) from None
    return ray


def _require_answer(address: str) -> None:
    """Check that an address accepts connections: Ray itself would wait for minutes and ignore Ctrl-C."""
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    if parts.port:
        socket.create_connection((parts.hostname or "", parts.port), timeout=_ANSWER_S).close()


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
