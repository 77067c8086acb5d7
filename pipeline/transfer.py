"""Bytes over HTTP for `download`: bounded in size and in the time spent on hosts that do not answer."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import requests

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 10.0
BUDGET_S = 18.0  # chosen: with one stalled read on top, a failure comes within 30 s of the start
_CHUNK = 1 << 16
_WORTH_A_BAR = 1_000_000  # bytes


class Unavailable(Exception):
    """A source does not have the file or is out of reach; `unreachable` tells that it is the connection that failed."""

    def __init__(self, why: str, *, unreachable: bool = False) -> None:
        super().__init__(why)
        self.unreachable = unreachable


@dataclass
class Patience:
    """How much more waiting a run allows itself, and which hosts have used up theirs.

    A host that did not answer once is not asked again in the same run: offline, every file would wait for every mirror.
    """

    left_s: float = BUDGET_S
    silent: dict[str, str] = field(default_factory=dict)

    def check(self, host: str) -> None:
        """Refuse a host that did not answer before, and any host once the time for waiting is spent."""
        if host in self.silent:
            raise Unavailable(f"not tried again: {self.silent[host]}", unreachable=True)
        if self.left_s <= 0:
            raise Unavailable("not tried: the time for hosts that do not answer is spent", unreachable=True)

    def spent(self, host: str, since: float, why: str) -> Unavailable:
        """Note that the wait for a host since a `time.monotonic` was in vain; return what to raise."""
        self.left_s -= time.monotonic() - since
        self.silent[host] = why
        return Unavailable(why, unreachable=True)


def stream(url: str, limit: int, patience: Patience) -> Generator[bytes]:
    """Yield a URL's bytes as they are served: a gzip file stays one, whatever the server says about encodings.

    Raises:
        Unavailable: The host does not answer, answers with an error, announces more than `limit` bytes, or breaks off.
    """
    import urllib3

    host = urlsplit(url).netloc
    patience.check(host)
    response = _open(url, host, patience)
    with response:
        if response.status_code != 200:
            raise Unavailable(f"HTTP {response.status_code} {response.reason}")
        announced = response.headers.get("Content-Length", "0")
        if announced.isdigit() and int(announced) > limit:
            raise Unavailable(f"announces {int(announced):,} bytes, more than {limit:,}")
        since = time.monotonic()
        try:
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                yield chunk
                since = time.monotonic()
        except urllib3.exceptions.ReadTimeoutError:
            raise patience.spent(host, since, "stopped sending") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"broke off: {_reason(error)}", unreachable=True) from None


def _open(url: str, host: str, patience: Patience) -> requests.Response:
    """Return the response once its headers are there, or raise `Unavailable` at the latest after the allowed wait.

    In a thread, because `requests` bounds the wait per address: name resolution has no limit, and a host may have a
    dozen addresses. A daemon thread that is still waiting does not keep the process alive.
    """
    import requests

    answers: queue.SimpleQueue[requests.Response | requests.RequestException] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(
                requests.get(
                    url,
                    stream=True,
                    timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                    headers={"Accept-Encoding": "identity"},
                )
            )
        except requests.RequestException as error:
            answers.put(error)

    since = time.monotonic()
    wait = min(READ_TIMEOUT_S, patience.left_s)
    threading.Thread(target=ask, daemon=True, name=f"ask {host}").start()
    try:
        answer = answers.get(timeout=wait)
    except queue.Empty:
        raise patience.spent(host, since, f"no answer within {wait:.0f} s") from None
    if isinstance(answer, requests.RequestException):
        raise patience.spent(host, since, _reason(answer))
    return answer


def _reason(error: BaseException) -> str:
    """Return what lies at the bottom of a chain of wrapped network errors, in a few words."""
    while (inner := getattr(error, "reason", None) or error.__cause__ or error.__context__) is not None:
        if not isinstance(inner, BaseException):
            break
        error = inner
    told = getattr(error, "strerror", None) or str(error)
    return told if len(told) < 120 else type(error).__name__


class Progress:
    """A progress bar for one file: on a terminal, for files worth one; otherwise nothing at all."""

    def __init__(self, name: str, size: int) -> None:
        self._name, self._size = name, size
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stdout.isatty() and self._size > _WORTH_A_BAR:
            from rich import progress

            self._bar = progress.Progress(
                *progress.Progress.get_default_columns(), progress.DownloadColumn(), transient=True
            )
            self._task = self._bar.add_task(self._name, total=self._size)
            self._bar.start()
        return self

    def advance(self, count: int) -> None:
        """Count bytes that have arrived."""
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
