"""Files over HTTP: resumed by range, retried where that may help, with bounded waits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core.addresses import RedactingFilter, redacted
from pipeline.datasets.download import responses
from pipeline.datasets.download.partial_file import PartialFile
from pipeline.datasets.download.sources import Unavailable

if TYPE_CHECKING:
    import requests

_RETRIES = 3
_TRANSIENT = frozenset({500, 502, 503, 504})  # without a Retry-After, which may be an hour: the next mirror is nearer
_MOST_REDIRECTS = 5
_CHUNK = 1 << 16
_QUOTE_URLS = ("urllib3.connection", "urllib3.connectionpool", "urllib3.poolmanager", "urllib3.util.retry")  # loggers
_REDACTING = RedactingFilter()


@dataclass(frozen=True)
class Limits:
    """How long a run waits for servers, in seconds and bytes."""

    connect_s: float = 5.0
    read_s: float = 10.0  # for the headers, and between two reads of the body
    total_s: float = 18.0  # over all silent hosts; chosen: with one stalled read on top, a run fails within 30 s
    slowest: int = 1024  # bytes/s over read_s; chosen: 170 MB would take two days
    progress: int = 1 << 20  # bytes; a connection that brought as many and then stalls or breaks is resumed at no cost
    backoff_s: float = 0.3  # retries after 0, 0.6 and 1.2 s


class _Broken(Unavailable):
    """The connection broke or the server failed; the received bytes are good, and another request may succeed."""


class HttpClient:
    """The requests of one run, shared by its threads.

    A host that did not answer is not tried again in the same run: offline, every file would wait for every mirror.
    Threads that wait for a host at the same time spend that time once.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.interrupted: futures.Future[None] = futures.Future()
        for name in _QUOTE_URLS:
            logging.getLogger(name).addFilter(_REDACTING)
        self._left_s, self._silent, self._lock = limits.total_s, dict[str, str](), threading.Lock()

    def download(self, url: str, part: PartialFile) -> bool:
        """Append what is missing of a file; return whether earlier bytes were kept.

        Raises:
            Unavailable: The host does not answer, answers with an error, or sends too much or next to nothing.
            CancelledError: `interrupted` is set.
        """
        failures, furthest = 0, part.size
        while True:
            try:
                return self._request_rest(url, part)
            except _Broken:
                if part.size >= furthest + self.limits.progress:
                    failures = 0
                furthest = max(furthest, part.size)
                if failures == _RETRIES:
                    raise
                futures.wait([self.interrupted], self.limits.backoff_s * 2**failures if failures else 0)
                failures += 1

    def _request_rest(self, url: str, part: PartialFile) -> bool:
        host = url.partition("://")[2].partition("/")[0]
        offset = part.size if part.size < part.limit else 0
        with self._get(url, host, offset, part.validator) as response:
            status = response.status_code
            if offset and (
                status == 416 or (status == 206 and not responses.continues(response, offset, part.validator))
            ):
                part.restart()
                return self._request_rest(url, part)
            if status != 200 and not (offset and status == 206):
                reason = redacted(f"HTTP {status} {response.reason}", url, response.url)
                raise (_Broken if status in _TRANSIENT else Unavailable)(reason)
            if status == 200:
                offset = 0
                part.restart(responses.validator(response))
            length = response.headers.get("Content-Length", "")
            if length.isdigit() and offset + int(length) > part.limit:
                raise Unavailable(f"announces {offset + int(length):,} bytes, more than {part.limit:,}")
            part.append(self._body(response, host))
        return offset > 0

    def _get(self, url: str, host: str, offset: int, validator: str) -> requests.Response:
        """Return a response once its headers are there."""
        import requests
        import urllib3

        wait = self._allowed_wait(host)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        headers |= {"If-Range": validator} if offset and validator else {}
        since = time.monotonic()
        answer = _request(url, headers, (self.limits.connect_s, self.limits.read_s))
        either: list[futures.Future[Any]] = [answer, self.interrupted]
        futures.wait(either, wait, futures.FIRST_COMPLETED)
        self._stop_if_interrupted()
        try:
            return answer.result(timeout=0)
        except (TimeoutError, requests.ReadTimeout):  # whichever of two equal limits is noticed first
            raise self._give_up(host, wait, f"no answer within {wait:.3g} s") from None
        except (requests.ConnectionError, requests.Timeout) as error:
            if error.args and isinstance(error.args[0], urllib3.exceptions.ProtocolError):
                raise _Broken(responses.reason(error, url), unreachable=True) from None
            raise self._give_up(host, min(time.monotonic() - since, wait), responses.reason(error, url)) from None
        except (requests.RequestException, ValueError, TypeError) as error:  # requests lets errors of parsers through
            raise Unavailable(responses.reason(error, url)) from None

    def _body(self, response: requests.Response, host: str) -> Iterator[bytes]:
        """Yield the bytes as served: a gzip file stays one, whatever the server states about encodings."""
        import urllib3

        total, window, since, reason = 0, 0, time.monotonic(), "stopped sending"
        try:
            while chunk := response.raw.read1(_CHUNK, decode_content=False):
                yield chunk
                self._stop_if_interrupted()
                total, window = total + len(chunk), window + len(chunk)
                if (passed := time.monotonic() - since) >= self.limits.read_s:
                    if window < self.limits.slowest * passed:
                        reason = f"sends less than {self.limits.slowest:,} bytes/s"
                        break
                    window, since = 0, time.monotonic()
            else:
                return
        except urllib3.exceptions.ReadTimeoutError:
            pass
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _Broken(f"broke off: {responses.reason(error, response.url)}", unreachable=True) from None
        if total >= self.limits.progress:
            raise _Broken(reason, unreachable=True)
        raise self._give_up(host, time.monotonic() - since, reason)

    def _allowed_wait(self, host: str) -> float:
        """Return how many seconds a request may wait for its headers; raise `Unavailable` if it must not be made."""
        with self._lock:
            if host in self._silent:
                raise Unavailable(f"not tried again: {self._silent[host]}", unreachable=True)
            if self._left_s <= 0:
                raise Unavailable("not tried: the time for hosts that do not answer is spent", unreachable=True)
            return min(self.limits.read_s, self._left_s)

    def _give_up(self, host: str, waited_s: float, reason: str) -> Unavailable:
        """Note that waiting for a host was in vain; return the error to raise."""
        with self._lock:
            if host not in self._silent:
                self._left_s -= waited_s
                self._silent[host] = reason
        return Unavailable(reason, unreachable=True)

    def _stop_if_interrupted(self) -> None:
        if self.interrupted.done():
            raise futures.CancelledError


def _request(url: str, headers: dict[str, str], timeout: tuple[float, float]) -> futures.Future[requests.Response]:
    """Send a request and return its future response.

    In a daemon thread, because `requests` limits the wait per address of a host, and name resolution not at all.
    """
    import requests

    answer: futures.Future[requests.Response] = futures.Future()

    def request() -> None:
        try:
            session = requests.Session()
            session.max_redirects = _MOST_REDIRECTS
            answer.set_result(session.get(url, stream=True, timeout=timeout, headers=headers))
        except Exception as error:  # noqa: BLE001 - a thread would print it
            answer.set_exception(error)

    threading.Thread(target=request, daemon=True, name="http-request").start()
    return answer
