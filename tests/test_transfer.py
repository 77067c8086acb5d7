"""Downloads that break, stall, change and lie, from real HTTP servers on this machine that act by script."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import http.server
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.core.errors import DownloadError, ParamsError
from pipeline.core.params import parse
from pipeline.datasets.download import fetch, timeouts
from pipeline.datasets.download import http as transfer
from pipeline.datasets.download.sources import Candidate, Environment
from pipeline.project import dvc
from pipeline.stages import download

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

    def say(self, status: int, **headers: str) -> None:
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
            self.say(206, Content_Length=str(size - start), Content_Range=f"bytes {start}-{size - 1}/{size}", **tag)
        else:
            self.say(200, Content_Length=str(size), **tag)
        self.send(body[start:stop])

    return act


def status(code: int, **headers: str) -> Act:
    return lambda self: self.say(code, Content_Length="0", **headers)


def drop(self: Handler) -> None:
    """Close the connection without a word."""


def hang(self: Handler) -> None:
    """Send a part, then nothing."""
    self.say(200, Content_Length=str(len(BODY)), ETag='"one"')
    self.send(BODY[:CUT])
    self.mirror.closing.wait(20)


def trickle(self: Handler) -> None:
    """Send a byte now and then, for as long as anyone listens."""
    self.say(200, Content_Length=str(len(BODY)))
    for index in range(2000):
        self.send(BODY[index : index + 1])
        if self.mirror.closing.wait(0.01):
            return


def partial_content(content_range: str, etag: str = '"one"', body: bytes = OTHER) -> Act:
    def act(self: Handler) -> None:
        self.say(206, Content_Length=str(len(body)), Content_Range=content_range, ETag=etag)
        self.send(body)

    return act


def chunked(body: bytes, *, ends: bool = True) -> Act:
    def act(self: Handler) -> None:
        self.protocol_version = "HTTP/1.1"
        self.say(200, Transfer_Encoding="chunked", ETag='"one"')
        for start in range(0, len(body), 100_000):
            piece = body[start : start + 100_000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if ends:
            self.wfile.write(b"0\r\n\r\n")

    return act


Serve = Callable[..., Server]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setattr(transfer, "_BACKOFF_S", 0.001)
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

    yield start
    for server, mirror in running:
        mirror.closing.set()
        server.shutdown()
        server.server_close()


def pin(body: bytes, **more: object) -> dict[str, object]:
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} | more


def settings(*mirrors: Server | str, names: tuple[str, ...] = ("a.bin",), **more: object) -> download.DownloadSettings:
    urls = [mirror.url if isinstance(mirror, Server) else mirror for mirror in mirrors]
    section = {"format": "idx", "mirrors": urls, "classes": ["0", "1"], "files": [pin(BODY, name=n) for n in names]}
    return parse("download.toy", section | more, download.DownloadSettings)


@dataclass
class Place:
    root: Path

    @property
    def output(self) -> Path:
        return self.root / "raw" / "toy"

    @property
    def parts(self) -> list[Path]:
        return sorted((self.root / "partial").glob("toy/*.part"))

    def get(self, chosen: download.DownloadSettings, around: Environment | None = None) -> download.DownloadResult:
        return download.run("toy", chosen, self.root / "partial" / "toy", self.output, around or Environment())

    def arrives(self, chosen: download.DownloadSettings, around: Environment | None = None) -> None:
        self.get(chosen, around)
        assert {path.read_bytes() for path in self.output.iterdir()} == {BODY}
        assert not list((self.root / "partial").iterdir()), "nothing is left when all is there"

    def fails(self, chosen: download.DownloadSettings, told: str, around: Environment | None = None) -> str:
        with pytest.raises(DownloadError, match=told) as caught:
            self.get(chosen, around)
        assert not self.output.exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# ---------------------------------------------------------------- breaks


def test_a_cut_transfer_asks_for_the_rest_and_only_the_rest_is_sent(serve: Serve, place: Place) -> None:
    mirror = serve(serve_file(stop=CUT), serve_file())
    place.arrives(settings(mirror))
    assert mirror.ranges() == [None, f"bytes={CUT}-"]
    assert mirror.asked[1].if_range == '"one"'
    assert [request.sent for request in mirror.asked] == [CUT, len(BODY) - CUT]


def test_the_next_run_goes_on_where_the_last_one_broke_off(serve: Serve, place: Place) -> None:
    mirror = serve(serve_file(stop=CUT), drop)
    place.fails(settings(mirror), "next: offline")
    assert [path.stat().st_size for path in place.parts] == [CUT]
    mirror.acts[:] = [serve_file()]
    mirror.asked.clear()
    place.arrives(settings(mirror))
    assert mirror.ranges() == [f"bytes={CUT}-"]
    assert mirror.asked[0].sent == len(BODY) - CUT


def test_a_transfer_that_is_whole_but_was_never_named_needs_no_server(serve: Serve, place: Place) -> None:
    mirror = serve(serve_file())
    chosen = settings(mirror)
    key = Candidate(f"{mirror.url}a.bin", chosen.files[0]).key
    (place.root / "partial" / "toy").mkdir(parents=True)
    (place.root / "partial" / "toy" / f"a.bin.{key}.part").write_bytes(BODY)
    place.arrives(chosen)
    assert mirror.asked == []


def test_many_breaks_are_survived_while_each_brings_enough(serve: Serve, place: Place, monkeypatch) -> None:
    monkeypatch.setattr(timeouts, "WORTH_A_WAIT", 100_000)
    monkeypatch.setattr(fetch, "WORTH_A_WAIT", 100_000)
    stops = range(300_000, 3_000_000, 300_000)
    mirror = serve(*(serve_file(stop=stop) for stop in stops), serve_file())
    place.arrives(settings(mirror))
    assert mirror.ranges() == [None, *(f"bytes={stop}-" for stop in stops)]
    assert sum(request.sent for request in mirror.asked) == len(BODY)


def test_breaks_that_bring_nothing_end_at_the_next_mirror(serve: Serve, place: Place, capsys) -> None:
    useless, good = serve(serve_file(stop=10)), serve(serve_file())
    place.arrives(settings(useless, good))
    assert useless.ranges() == [None, *["bytes=10-"] * 3]
    assert "broke off: IncompleteRead" in capsys.readouterr().err
    assert good.ranges() == [None], "bytes of one mirror are not continued with another's"


def test_a_cut_chunked_transfer_is_resumed(serve: Serve, place: Place) -> None:
    mirror = serve(chunked(BODY[:CUT], ends=False), serve_file())
    place.arrives(settings(mirror))
    assert mirror.ranges() == [None, f"bytes={CUT}-"]


def test_a_chunked_transfer_arrives(serve: Serve, place: Place) -> None:
    place.arrives(settings(serve(chunked(BODY))))


# ---------------------------------------------------------------- servers that cannot continue, or must not


@pytest.mark.parametrize(
    "second",
    {
        "it ignores ranges": (serve_file(ranges=False), 2),
        "the file has changed since": (serve_file(etag='"two"'), 2),
        "it ignores If-Range": (partial_content(f"bytes {CUT}-{len(BODY) - 1}/{len(BODY)}", '"two"'), 3),
        "it sends another range": (partial_content(f"bytes 5-{len(BODY) - 1}/{len(BODY)}"), 3),
        "its range is nonsense": (partial_content("all of it"), 3),
        "it says there is no such range": (status(416), 3),
    }.items(),
    ids=lambda second: second[0],
)
def test_what_cannot_be_continued_starts_anew(serve: Serve, place: Place, second) -> None:
    act, requests = second[1]
    before = OTHER if requests == 2 else BODY
    mirror = serve(serve_file(before, stop=CUT), act, serve_file())
    place.arrives(settings(mirror))
    assert mirror.ranges() == [None, f"bytes={CUT}-", None][:requests]
    assert mirror.asked[-1].sent == len(BODY), "from the very start"


def test_a_file_that_changed_unnoticed_is_fetched_once_more_from_the_start(serve: Serve, place: Place) -> None:
    mirror = serve(serve_file(OTHER, None, stop=CUT), serve_file(etag=None))
    place.arrives(settings(mirror))
    assert mirror.ranges() == [None, f"bytes={CUT}-", None]
    assert mirror.asked[1].if_range is None


def test_a_weak_etag_promises_nothing_about_bytes(serve: Serve, place: Place) -> None:
    mirror = serve(serve_file(etag='W/"one"', stop=CUT), serve_file(etag=None))
    place.arrives(settings(mirror))
    assert mirror.asked[1].if_range is None


# ---------------------------------------------------------------- answers


def test_a_server_that_fails_is_asked_again_and_then_left(serve: Serve, place: Place, capsys) -> None:
    failing, good = serve(status(500)), serve(serve_file())
    place.arrives(settings(failing, good))
    assert len(failing.asked) == 4
    assert "HTTP 500 Internal Server Error; next mirror" in capsys.readouterr().err


def test_a_server_that_recovers_is_enough(serve: Serve, place: Place) -> None:
    mirror = serve(status(503), status(502), drop, serve_file())
    place.arrives(settings(mirror))
    assert len(mirror.asked) == 4


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_not_asked_again(serve: Serve, place: Place, code: int) -> None:
    mirror = serve(status(code))
    told = place.fails(settings(mirror), f"HTTP {code}")
    assert len(mirror.asked) == 1
    assert "correct download's mirrors" in told


def test_a_redirect_is_followed_with_its_range(serve: Serve, place: Place) -> None:
    target = serve(serve_file(stop=CUT), serve_file())
    mirror = serve(status(302, Location=f"{target.url}elsewhere"))
    place.arrives(settings(mirror))
    assert [request.path for request in target.asked] == ["/elsewhere"] * 2
    assert target.ranges() == [None, f"bytes={CUT}-"]


@pytest.mark.parametrize(("to", "told"), [("/a.bin", "Exceeded 5 redirects"), ("file:///etc/passwd", "No connection")])
def test_a_redirect_to_nowhere_is_left(serve: Serve, place: Place, to: str, told: str) -> None:
    place.fails(settings(serve(status(302, Location=to))), told)


def test_the_wrong_file_names_both_sums_and_sizes_and_leaves_nothing(serve: Serve, place: Place, capsys) -> None:
    short, long = serve(serve_file(BODY[:-1])), serve(serve_file(OTHER))
    told = place.fails(settings(short, long), "at none of its 2 sources")
    assert f"expected sha256 {hashlib.sha256(BODY).hexdigest()} found" in told
    assert "(2,999,999 bytes instead of 3,000,000); file removed" in told
    assert hashlib.sha256(OTHER).hexdigest() in told
    assert place.parts == []


@pytest.mark.parametrize("announced", [True, False])
def test_too_large_a_body_is_cut_off(serve: Serve, place: Place, announced: bool) -> None:
    larger = BODY + bytes(5_000_000)
    mirror = serve(serve_file(larger) if announced else chunked(larger))
    place.fails(settings(mirror), "announces 8,000,000 bytes" if announced else "sends more than 3,000,000 bytes")
    assert place.parts == []


# ---------------------------------------------------------------- time


def test_a_trickle_is_left_after_the_allowed_wait(serve: Serve, place: Place, monkeypatch) -> None:
    monkeypatch.setattr(timeouts, "READ_TIMEOUT_S", 0.3)
    since = time.monotonic()
    told = place.fails(settings(serve(trickle)), "sends less than 1,024 bytes/s")
    assert time.monotonic() - since < 3
    assert told.count("sends less") == 1


def test_a_stall_after_much_has_come_is_resumed(serve: Serve, place: Place, monkeypatch) -> None:
    monkeypatch.setattr(timeouts, "READ_TIMEOUT_S", 0.3)
    mirror = serve(hang, serve_file())
    place.arrives(settings(mirror))
    assert mirror.ranges() == [None, f"bytes={CUT}-"]


def test_a_stall_before_that_costs_the_host_its_turn(serve: Serve, place: Place, monkeypatch, capsys) -> None:
    monkeypatch.setattr(timeouts, "READ_TIMEOUT_S", 0.3)
    monkeypatch.setattr(timeouts, "WORTH_A_WAIT", CUT + 1)
    mirror = serve(hang)
    place.arrives(settings(mirror, serve(serve_file())))
    assert mirror.ranges() == [None]
    assert "stopped sending; next mirror" in capsys.readouterr().err


def test_threads_that_wait_together_spend_the_time_once(serve: Serve, place: Place, monkeypatch) -> None:
    """Four files wait for a silent mirror at once; the budget for all still reaches to the next one."""
    monkeypatch.setattr(timeouts, "READ_TIMEOUT_S", 0.4)
    monkeypatch.setattr(
        timeouts.WaitBudget.__init__, "__defaults__", (0.8, *timeouts.WaitBudget.__init__.__defaults__[1:])
    )
    silent = serve(lambda self: self.mirror.closing.wait(20))
    place.arrives(settings(silent, serve(serve_file()), names=("a", "b", "c", "d")))


# ---------------------------------------------------------------- side by side


def test_files_come_four_at_a_time(serve: Serve, place: Place) -> None:
    together, lock, now, most = threading.Barrier(4), threading.Lock(), [0], [0]

    def act(self: Handler) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait(10)
        with lock:
            now[0] -= 1
        serve_file()(self)

    place.arrives(settings(serve(act), names=tuple("abcdefgh")))
    assert most == [4]


def test_an_interrupt_stops_every_transfer_and_keeps_what_has_come(serve: Serve, place: Place, monkeypatch) -> None:
    started = threading.Event()

    def act(self: Handler) -> None:
        self.say(200, Content_Length=str(len(BODY)))
        for index in range(0, len(BODY), 1000):
            self.send(BODY[index : index + 1000])
            started.set()
            self.mirror.closing.wait(0.005)

    def interrupted(_: object) -> None:
        assert started.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(download.futures, "wait", interrupted)
    mirror = serve(act)
    since = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        place.get(settings(mirror, names=tuple("abcdef")))
    assert time.monotonic() - since < 5
    assert len(mirror.asked) <= 4, "what waited for its turn never began"
    assert not place.output.exists()
    assert place.parts


def test_a_full_disk_is_told_in_one_line(serve: Serve, place: Place, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch.Part, "extend", full)
    place.fails(settings(serve(serve_file())), "cannot be written to .*No space left on device; next: free space")


# ---------------------------------------------------------------- sources, mirrors, proxies


def edition(url: str, body: bytes = OTHER) -> dict[str, object]:
    return {"sources": [pin(body, file="a.bin", url=url)]}


@pytest.mark.parametrize("where", ["in MIRROR", "from where the command was typed", "absolute", "file URL", "HTTP"])
def test_a_source_with_a_pin_of_its_own_comes_first(serve: Serve, place: Place, tmp_path: Path, where: str) -> None:
    file = tmp_path / "company" / "editions" / "other.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(OTHER)
    official, own = serve(serve_file()), serve(serve_file(OTHER))
    urls = {"absolute": str(file), "file URL": file.as_uri(), "HTTP": f"{own.url}x/other.bin"}
    around = {"in MIRROR": Environment(str(tmp_path / "company"))}.get(where, Environment(None, tmp_path / "company"))
    result = place.get(settings(official, **edition(urls.get(where, "editions/other.bin"))), around)
    assert (place.output / "a.bin").read_bytes() == OTHER
    assert result.sources["a.bin"].endswith("other.bin")
    assert official.asked == []


def test_a_source_that_is_not_what_it_says_gives_way_to_the_mirrors(serve: Serve, place: Place, tmp_path: Path) -> None:
    (tmp_path / "other.bin").write_bytes(OTHER[:-1])
    place.arrives(settings(serve(serve_file()), **edition("other.bin")), Environment(None, tmp_path))


def test_an_edition_in_mirror_without_a_pin_is_told_what_it_needs(place: Place, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.bin").write_bytes(OTHER)
    place.fails(
        settings(), "another edition of the file needs an entry in download's sources", Environment(str(tmp_path))
    )


def test_when_the_source_goes_its_file_goes_too(serve: Serve, place: Place, tmp_path: Path) -> None:
    (tmp_path / "other.bin").write_bytes(OTHER)
    mirror = serve(serve_file())
    place.get(settings(mirror, **edition("other.bin")), Environment(None, tmp_path))
    place.arrives(settings(mirror))


def test_a_source_for_no_file_is_told() -> None:
    with pytest.raises(
        ParamsError, match=r"download\.toy\.sources is wrong: expected .*file: 'a\.bin'\? \(one of a\.bin"
    ):
        settings(sources=[pin(BODY, file="b.bin", url="x")])


def test_where_a_command_was_typed_is_known_in_its_workspace(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dvc.environment(tmp_path / "runs")["PIPELINE_TYPED_IN"] == str(tmp_path)


def test_a_proxy_is_used_where_the_environment_names_one(serve: Serve, place: Place, monkeypatch) -> None:
    proxy = serve(serve_file())
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    place.arrives(settings("http://mirror.invalid/data/"))
    assert [request.path for request in proxy.asked] == ["http://mirror.invalid/data/a.bin"]


def test_passwords_in_addresses_are_not_told(serve: Serve, place: Place, capsys) -> None:
    address = serve(status(403)).url.replace("//", "//user:secret@")
    told = place.fails(settings(address, address), "HTTP 403")
    assert "secret" not in told + capsys.readouterr().err


def test_a_repacked_gzip_is_resumed_and_met_by_its_content(serve: Serve, place: Place) -> None:
    served, repacked = gzip.compress(BODY, 9, mtime=0), gzip.compress(BODY, 0, mtime=1)
    files = [pin(served, name="a.gz", unpacked_bytes=len(BODY), unpacked_sha256=hashlib.sha256(BODY).hexdigest())]
    mirror = serve(serve_file(repacked, stop=CUT), serve_file(repacked))
    place.get(settings(mirror, files=files))
    assert (place.output / "a.gz").read_bytes() == repacked
    assert mirror.ranges() == [None, f"bytes={CUT}-"]
