"""Bytes over HTTP for `download`: from any byte on, tried again where that may help, never waited for too long."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.datasets.download import timeouts as limits
from pipeline.datasets.download.timeouts import Broken, Pace, Unavailable, WaitBudget

if TYPE_CHECKING:
    import requests
    import urllib3

CONNECT_TIMEOUT_S = 5.0
_BACKOFF_S = 0.3  # waits of 0, 0.6 and 1.2 s
_TRANSIENT = frozenset({500, 502, 503, 504})
_MOST_REDIRECTS = 5
_CHUNK = 1 << 16


@dataclass(frozen=True)
class HttpResponse:
    """What a server sends: the file from `offset` on. Use as a context manager.

    `announced` is the size of the whole file as far as the server tells, `validator` what names this edition of it
    in an ``If-Range``.
    """

    offset: int
    announced: int
    validator: str
    host: str
    response: requests.Response
    patience: WaitBudget

    def __enter__(self) -> HttpResponse:
        return self

    def __exit__(self, *exception: object) -> None:
        self.response.close()

    def chunks(self) -> Generator[bytes]:
        """Yield the bytes as they are served: a gzip file stays one, whatever the server says about encodings.

        Raises:
            Broken: The connection broke, or stalled after it had brought much.
            Unavailable: It stalled before, or brings next to nothing.
        """
        import urllib3

        pace = Pace()
        try:
            while chunk := self.response.raw.read1(_CHUNK, decode_content=False):
                yield chunk
                self.patience.go_on()
                if pace.too_slow(len(chunk)):
                    raise self._stalled(pace, f"sends less than {limits.SLOWEST:,} bytes/s")
        except urllib3.exceptions.ReadTimeoutError:
            raise self._stalled(pace, "stopped sending") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Broken(f"broke off: {_reason(error)}") from None

    def _stalled(self, pace: Pace, why: str) -> Unavailable:
        return Broken(why) if pace.total >= limits.WORTH_A_WAIT else self.patience.spent(self.host, pace.since, why)


def ask(url: str, offset: int, validator: str, patience: WaitBudget) -> HttpResponse:
    """Ask for a file from a byte on; the answer starts at 0 when the server cannot do that or has another edition.

    Args:
        url: Where the file is.
        offset: How many bytes are there already.
        validator: The answer's that brought them, or empty when it had none.
        patience: The run's.

    Raises:
        Unavailable: The host does not answer, or answers with an error.
    """
    host = urlsplit(url).netloc
    patience.check(host)
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-"} | ({"If-Range": validator} if validator else {})
    response = _open(url, host, patience, headers)
    if offset and response.status_code in (206, 416) and not _continues(response, offset, validator):
        response.close()
        return ask(url, 0, "", patience)
    if response.status_code != (206 if offset else 200) and response.status_code != 200:
        response.close()
        raise Unavailable(f"HTTP {response.status_code} {response.reason}")
    start = offset if response.status_code == 206 else 0
    length = response.headers.get("Content-Length", "")
    announced = start + int(length) if length.isdigit() else 0
    return HttpResponse(start, announced, _validator(response), host, response, patience)


def retries() -> urllib3.Retry:
    """Return how often, and after which pauses, what broke off is tried again."""
    import urllib3

    return urllib3.Retry(total=3, backoff_factor=_BACKOFF_S)


def _continues(response: requests.Response, offset: int, validator: str) -> bool:
    """Tell whether an answer is the rest of what is there: of the same edition, from the very byte asked for."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(?:\d+|\*)", response.headers.get("Content-Range", ""))
    edition = _validator(response)
    same = not validator or not edition or edition == validator
    return response.status_code == 206 and found is not None and int(found[1]) == offset and same


def _validator(response: requests.Response) -> str:
    """Return what names an edition of a file for sure: a strong ETag, else the time it was changed."""
    etag = str(response.headers.get("ETag", ""))
    return etag if etag.startswith('"') else str(response.headers.get("Last-Modified", ""))


def _open(url: str, host: str, patience: WaitBudget, headers: dict[str, str]) -> requests.Response:
    """Return the response once its headers are there, or raise `Unavailable` at the latest after the allowed wait.

    In a thread, because `requests` bounds the wait per address: name resolution has no limit, and a host may have a
    dozen addresses. A daemon thread that is still waiting does not keep the process alive.
    """
    import requests

    answers: queue.SimpleQueue[requests.Response | requests.RequestException] = queue.SimpleQueue()

    def request() -> None:
        timeout = (CONNECT_TIMEOUT_S, limits.READ_TIMEOUT_S)
        try:
            answers.put(_session().get(url, stream=True, timeout=timeout, headers=headers))
        except requests.RequestException as error:
            answers.put(error)

    since = time.monotonic()
    wait = max(min(limits.READ_TIMEOUT_S, patience.left_s), 0.0)
    threading.Thread(target=request, daemon=True, name="ask a mirror").start()
    try:
        answer = answers.get(timeout=wait)
    except queue.Empty:
        raise patience.spent(host, since, f"no answer within {wait:.0f} s") from None
    if isinstance(answer, requests.ConnectionError | requests.Timeout):
        raise patience.spent(host, since, _reason(answer))
    if isinstance(answer, requests.RequestException):
        raise Unavailable(_reason(answer))
    return answer


def _session() -> requests.Session:
    """Return a session that tries again what may work a second later: broken connections, and errors like HTTP 503."""
    import requests
    import urllib3

    retry = urllib3.Retry(
        total=3,
        connect=0,  # a host that cannot be connected to is left at once for the next mirror
        status_forcelist=_TRANSIENT,
        backoff_factor=_BACKOFF_S,
        raise_on_status=False,
        respect_retry_after_header=False,  # it may say an hour; the next mirror is nearer
    )
    session = requests.Session()
    session.max_redirects = _MOST_REDIRECTS
    for scheme in ("https://", "http://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
    return session


def _reason(error: BaseException) -> str:
    """Return what lies at the bottom of a chain of wrapped network errors, in a few words."""
    while (inner := getattr(error, "reason", None) or error.__cause__ or error.__context__) is not None:
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = getattr(error, "strerror", None) or str(error)
    return text if len(text) < 120 else type(error).__name__
