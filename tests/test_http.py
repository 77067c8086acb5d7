"""Downloads that break, stall, change and lie, from real HTTP servers on this machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline.core.errors import DownloadError, ParamsError
from pipeline.core.params import parse
from pipeline.datasets.download.http import Limits
from pipeline.datasets.download.sources import Environment
from pipeline.project import dvc
from pipeline.stages import download
from tests.http_server import (
    BODY,
    CUT,
    OTHER,
    Handler,
    Serve,
    Server,
    chunked,
    dead_url,
    drop,
    hang,
    partial_content,
    serve_file,
    silent,
    status,
    trickle,
)


def pin(body: bytes, **more: object) -> dict[str, object]:
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} | more


def settings(*mirrors: Server | str, names: tuple[str, ...] = ("a.bin",), **more: object) -> download.DownloadSettings:
    urls = [mirror.url if isinstance(mirror, Server) else mirror for mirror in mirrors]
    section = {"format": "idx", "mirrors": urls, "classes": ["0", "1"], "files": [pin(BODY, name=n) for n in names]}
    return parse("download.toy", section | more, download.DownloadSettings)


@dataclass
class Place:
    """Where a run downloads to, and how long it waits."""

    root: Path
    limits: Limits

    def waiting(self, **limits: float) -> Place:
        return replace(self, limits=replace(self.limits, **limits))

    @property
    def output(self) -> Path:
        return self.root / "raw" / "toy"

    @property
    def parts(self) -> list[Path]:
        return sorted((self.root / "partial").glob("toy/*.part"))

    def get(self, chosen: download.DownloadSettings, around: Environment | None = None) -> download.DownloadResult:
        partial = self.root / "partial" / "toy"
        return download.run("toy", chosen, partial, self.output, around or Environment(), self.limits)

    def arrives(self, chosen: download.DownloadSettings, around: Environment | None = None) -> None:
        self.get(chosen, around)
        assert {path.read_bytes() for path in self.output.iterdir()} == {BODY}
        assert not list((self.root / "partial").iterdir()), "nothing is left when all is there"

    def fails(self, chosen: download.DownloadSettings, message: str, around: Environment | None = None) -> str:
        with pytest.raises(DownloadError, match=message) as caught:
            self.get(chosen, around)
        assert not self.output.exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, Limits(backoff_s=0.001))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A mirror that answers at once, however busy the machine is."""
    files = tmp_path / "mirror"
    files.mkdir()
    for name in ("a.bin", *"abcdef"):
        (files / name).write_bytes(BODY)
    return f"file:{files}/"


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


def test_a_partial_file_that_is_whole_needs_no_server(serve: Serve, place: Place) -> None:
    mirror = serve(chunked(BODY, ends=False), drop)
    place.fails(settings(mirror), "next: offline")
    assert [path.stat().st_size for path in place.parts] == [len(BODY)]
    mirror.asked.clear()
    place.arrives(settings(mirror))
    assert mirror.asked == []


def test_many_breaks_are_survived_while_each_brings_enough(serve: Serve, place: Place) -> None:
    stops = range(300_000, 3_000_000, 300_000)
    mirror = serve(*(serve_file(stop=stop) for stop in stops), serve_file())
    place.waiting(progress=100_000).arrives(settings(mirror))
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
    message = place.fails(settings(mirror), f"HTTP {code}")
    assert len(mirror.asked) == 1
    assert "correct download's mirrors" in message


def test_a_redirect_is_followed_with_its_range(serve: Serve, place: Place) -> None:
    target = serve(serve_file(stop=CUT), serve_file())
    mirror = serve(status(302, Location=f"{target.url}elsewhere"))
    place.arrives(settings(mirror))
    assert target.paths() == ["/elsewhere"] * 2
    assert target.ranges() == [None, f"bytes={CUT}-"]


@pytest.mark.parametrize(
    ("to", "message"), [("/a.bin", "Exceeded 5 redirects"), ("file:///etc/passwd", "No connection")]
)
def test_a_redirect_to_nowhere_is_left(serve: Serve, place: Place, to: str, message: str) -> None:
    place.fails(settings(serve(status(302, Location=to))), message)


