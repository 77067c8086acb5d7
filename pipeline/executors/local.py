"""Worker processes on this machine. Keras is imported once, for all of them, and each runs many tasks.

Every worker has a pipe of its own, so a worker killed in the middle of a message harms no other. A task whose worker
dies is given to another worker, at most `_RETRIES` times; one that hangs is killed, which is a death like any other.
Workers end by themselves when this process is gone.
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
from pipeline.executors.fork_server import Nursery

_RETRIES = 2
_TASKS_PER_WORKER = 200  # then a worker is replaced, so that what leaks in a framework stays bounded
_GROWTH = 1 << 30  # bytes beyond what a worker held after its first task: then it is replaced, too
_START_S = 600.0  # a worker that is not up by then hangs; Keras takes 3 to 10 s, on a busy machine a minute


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
    up: bool = False  # set up, and at work
    heard: float = field(default_factory=time.monotonic)  # when it gave its last sign of life, or was given a task
    held: int | None = None  # bytes, after its first task

    @property
    def name(self) -> str:
        return f"local-{self.slot}"


class LocalExecutor:
    """See `engine.base.Executor`.

    Args:
        work: What the workers do.
        environments: One worker process for each, with these environment variables set before anything is imported.
        silence_s: A task that gives no sign of life for so long hangs: its worker is killed. None never does.
        growth: Bytes by which a worker may grow beyond what it held after its first task before it is replaced.
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
        self._nursery = Nursery(work, environments)
        self._queue: deque[_Queued] = deque()
        self._workers: dict[int, _Worker] = {}

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def warm_up(self) -> None:
        """Begin to import Keras, which takes seconds in which the caller can do something else."""
        if self._nursery.prepare():
            return
        for slot in set(range(self.slots)) - set(self._workers):
            self._start(slot)

    def submit(self, key: int, task: Any) -> None:
        """Queue a task. Workers that have to be waited for are started in `wait`."""
        self._queue.append(_Queued(key, task))
        self._dispatch(start=not self._nursery.prepare())

    def wait(self, timeout_s: float) -> Iterator[Event]:
        """Yield what has happened; see `Executor.wait`."""
        self._dispatch()
        busy = {worker.pipe: worker for worker in self._workers.values() if worker.running}
        deadlines = [self._deadline(worker) for worker in busy.values()]
        patience = min([timeout_s, *(max(0.0, deadline - time.monotonic()) for deadline in deadlines)])
        for pipe in connection.wait(list(busy), patience):
            event = self._receive(busy[pipe])  # type: ignore[index]
            if event is not None:
                yield event
        for worker in [w for w in self._workers.values() if w.running and self._deadline(w) <= time.monotonic()]:
            worker.process.kill()
            told = f"killed after {time.monotonic() - worker.heard:.0f} s without a sign of life"
            event = self._bury(worker, told)
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
        """Give queued tasks to idle workers, and start those that are missing."""
        for slot in range(self.slots):
            worker = self._workers.get(slot)
            if not self._queue:
                return
            if worker and worker.running:
                continue
            if worker and self._worn(worker):
                self._retire(worker)
                worker = None
            if worker or start:
                self._give(worker or self._start(slot))

    def _worn(self, worker: _Worker) -> bool:
        """Tell whether an idle worker is to be replaced before it is given another task."""
        if worker.started >= _TASKS_PER_WORKER or not worker.process.is_alive():
            return True
        return worker.held is not None and _held(worker.process) > worker.held + self._growth

    def _deadline(self, worker: _Worker) -> float:
        """Return when a worker that has given no sign of life since its last is taken to hang."""
        if self._silence_s is None:
            return math.inf
        return worker.heard + (self._silence_s if worker.up else max(self._silence_s, _START_S))

    def _give(self, worker: _Worker) -> None:
        worker.running = self._queue.popleft()
        worker.started += 1
        worker.heard = time.monotonic()
        with suppress(OSError):  # it has just died: its pipe says so at the next wait, and the task goes elsewhere
            worker.pipe.send(worker.running.task)

    def _start(self, slot: int) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        arguments = (theirs, self._work, dict(self._environments[slot]))
        process = self._nursery.start(_serve, arguments, f"pipeline-worker-{slot}")
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
            return self._bury(worker, _death(worker.process.exitcode))
        worker.heard = time.monotonic()
        if kind == "up":
            worker.up = True
            return None
        if kind == "progress":
            return Progress(queued.key, content)
        worker.running = None
        worker.held = worker.held or _held(worker.process)
        return ENDS[kind](queued.key, content, worker.name)

    def _bury(self, worker: _Worker, death: str) -> Event | None:
        """Take the task from a dead worker: back to the head of the queue, or failed if it keeps killing workers."""
        queued = worker.running
        assert queued is not None
        self._retire(worker)
        queued.deaths += 1
        if queued.deaths <= _RETRIES:
            self._queue.appendleft(queued)
            return None
        return Failed(queued.key, f"{queued.deaths} workers died on it, the last {death}", worker.name)


def _serve(pipe: Connection, work: Work, environment: dict[str, str]) -> None:
    """What a worker process does: prepare once, then run tasks until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
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
    """Return the bytes of memory that a process holds; none when it has gone."""
    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.Error:
        return 0


def _death(code: int | None) -> str:
    """Return how a process ended, in words."""
    if code is None or code >= 0:
        return f"with exit code {code}"
    hint = ", as Linux does when memory runs out" if -code == signal.SIGKILL else ""
    return f"killed by signal {-code} ({signal.Signals(-code).name}){hint}"
