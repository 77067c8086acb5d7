"""How local workers come into being: forked from a process that is set up already, or each started from nothing.

Setting up means importing TensorFlow: 3 to 10 s of a core and 300 MB, which workers that are started from nothing take
each, and again for every one that is replaced. Python's fork server takes them once. TensorFlow survives a fork as long
as nothing was computed with it: importing it starts none of its threads.
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

from pipeline.executors.base import Work

SETUP = "PIPELINE_FORK_SERVER_SETUP"  # what the fork server is to set up, in its environment
_TRIES = 5  # to reach a fork server, where one dies as it is asked for a worker: it takes a moment until it is gone
_set_up: list[str] = []  # what that is in this process, which has one fork server at most


class Nursery:
    """Starts the workers of an executor.

    They are forked where the work allows it and they need no environments of their own, which would have to be there
    before anything is imported. The system has to be Linux: on others, forking is not safe with all libraries.
    """

    def __init__(self, work: Work, environments: Sequence[Mapping[str, str]]) -> None:
        told = json.dumps([work.setup, dict(work.setup_arguments)], sort_keys=True)
        forks = sys.platform == "linux" and work.forkable and not any(environments)
        if forks and not _set_up:
            _set_up.append(told)
            os.environ[SETUP] = told
        self._forks = forks and _set_up == [told]  # whoever comes later with another setup starts workers from nothing

    def prepare(self) -> bool:
        """Begin to set up what workers are forked from, and return whether there is such a thing. Does not wait."""
        if self._forks:
            multiprocessing.get_context("forkserver").set_forkserver_preload(["pipeline.executors.fork_server_preload"])
            forkserver.ensure_running()
        return self._forks

    def start(self, target: Callable[..., None], arguments: tuple[Any, ...], name: str) -> BaseProcess:
        """Start a worker; one that is forked waits until its fork server is set up."""
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