def test_the_wrong_file_names_both_sums_and_sizes_and_leaves_nothing(serve: Serve, place: Place, capsys) -> None:
    short, long = serve(serve_file(BODY[:-1])), serve(serve_file(OTHER))
    message = place.fails(settings(short, long), "at none of its 2 sources")
    assert f"expected sha256 {hashlib.sha256(BODY).hexdigest()} found" in message
    assert "(2,999,999 bytes instead of 3,000,000); file removed" in message
    assert hashlib.sha256(OTHER).hexdigest() in message
    assert f"file removed; next mirror: {long.url}a.bin" in capsys.readouterr().err
    assert place.parts == []


@pytest.mark.parametrize("announced", [True, False])
def test_too_large_a_body_is_cut_off(serve: Serve, place: Place, announced: bool) -> None:
    larger = BODY + bytes(5_000_000)
    mirror = serve(serve_file(larger) if announced else chunked(larger))
    place.fails(settings(mirror), "announces 8,000,000 bytes" if announced else "sends more than 3,000,000 bytes")
    assert place.parts == []


# ---------------------------------------------------------------- time


def test_a_trickle_is_left_after_the_allowed_wait(serve: Serve, place: Place) -> None:
    since = time.monotonic()
    message = place.waiting(read_s=1).fails(settings(serve(trickle)), "sends less than 1,024 bytes/s")
    assert time.monotonic() - since < 15, "the trickle itself lasts 20 s"
    assert message.count("sends less") == 1


def test_a_stall_after_much_has_arrived_is_resumed(serve: Serve, place: Place) -> None:
    mirror = serve(hang, serve_file())
    place.waiting(read_s=2).arrives(settings(mirror))
    assert mirror.ranges() == [None, f"bytes={CUT}-"]


def test_a_stall_before_that_costs_the_host_its_turn(serve: Serve, place: Place, folder: str, capsys) -> None:
    mirror = serve(hang)
    place.waiting(read_s=1, progress=CUT + 1).arrives(settings(mirror, folder))
    assert mirror.ranges() == [None]
    assert "stopped sending; next mirror" in capsys.readouterr().err


def test_a_host_that_failed_four_files_at_once_is_not_tried_again_in_a_run(
    serve: Serve, place: Place, folder: str, capsys
) -> None:
    together = threading.Barrier(4)

    def act(self: Handler) -> None:
        together.wait(10)
        status(302, Location=f"{dead_url()}a.bin")(self)

    mirror = serve(act)
    place.arrives(settings(mirror, folder, names=tuple("abcdef")))
    assert len(mirror.asked) == 4, "by the files that come first; the others know"
    assert capsys.readouterr().err.count("not tried again: Connection refused") == 2


def test_a_silent_host_is_not_tried_again_in_a_run(serve: Serve, place: Place, folder: str, capsys) -> None:
    """How many of the four files that come first begin before the host is known to be silent is up to the machine."""
    mirror = serve(silent)
    place.waiting(read_s=0.2).arrives(settings(mirror, folder, names=tuple("abcdef")))
    lines = capsys.readouterr().err.splitlines()
    tried = [line for line in lines if f"{mirror.url}{line[5]}: no answer within 0.2 s; next mirror" in line]
    known = [line for line in lines if "not tried again: no answer within 0.2 s" in line]
    assert len(tried) + len(known) == len(lines) == 6
    assert {"toy: e", "toy: f"} <= {line[:6] for line in known}
    assert len(mirror.asked) <= 4


def test_threads_that_wait_together_spend_the_time_once(serve: Serve, place: Place, folder: str, capsys) -> None:
    """Four files wait for a silent mirror at once; the time that is left lets all of them try the next one."""
    waiting = place.waiting(read_s=0.4, total_s=1.2)
    waiting.arrives(settings(serve(silent), serve(serve_file()), folder, names=("a", "b", "c", "d")))
    errors = capsys.readouterr().err
    assert "no answer within 0.4 s" in errors
    assert "the time for hosts that do not answer is spent" not in errors


def test_waiting_is_limited_over_all_mirrors(serve: Serve, place: Place) -> None:
    mirrors = [serve(silent) for _ in range(4)]
    since = time.monotonic()
    message = place.waiting(read_s=0.2, total_s=0.3).fails(settings(*mirrors), "no answer within 0.2 s")
    assert time.monotonic() - since < 15, "the servers would be silent for 20 s each"
    assert "no answer within 0.1 s" in message
    assert message.count("not tried: the time for hosts that do not answer is spent") == 2
    assert [len(mirror.asked) for mirror in mirrors[2:]] == [0, 0]


def test_the_real_limits_keep_a_failure_within_30_seconds() -> None:
    assert Limits().total_s + Limits().read_s < 29


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


