"""Worker processes on this machine. Each imports Keras once and then runs many tasks.

Every worker has a pipe of its own, so a worker killed in the middle of a message harms no other. A task whose worker
dies is given to another worker, at most `_RETRIES` times. Workers end by themselves when this process is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from pipeline.engine.base import Done, Event, Failed, Progress, Work, resolve

_RETRIES = 2
_TASKS_PER_WORKER = 200  # then a worker is replaced, so that what leaks in a framework stays bounded
_SPAWN = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork


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

    @property
    def name(self) -> str:
        return f"local-{self.slot}"


class LocalExecutor:
    """See `engine.base.Executor`.

    Args:
        work: What the workers do.
        environments: One worker process for each, with these environment variables set before anything is imported.
    """

    def __init__(self, work: Work, environments: Sequence[Mapping[str, str]]) -> None:
        self.slots = len(environments)
        self._work = work
        self._environments = environments
        self._queue: deque[_Queued] = deque()
        self._workers: dict[int, _Worker] = {}

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def submit(self, key: int, task: Any) -> None:
        """Queue a task; workers are started when there is something for them to do."""
        self._queue.append(_Queued(key, task))
        self._dispatch()

    def wait(self, timeout_s: float) -> Iterator[Event]:
        """Yield what has happened; see `Executor.wait`."""
        busy = {worker.pipe: worker for worker in self._workers.values() if worker.running}
        for pipe in connection.wait(list(busy), timeout_s):
            event = self._receive(busy[pipe])  # type: ignore[index]
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

    def _dispatch(self) -> None:
        for slot in range(self.slots):
            worker = self._workers.get(slot)
            if not self._queue:
                return
            if worker and worker.running:
                continue
            if worker and (worker.started >= _TASKS_PER_WORKER or not worker.process.is_alive()):
                self._retire(worker)
                worker = None
            self._give(worker or self._start(slot))

    def _give(self, worker: _Worker) -> None:
        worker.running = self._queue.popleft()
        worker.started += 1
        with suppress(OSError):  # it has just died: its pipe says so at the next wait, and the task goes elsewhere
            worker.pipe.send(worker.running.task)

    def _start(self, slot: int) -> _Worker:
        ours, theirs = _SPAWN.Pipe()
        arguments = (theirs, self._work, dict(self._environments[slot]))
        process = _SPAWN.Process(target=_serve, args=arguments, daemon=True, name=f"pipeline-worker-{slot}")
        process.start()
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
            return self._bury(worker, queued)
        if kind == "progress":
            return Progress(queued.key, content)
        worker.running = None
        if kind == "done":
            return Done(queued.key, content, worker.name)
        return Failed(queued.key, content, worker.name)

    def _bury(self, worker: _Worker, queued: _Queued) -> Event | None:
        """Take the task from a dead worker: back to the head of the queue, or failed if it keeps killing workers."""
        self._retire(worker)
        queued.deaths += 1
        if queued.deaths <= _RETRIES:
            self._queue.appendleft(queued)
            return None
        reason = f"{queued.deaths} workers died on it, the last with exit code {worker.process.exitcode}"
        return Failed(queued.key, reason, worker.name)


def _serve(pipe: Connection, work: Work, environment: dict[str, str]) -> None:
    """What a worker process does: prepare once, then run tasks until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)
    resolve(work.setup)(**work.setup_arguments)
    function = resolve(work.function)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            answer = ("done", function(task, lambda message: pipe.send(("progress", message))))
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told and decides
            answer = ("failed", _reason(error))
        pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _reason(error: Exception) -> str:
    """Return what failed, in one line, and where for errors that nobody foresaw."""
    told = f"{type(error).__name__}: {error}".strip()
    if error.__class__.__module__.startswith("pipeline."):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/pipeline/" in frame.filename.replace(os.sep, "/")]
    where = f" ({ours[-1].name}, line {ours[-1].lineno})" if ours else ""
    return " ".join(told.split())[:500] + where
