"""Starts local workers: forks them from a process that is already set up, or spawns each one.

Setting up means importing TensorFlow, which takes 3 to 10 s of a core and 300 MB. Every spawned worker and every
replacement pays that cost; with Python's fork server, it is paid once. A fork is safe as long as TensorFlow has
computed nothing: importing it starts none of its threads.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any

from pipeline.executors import sockets
from pipeline.executors.base import Work

SETUP = "PIPELINE_FORK_SERVER_SETUP"  # environment variable of the fork server: its setup as JSON
_TRIES = 5  # connections to a fork server, because one that was killed takes a moment to disappear
_set_up: list[str] = []  # the setup of this process's only fork server, if it has one


class WorkerFactory:
    """Starts the workers of an executor.

    Workers are forked if the work allows it and they have no environment variables of their own, which must be set
    before any import. Forking is limited to Linux: on other systems, it is not safe with all libraries.
    """

    def __init__(self, work: Work, environments: Sequence[Mapping[str, str]]) -> None:
        setup = json.dumps([work.setup, dict(work.setup_arguments)], sort_keys=True)
        forks = sys.platform == "linux" and work.forkable and not any(environments)
        if forks and not _set_up:
            _set_up.append(setup)
            os.environ[SETUP] = setup
        self._forks = forks and _set_up == [setup]  # a later executor with another setup spawns its workers

    def prepare(self) -> bool:
        """Start the fork server without waiting for it; return whether workers are forked."""
        if self._forks:
            multiprocessing.get_context("forkserver").set_forkserver_preload(["pipeline.executors.fork_server_preload"])
            with sockets.in_short_folder():
                forkserver.ensure_running()
        return self._forks

    def start(self, target: Callable[..., None], arguments: tuple[Any, ...], name: str) -> BaseProcess:
        """Start a worker; a forked one waits until the fork server is set up."""
        for _ in range(_TRIES):
            with contextlib.suppress(EOFError, ConnectionError):  # the fork server died: another takes its place
                return self._started(target, arguments, name)
            time.sleep(0.2)
        return self._started(target, arguments, name)

    def _started(self, target: Callable[..., None], arguments: tuple[Any, ...], name: str) -> BaseProcess:
        self.prepare()
        context = multiprocessing.get_context("forkserver" if self._forks else "spawn")
        process: BaseProcess = context.Process(target=target, args=arguments, daemon=True, name=name)  # type: ignore[attr-defined]
        process.start()
        return process
