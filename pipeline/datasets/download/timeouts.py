"""How long a run waits for hosts that do not answer, or hardly: bounded over all files, mirrors and threads."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

READ_TIMEOUT_S = 10.0
BUDGET_S = 18.0  # chosen: with one stalled read on top, a failure comes within 30 s of the start
SLOWEST = 1024  # bytes per second over READ_TIMEOUT_S; chosen: 170 MB would take two days, so it is no transfer
WORTH_A_WAIT = 1 << 20  # bytes; a connection that brought them may stall or break at no cost, and is resumed


class Unavailable(Exception):
    """A source does not have the file or is out of reach; `unreachable` tells that it is the connection that failed."""

    def __init__(self, why: str, *, unreachable: bool = False) -> None:
        super().__init__(why)
        self.unreachable = unreachable


class Broken(Unavailable):
    """A transfer broke off; what has arrived is good, and asking for the rest may work."""

    def __init__(self, why: str) -> None:
        super().__init__(why, unreachable=True)


@dataclass
class WaitBudget:
    """How much more waiting a run allows itself, and which hosts have used up theirs. Shared by its threads.

    A host that did not answer once is not asked again in the same run: offline, every file would wait for every mirror.
    Threads that wait for a host at the same time spend that time once.
    """

    left_s: float = BUDGET_S
    silent: dict[str, str] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, host: str) -> None:
        """Refuse a host that did not answer before, any host once the time for waiting is spent, and all when over."""
        self.go_on()
        if host in self.silent:
            raise Unavailable(f"not tried again: {self.silent[host]}", unreachable=True)
        if self.left_s <= 0:
            raise Unavailable("not tried: the time for hosts that do not answer is spent", unreachable=True)

    def go_on(self) -> None:
        """Stop a thread whose run was interrupted."""
        if self.over.is_set():
            raise Unavailable("interrupted")

    def spent(self, host: str, since: float, why: str) -> Unavailable:
        """Note that the wait for a host since a `time.monotonic` was in vain; return what to raise."""
        with self._lock:
            if host not in self.silent:
                self.left_s -= time.monotonic() - since
                self.silent[host] = why
        return Unavailable(why, unreachable=True)


class Pace:
    """How fast bytes come, measured over READ_TIMEOUT_S at a time."""

    def __init__(self) -> None:
        self.total, self._window, self.since = 0, 0, time.monotonic()

    def too_slow(self, count: int) -> bool:
        """Count bytes; tell at the end of each window whether it brought too few."""
        self.total += count
        self._window += count
        if (passed := time.monotonic() - self.since) < READ_TIMEOUT_S:
            return False
        slow = self._window < SLOWEST * passed
        if not slow:
            self._window, self.since = 0, time.monotonic()
        return slow