def press_ctrl_c() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_an_interrupt_stops_every_transfer_and_keeps_what_has_arrived(serve: Serve, place: Place, capsys) -> None:
    def once_all_have_begun() -> None:
        while sum(path.stat().st_size > 0 for path in place.parts) < 4:
            mirror.closing.wait(0.005)
        press_ctrl_c()

    together = threading.Barrier(4, action=once_all_have_begun)

    def act(self: Handler) -> None:
        self.start(200, Content_Length=str(len(BODY)))
        self.send(BODY[:CUT])
        together.wait(10)
        for index in range(CUT, len(BODY), 1000):
            self.send(BODY[index : index + 1000])
            self.mirror.closing.wait(0.005)

    mirror = serve(act)
    since = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        place.get(settings(mirror, mirror, names=tuple("abcdef")))
    assert time.monotonic() - since < 10
    assert len(mirror.asked) == 4, "what waited for its turn never began"
    assert not place.output.exists()
    assert [path.stat().st_size > 0 for path in place.parts] == [True] * 4
    assert "next mirror" not in capsys.readouterr().err


def test_an_interrupt_does_not_wait_for_a_silent_host(serve: Serve, place: Place) -> None:
    def act(self: Handler) -> None:
        press_ctrl_c()
        silent(self)

    since = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        place.get(settings(serve(act)))
    assert time.monotonic() - since < 10


def test_a_file_that_cannot_be_written_is_reported_in_one_line(serve: Serve, place: Place) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    mirror = serve(serve_file())
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        place.fails(settings(mirror), "cannot be written to .*File too large; next: free space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    place.arrives(settings(mirror))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_progress_is_shown_on_a_terminal_alone(serve: Serve, place: Place, monkeypatch, stream: io.StringIO) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", stream)

    def act(self: Handler) -> None:
        self.start(200, Content_Length=str(len(BODY)))
        self.send(BODY[:CUT])
        deadline = time.monotonic() + 5
        while stream.isatty() and "a.bin" not in stream.getvalue() and time.monotonic() < deadline:
            self.mirror.closing.wait(0.005)
        self.send(BODY[CUT:])

    place.arrives(settings(serve(act)))
    assert bool(stream.getvalue()) == stream.isatty()


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


def test_an_edition_in_mirror_without_a_pin_names_what_it_needs(place: Place, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.bin").write_bytes(OTHER)
    place.fails(
        settings(), "another edition of the file needs an entry in download's sources", Environment(str(tmp_path))
    )


def test_a_file_without_any_source_is_reported(place: Place) -> None:
    place.fails(settings(), "at none of its 0 sources: none is set; next: correct download's mirrors")


def test_when_the_source_goes_its_file_goes_too(serve: Serve, place: Place, tmp_path: Path) -> None:
    (tmp_path / "other.bin").write_bytes(OTHER)
    mirror = serve(serve_file())
    place.get(settings(mirror, **edition("other.bin")), Environment(None, tmp_path))
    place.arrives(settings(mirror))


def test_a_source_for_no_file_is_reported() -> None:
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
    assert proxy.paths() == ["http://mirror.invalid/data/a.bin"]


def test_passwords_in_addresses_are_not_printed(serve: Serve, place: Place, capsys) -> None:
    address = serve(status(403)).url.replace("//", "//user:secret@")
    bad = ["http://user:secret@/", "http://user:secret@host:port/", "http://user:se?cret@[host/"]
    message = place.fails(settings(address, address, *bad), "HTTP 403")
    assert "cret" not in message + capsys.readouterr().err


@pytest.mark.parametrize("host", ["u:p@", "[", "a..b", "x" * 70 + ".org", "host:port"])
def test_an_address_that_means_nothing_is_refused_in_one_line(place: Place, host: str) -> None:
    place.fails(settings(f"http://{host}/"), "at none of its 1 sources")


def test_a_repacked_gzip_is_resumed_and_met_by_its_content(serve: Serve, place: Place) -> None:
    served, repacked = gzip.compress(BODY, 9, mtime=0), gzip.compress(BODY, 0, mtime=1)
    files = [pin(served, name="a.gz", unpacked_bytes=len(BODY), unpacked_sha256=hashlib.sha256(BODY).hexdigest())]
    mirror = serve(serve_file(repacked, stop=CUT), serve_file(repacked))
    place.get(settings(mirror, files=files))
    assert (place.output / "a.gz").read_bytes() == repacked
    assert mirror.ranges() == [None, f"bytes={CUT}-"]
