"""SIGINT and SIGTERM: both end a command or stage in the same way, with their own exit codes.

A shell starts a background command with SIGINT ignored, and the kernel ignores SIGTERM for a container's first process
unless it has a handler. So commands and stages set both handlers themselves.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# A terminal signals the whole process group, and the command above a stage signals the stage again: the second signal
# must not interrupt what the first one has started. Later, a person may insist.
_SAME_REQUEST_S = 5.0


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM."""


_ERRORS: dict[int, type[KeyboardInterrupt]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
_requests: list[tuple[int, float]] = []


@contextmanager
def signals_raise() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on SIGINT and `Terminated` on SIGTERM; only the main thread can set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[int, Any] = {number: signal.getsignal(number) for number in _ERRORS}
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != owner:  # a fork that has not set handlers of its own
            os._exit(128 + number)
        now = time.monotonic()
        if _requests and now - _requests[0][1] < _SAME_REQUEST_S:
            return
        _requests[:] = [(number, now)]
        raise _ERRORS[number]

    try:
        for number in _ERRORS:
            signal.signal(number, handle)
        yield
    finally:
        _requests.clear()
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def check() -> None:
    """Raise again if a signal has arrived: Python drops an exception that a handler raises within a destructor."""
    if _requests:
        raise _ERRORS[_requests[0][0]]
