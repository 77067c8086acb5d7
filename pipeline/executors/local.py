"""Runs tasks in worker processes on this machine. Keras is imported once for all workers; each runs many tasks.

Every worker has its own pipe, so a worker that is killed while it sends a message does not affect others. If a worker
dies, its task is given to another worker, at most `_RETRIES` times. A worker that hangs is killed, and its task is
retried in the same way. Workers exit when this process ends.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from pipeline.executors.base import ENDS, Event, Failed, Progress, Work, answer, resolve
from pipeline.executors.fork_server import WorkerFactory

_RETRIES = 2
_TASKS_PER_WORKER = 200  # then a worker is replaced, which bounds memory leaks of a framework
_GROWTH = 1 << 30  # a worker is also replaced when it uses this many bytes more than after its first task
_STANDSTILL_S = 5.0  # between two looks at the workers: usually there is one a second
_START_S = 600.0  # a worker that has not started by then hangs; Keras takes 3 to 10 s, on a busy machine a minute


@dataclass
class _Queued:
    key: int
    task: Any
    deaths: int = 0


@dataclass
class _Worker:
    slot: int
    process: BaseProcess
    pipe: Connection
    running: _Queued | None = None
    started: int = 0
    up: bool = False  # whether its setup is complete
    last_signal: float = field(default_factory=time.monotonic)  # time of its last message, or of its current task
    held: int | None = None  # memory after its first task, in bytes

    @property
    def name(self) -> str:
        return f"local-{self.slot}"


class LocalExecutor:
    """An `Executor` with worker processes on this machine.

    Args:
        work: The functions that the workers run.
        environments: Environment variables of each worker, set before any import; one worker is started per entry.
        silence_s: Seconds without a message after which a worker counts as hanging and is killed; None for no limit.
        growth: Bytes by which a worker's memory may exceed that after its first task before it is replaced.
    """

    def __init__(
        self,
        work: Work,
        environments: Sequence[Mapping[str, str]],
        *,
        silence_s: float | None = None,
        growth: int = _GROWTH,
    ) -> None:
        self.slots = len(environments)
        self._work = work
        self._silence_s = silence_s
        self._growth = growth
        self._environments = environments
        self._factory = WorkerFactory(work, environments)
        self._queue: deque[_Queued] = deque()
        self._workers: dict[int, _Worker] = {}
        self._awake_at = time.monotonic()

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def warm_up(self) -> None:
        """Start importing Keras in the background, which takes seconds."""
        if self._factory.prepare():
            return
        for slot in set(range(self.slots)) - set(self._workers):
            self._start(slot)

    def submit(self, key: int, task: Any) -> None:
        """Queue a task. Workers whose start would block are started in `wait`."""
        self._queue.append(_Queued(key, task))
        self._dispatch(start=not self._factory.prepare())

    def wait(self, timeout_s: float) -> Iterator[Event]:
        """Wait for events and yield them; see `Executor.wait`."""
        self._forgive(0.0)
        self._dispatch()
        busy = {worker.pipe: worker for worker in self._workers.values() if worker.running}
        deadlines = [self._deadline(worker) for worker in busy.values()]
        wait_s = min([timeout_s, *(max(0.0, deadline - time.monotonic()) for deadline in deadlines)])
        ready = connection.wait(list(busy), wait_s)
        self._forgive(wait_s)
        for pipe in ready:
            event = self._receive(busy[pipe])  # type: ignore[index]
            if event is not None:
                yield event
        for worker in [w for w in self._workers.values() if w.running and self._deadline(w) <= time.monotonic()]:
            worker.process.kill()
            reason = f"killed after {time.monotonic() - worker.last_signal:.0f} s without a sign of life"
            event = self._handle_death(worker, reason)
            if event is not None:
                yield event
        self._dispatch()

    def close(self) -> None:
        """Kill every worker and wait until it is gone."""
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()
        self._queue.clear()

    def _dispatch(self, *, start: bool = True) -> None:
        """Give queued tasks to idle workers, and start missing workers."""
        for slot in range(self.slots):
            worker = self._workers.get(slot)
            if not self._queue:
                return
            if worker and worker.running:
                continue
            if worker and self._needs_replacement(worker):
                self._retire(worker)
                worker = None
            if worker or start:
                self._give(worker or self._start(slot))

    def _forgive(self, expected_s: float) -> None:
        """Count the silence of workers anew after a time in which this process stood still, and they perhaps too.

        Ctrl-Z, a suspended batch job and `docker pause` stop all of them.
        """
        now = time.monotonic()
        if now - self._awake_at > expected_s + _STANDSTILL_S:
            for worker in self._workers.values():
                worker.last_signal = now
        self._awake_at = now

    def _needs_replacement(self, worker: _Worker) -> bool:
        """Return whether an idle worker must be replaced before it gets another task."""
        if worker.started >= _TASKS_PER_WORKER or not worker.process.is_alive():
            return True
        return worker.held is not None and _held(worker.process) > worker.held + self._growth

    def _deadline(self, worker: _Worker) -> float:
        """Return the time at which a silent worker counts as hanging."""
        if self._silence_s is None:
            return math.inf
        return worker.last_signal + (self._silence_s if worker.up else max(self._silence_s, _START_S))

    def _give(self, worker: _Worker) -> None:
        worker.running = self._queue.popleft()
        worker.started += 1
        worker.last_signal = time.monotonic()
        with suppress(OSError):  # it has just died: the next `wait` sees its closed pipe and requeues the task
            worker.pipe.send(worker.running.task)

    def _start(self, slot: int) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        arguments = (theirs, self._work, dict(self._environments[slot]))
        process = self._factory.start(_serve, arguments, f"pipeline-worker-{slot}")
        theirs.close()  # ours reads end-of-file when the worker dies
        self._workers[slot] = _Worker(slot, process, ours)
        return self._workers[slot]

    def _retire(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        del self._workers[worker.slot]

    def _receive(self, worker: _Worker) -> Event | None:
        queued = worker.running
        if queued is None:
            return None
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            return self._handle_death(worker, _death(worker.process.exitcode))
        worker.last_signal = time.monotonic()
        if kind == "up":
            worker.up = True
            return None
        if kind == "progress":
            return Progress(queued.key, content)
        worker.running = None
        worker.held = worker.held or _held(worker.process)
        return ENDS[kind](queued.key, content, worker.name)

    def _handle_death(self, worker: _Worker, death: str) -> Event | None:
        """Requeue the task of a dead worker first, or fail it if too many workers died on it."""
        queued = worker.running
        assert queued is not None
        self._retire(worker)
        queued.deaths += 1
        if queued.deaths <= _RETRIES:
            self._queue.appendleft(queued)
            return None
        return Failed(queued.key, f"{queued.deaths} workers died on it, the last {death}", worker.name, died=True)


def _serve(pipe: Connection, work: Work, environment: dict[str, str]) -> None:
    """Run a worker process: set it up once, then run tasks until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)
    resolve(work.setup)(**work.setup_arguments)
    function = resolve(work.function)
    pipe.send(("up", None))
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(answer(function, task, lambda message: pipe.send(("progress", message))))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _held(process: BaseProcess) -> int:
    """Return a process's memory in bytes; 0 if it has ended."""
    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.Error:
        return 0


def _death(code: int | None) -> str:
    """Return how a process ended, as text."""
    if code is None or code >= 0:
        return f"with exit code {code}"
    hint = ", as Linux does when memory runs out" if -code == signal.SIGKILL else ""
    return f"killed by signal {-code} ({signal.Signals(-code).name}){hint}"
