"""No password, query or fragment of an address is shown by a download, whatever form the address has."""

from __future__ import annotations

import io
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import DownloadError
from pipeline.datasets.download.http import Limits
from pipeline.datasets.download.sources import Environment
from pipeline.stages import download
from tests.http_server import BODY, Handler, Serve, dead_url, status

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

ROOT = Path(__file__).resolve().parents[1]
PIN = {"name": "a.bin", "bytes": len(BODY), "sha256": "0" * 64}
SECTION = {"format": "idx", "classes": ["0", "1"], "files": [PIN]}

MIRRORS = [  # S3C and R3T are the pieces of the secret; DEAD refuses connections, LIVE refuses the file
    "http://me:S3C@DEAD/",
    "http://me:S3C@LIVE/",
    "http://S3C@LIVE/",
    "http://me:S3C/R3T@DEAD/",
    "http://me:S3C#R3T@DEAD/",
    "http://me:S3C?R3T@DEAD/",
    "http://me:S3C@R3T@DEAD/",
    "http://me:S3C:R3T@LIVE/",
    "http://me:S3C R3T@DEAD/",
    "http://me:S3C'R3T\"R3T@DEAD/",
    "http://me:S3C\nR3T@DEAD/",
    "http://me:S3C\\R3T@DEAD/",
    "http://me:S3C%2FR3T@LIVE/",
    "http://me%3AS3C%40DEAD/",
    "http://me:[S3C]R3T@DEAD/",
    "http://localhost:1/S3C@DEAD/",
    "http://me:S3C@localhost:port/",
    "http://localhost:S3C/",
    "http://me:S3C@[::1/",
    "http://me:S3C@[DEAD]/",
    "file:/x%00?sig=S3C",
    "http://me:S3C@DEAD/?next=http://me:R3T@DEAD/",
    "http://me:S3C@/",
    "http://:S3C@/",
    "http:///me:S3C@DEAD/",
    "http:/me:S3C@DEAD/",
    "http:me:S3C@DEAD/",
    "HTTP://me:S3C@DEAD/",
    "ftp://me:S3C@DEAD/?R3T",
    "file://me:S3C@DEAD/?token=R3T",
    "file://me:S3C@[DEAD/",
    "package:me:S3C@DEAD/",
    "me:S3C@DEAD/path",
    "me:S3C/R3T@DEAD/path?token=S3C",
    "S3C@DEAD/path",
    "//me:S3C@DEAD/path",
    "http://DEAD/a?token=S3C",
    "http://LIVE/a?S3C",
    "http://LIVE/a?token=S3C@R3T",
    "http://LIVE/#S3C",
    "http://LIVE/a;b?x=1&sig=S3C#R3T",
    "http://me:" + "S3C" * 100 + "@" + "x" * 70 + ".org/",
]
REDIRECTS = [
    "http://me:S3C@DEAD/x?token=R3T",
    "http://me:S3C@LIVE/x?token=R3T",
    "http://DEAD/x?token=S3C",
    "//me:S3C@DEAD/",
    "ftp://me:S3C@DEAD/",
    "http://me:S3C@[::1/",
    "http://me:S3C@localhost:port/",
    "http://me:S3C/R3T@DEAD/",
    "http://me:S3C'R3T@localhost:port/",
    "http:///x?token=S3C",
    "?token=S3C",
]
PROXIES = [
    "http://me:S3C@DEAD",
    "http://me:S3C@LIVE",
    "me:S3C@DEAD",
    "http://me:S3C@localhost:port",
    "http://me:S3C/R3T@DEAD",
    "http://me:S3C?R3T@DEAD",
    "http://me:S3C@[::1",
    "http://me:S3C@",
    "socks5://me:S3C@DEAD",
    "me:S3C R3T@DEAD",
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def attempt(serve: Serve, tmp_path: Path, monkeypatch, caplog, capsys):
    """Run a download that fails; return all that anybody could see of it."""
    live, dead = serve(status(403)).url[7:-1], dead_url()[7:-1]
    bars = Terminal()
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def placed(address: str) -> str:
        return address.replace("LIVE", live).replace("DEAD", dead)

    def run(mirror: str, **more: object) -> str:
        monkeypatch.setattr(sys, "stdout", bars)
        settings = download.DownloadSettings.model_validate(SECTION | more)
        around, limits = Environment(placed(mirror)), Limits(read_s=2, backoff_s=0.001)
        with caplog.at_level(logging.DEBUG), pytest.raises(DownloadError) as caught:
            download.run("toy", settings, tmp_path / "partial", tmp_path / "raw", around, limits)
        assert "\n" not in str(caught.value)
        return "\n".join([str(caught.value), repr(caught.value), capsys.readouterr().err, bars.getvalue(), caplog.text])

    run.placed = placed
    return run


def assert_hidden(shown: str) -> None:
    assert not [piece for piece in ("s3c", "r3t") if piece in shown.lower()], shown


@pytest.mark.parametrize("mirror", MIRRORS)
def test_nothing_of_a_mirror_is_shown(attempt, mirror: str) -> None:
    shown = attempt(mirror)
    assert "toy: a.bin is at none of its 1 sources" in shown
    assert_hidden(shown)


@pytest.mark.parametrize("mirror", ["http://me:S3C@LIVE/", "http://me:S3C/R3T@DEAD/", "http://LIVE/a?token=S3C"])
def test_nothing_is_shown_on_the_way_to_the_next_mirror(attempt, mirror: str) -> None:
    shown = attempt(mirror, mirrors=(attempt.placed(mirror), "http://me:S3C@[::1/"))
    assert "next mirror" in shown
    assert_hidden(shown)


@pytest.mark.parametrize("location", REDIRECTS)
def test_nothing_of_a_redirect_is_shown(attempt, serve: Serve, location: str) -> None:
    mirror = serve(status(302, Location=attempt.placed(location)))
    assert_hidden(attempt(mirror.url))


@pytest.mark.parametrize("proxy", PROXIES)
def test_nothing_of_a_proxy_is_shown(attempt, monkeypatch, proxy: str) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, attempt.placed(proxy))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert_hidden(attempt("http://mirror.invalid/"))


def test_a_server_that_repeats_a_secret_is_not_quoted(attempt, serve: Serve) -> None:
    def act(self: Handler) -> None:
        self.send_response(403, "no user me:S3C may read /toy/a.bin?token=R3T, R3T")
        self.end_headers()

    address = serve(act).url.replace("//", "//me:S3C@") + "x?token=R3T&y="
    shown = attempt(address)
    assert "HTTP 403 no user" in shown
    assert_hidden(shown)


def test_a_warning_of_a_library_shows_no_secret(attempt, serve: Serve) -> None:
    def malformed(self: Handler) -> None:
        self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nno header\r\nA: b\r\n\r\n")

    shown = attempt(serve(malformed).url + "x?token=S3C")
    assert "Failed to parse headers" in shown
    assert_hidden(shown)


def test_the_stage_itself_shows_no_secret(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    command = [
        sys.executable,
        "-m",
        "pipeline.stages.download",
        "--dataset",
        "mnist",
        "--partial",
        "p",
        "--output",
        "o",
    ]
    proxy = "http://me:S3C@localhost:port"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MIRROR": "http://me:S3C/R3T@[::1/", "HTTPS_PROXY": proxy}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: mnist: " in done.stderr
    assert_hidden(done.stdout + done.stderr)
