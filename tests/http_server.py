"""Real HTTP servers on this machine that act by script: good, broken, silent and lying ones."""

from __future__ import annotations

import contextlib
import http.server
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

BODY = random.Random(0).randbytes(3_000_000)
OTHER = random.Random(1).randbytes(3_000_000)
CUT = 1_234_567


@dataclass
class Request:
    path: str
    range: str | None
    if_range: str | None
    sent: int = 0


@dataclass
class Server:
    """A server that answers its n-th request as the n-th act of its script says, and from then on as the last."""

    acts: list[Act]
    url: str = ""
    asked: list[Request] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def ranges(self) -> list[str | None]:
        return [request.range for request in self.asked]

    def paths(self) -> list[str]:
        return [request.path for request in self.asked]


class Handler(http.server.BaseHTTPRequestHandler):
    mirror: Server
    request_made: Request

    def do_GET(self) -> None:
        self.request_made = Request(self.path, self.headers["Range"], self.headers["If-Range"])
        self.mirror.asked.append(self.request_made)
        acts = self.mirror.acts
        act = acts.pop(0) if len(acts) > 1 else acts[0]
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client has heard enough
            act(self)

    def start(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send(self, content: bytes) -> None:
        self.wfile.write(content)
        self.request_made.sent += len(content)

    def log_message(self, *_: object) -> None:
        pass


Act = Callable[[Handler], None]


def serve_file(body: bytes = BODY, etag: str | None = '"one"', *, stop: int | None = None, ranges: bool = True) -> Act:
    """A good server; `stop` cuts the connection at a byte of the file."""

    def act(self: Handler) -> None:
        tag = {"ETag": etag} if etag else {}
        asked = re.fullmatch(r"bytes=(\d+)-", self.request_made.range or "")
        fits = self.request_made.if_range in (None, etag)
        start = int(asked[1]) if asked and ranges and fits else 0
        size = len(body)
        if start:
            self.start(206, Content_Length=str(size - start), Content_Range=f"bytes {start}-{size - 1}/{size}", **tag)
        else:
            self.start(200, Content_Length=str(size), **tag)
        self.send(body[start:stop])

    return act


def status(code: int, **headers: str) -> Act:
    return lambda self: self.start(code, Content_Length="0", **headers)


def drop(self: Handler) -> None:
    """Close the connection without a word."""


def silent(self: Handler) -> None:
    """Never answer."""
    self.mirror.closing.wait(20)


def hang(self: Handler) -> None:
    """Send a part, then nothing."""
    self.start(200, Content_Length=str(len(BODY)), ETag='"one"')
    self.send(BODY[:CUT])
    self.mirror.closing.wait(20)


def trickle(self: Handler) -> None:
    """Send a byte now and then, for as long as anyone listens."""
    self.start(200, Content_Length=str(len(BODY)))
    for index in range(2000):
        self.send(BODY[index : index + 1])
        if self.mirror.closing.wait(0.01):
            return


def partial_content(content_range: str, etag: str = '"one"', body: bytes = OTHER) -> Act:
    def act(self: Handler) -> None:
        self.start(206, Content_Length=str(len(body)), Content_Range=content_range, ETag=etag)
        self.send(body)

    return act


def chunked(body: bytes, *, ends: bool = True) -> Act:
    def act(self: Handler) -> None:
        self.protocol_version = "HTTP/1.1"
        self.start(200, Transfer_Encoding="chunked", ETag='"one"')
        for start in range(0, len(body), 100_000):
            piece = body[start : start + 100_000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if ends:
            self.wfile.write(b"0\r\n\r\n")

    return act


def serve_files(files: dict[str, bytes]) -> Act:
    """A good server of several files; their paths may be added and removed meanwhile."""

    def act(self: Handler) -> None:
        body = files.get(self.path.lstrip("/"))
        (status(404) if body is None else serve_file(body))(self)

    return act


def dead_url() -> str:
    """Return the address of a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}/"


Serve = Callable[..., Server]


@contextlib.contextmanager
def servers() -> Iterator[Serve]:
    """Start servers by their acts; all end with the context."""
    running: list[tuple[http.server.ThreadingHTTPServer, Server]] = []

    def start(*acts: Act) -> Server:
        mirror = Server(list(acts))
        handler = type("Scripted", (Handler,), {"mirror": mirror})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        mirror.url = f"http://127.0.0.1:{server.server_port}/"
        running.append((server, mirror))
        return mirror

    try:
        yield start
    finally:
        for server, mirror in running:
            mirror.closing.set()
            server.shutdown()
            server.server_close()
