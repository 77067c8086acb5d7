"""The stage `download`: pins, candidates in order, and what it publishes."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core.errors import DownloadError
from pipeline.datasets.download import sources
from pipeline.datasets.download.http import Limits
from pipeline.datasets.download.sources import Environment
from pipeline.stages import download
from tests.http_server import Serve, dead_url, serve_files

ROOT = Path(__file__).resolve().parents[1]
UNPACKED = {"a.gz": b"first file " * 1000, "b.gz": b"second file " * 2000}
SERVED = {name: gzip.compress(content, mtime=0) for name, content in UNPACKED.items()}
REPACKED = {name: gzip.compress(content, compresslevel=0, mtime=1) for name, content in UNPACKED.items()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pins(unpacked: bool = True) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for name, content in SERVED.items():
        pin: dict[str, object] = {"name": name, "bytes": len(content), "sha256": sha256(content)}
        if unpacked:
            pin |= {"unpacked_bytes": len(UNPACKED[name]), "unpacked_sha256": sha256(UNPACKED[name])}
        found.append(pin)
    return found


def settings(*mirrors: str, unpacked: bool = True) -> download.DownloadSettings:
    section = {"format": "idx", "mirrors": mirrors, "files": pins(unpacked), "classes": ["0", "1"]}
    return download.DownloadSettings.model_validate(section)


@dataclass
class Place:
    partial: Path
    output: Path

    def get(self, chosen: download.DownloadSettings, mirror: str | None = None) -> download.DownloadResult:
        return download.run("toy", chosen, self.partial, self.output, Environment(mirror), Limits(backoff_s=0.001))

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.output.iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "partial" / "toy", tmp_path / "raw" / "toy")


def test_files_arrive_as_served(serve: Serve, place: Place) -> None:
    server = serve(serve_files(SERVED))
    place.get(settings(server.url))
    assert place.contents() == SERVED
    assert not place.partial.exists()
    assert [path.name for path in place.output.parent.iterdir()] == ["toy"]


def test_a_repacked_gzip_meets_the_unpacked_pin(serve: Serve, place: Place) -> None:
    assert len(REPACKED["b.gz"]) > len(SERVED["b.gz"])
    place.get(settings(serve(serve_files(REPACKED)).url))
    assert place.contents() == REPACKED


def test_a_repacked_gzip_is_refused_without_an_unpacked_pin(serve: Serve, place: Place) -> None:
    with pytest.raises(DownloadError, match="more than"):
        place.get(settings(serve(serve_files(REPACKED)).url, unpacked=False))


def test_a_bomb_is_not_unpacked_beyond_its_pin(serve: Serve, place: Place) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    with pytest.raises(DownloadError, match="unpacked more than 11,000 bytes"):
        place.get(settings(serve(serve_files({"a.gz": bomb})).url))


def test_dead_mirrors_are_named_with_what_to_do(place: Place) -> None:
    first, second = dead_url(), dead_url()
    since = time.monotonic()
    with pytest.raises(DownloadError) as caught:
        place.get(settings(first, second))
    message = str(caught.value)
    assert time.monotonic() - since < 5
    for mirror in (first, second):  # two files are fetched at once: the other one may have found the mirror dead before
        assert re.search(rf"{re.escape(mirror)}a\.gz \((not tried again: )?Connection refused\)", message)
    assert "offline? `make demo`" in message
    assert "MIRROR=<folder or URL" in message
    assert "\n" not in message
    assert not place.output.exists()


def test_missing_files_are_not_blamed_on_the_network(serve: Serve, place: Place) -> None:
    with pytest.raises(DownloadError) as caught:
        place.get(settings(serve(serve_files({})).url))
    assert "offline" not in str(caught.value)
    assert "correct download's mirrors" in str(caught.value)


def test_nothing_is_published_until_all_files_are_there_and_verified_ones_are_kept(serve: Serve, place: Place) -> None:
    files = {"a.gz": SERVED["a.gz"]}
    server = serve(serve_files(files))
    with pytest.raises(DownloadError, match=r"b\.gz"):
        place.get(settings(server.url))
    assert not place.output.exists()
    assert [path.name for path in place.partial.iterdir()] == ["a.gz"]
    files["b.gz"] = SERVED["b.gz"]
    server.asked.clear()
    result = place.get(settings(server.url))
    assert server.paths() == ["/b.gz"]
    assert result.sources["a.gz"] == "kept"
    assert place.contents() == SERVED


def test_a_damaged_partial_is_fetched_again(serve: Serve, place: Place) -> None:
    place.partial.mkdir(parents=True)
    (place.partial / "a.gz").write_bytes(b"damaged")
    place.get(settings(serve(serve_files(SERVED)).url))
    assert place.contents() == SERVED


def test_a_complete_output_is_left_alone_and_a_damaged_one_repaired(serve: Serve, place: Place) -> None:
    server = serve(serve_files(SERVED))
    place.get(settings(server.url))
    server.asked.clear()
    place.get(settings(server.url))
    assert server.asked == []
    (place.output / "a.gz").unlink()
    (place.output / "a.gz").write_bytes(b"damaged")
    (place.output / "stray").write_bytes(b"not pinned")
    place.get(settings(server.url))
    assert server.paths() == ["/a.gz"]
    assert place.contents() == SERVED


@pytest.mark.parametrize("form", ["folder", "file URL", "http URL"])
def test_mirror_comes_first(serve: Serve, place: Place, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "mirror" / "toy"
    folder.mkdir(parents=True)
    for name, content in SERVED.items():
        (folder / name).write_bytes(content)
    by_http = serve(serve_files({f"toy/{name}": content for name, content in SERVED.items()}))
    mirror = {"folder": str(folder.parent), "file URL": folder.parent.as_uri(), "http URL": by_http.url}[form]
    other = serve(serve_files(SERVED))
    place.get(settings(other.url), mirror)
    assert place.contents() == SERVED
    assert other.asked == []


def test_a_mirror_without_the_file_gives_way_to_the_next(serve: Serve, place: Place, tmp_path: Path) -> None:
    place.get(settings(serve(serve_files(SERVED)).url), str(tmp_path / "nowhere"))
    assert place.contents() == SERVED


def test_a_relative_mirror_is_relative_to_where_one_stands(tmp_path: Path, place: Place, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "toy").mkdir(parents=True)
    for name, content in SERVED.items():
        (tmp_path / "here" / "toy" / name).write_bytes(content)
    place.get(settings(dead_url()), "here")
    assert place.contents() == SERVED


def test_package_data_is_found_without_importing_the_package(tmp_path: Path) -> None:
    found = (
        "import sys; from pipeline.datasets.download import sources; "
        "print(sources.locate('package:sklearn/datasets/data/x'), "
    )
    words = subprocess.run(
        [sys.executable, "-c", found + "'sklearn' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.split()
    assert words[0].endswith("sklearn/datasets/data/x")
    assert words[1] == "False"


@pytest.mark.parametrize("source", ["package:no_such_package_here/x", "ftp://host/x"])
def test_sources_that_cannot_be_read_are_refused(source: str) -> None:
    with pytest.raises(sources.Unavailable):
        sources.locate(source)


@pytest.mark.timeout(120)
def test_the_first_stages_load_nothing_that_trains(tmp_path: Path) -> None:
    """The real stages, as dvc.yaml calls them, on the digits that ship inside scikit-learn."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    program = """
import sys
from pathlib import Path
from pipeline.stages import download, prepare, validate
at = {"dataset": "digits", "raw": "raw", "report": "report.json", "docs": "docs", "validated": "report.json"}
calls = {
    download: {"dataset": "digits", "partial": "partial", "output": "raw"},
    validate: {"dataset": "digits", "raw": "raw", "report": "report.json", "details": "details", "docs": "docs"},
    prepare: {"dataset": "digits", "raw": "raw", "validated": "report.json",
              "near-duplicates": "details/near_duplicates.csv", "manifest": "none", "accepted": "accepted",
              "output": "prepared", "test": "test"},
}
loaded = set()
for stage, arguments in calls.items():
    sys.argv = ["stage"] + [word for name, value in arguments.items() for word in (f"--{name}", value)]
    stage.main()
    if stage is download:
        print("early", sorted({"great_expectations", "pandas", "sklearn"} & set(sys.modules)))
print("loaded", sorted({"tensorflow", "keras", "mlflow", "torch", "jax", "optuna"} & set(sys.modules)))
assert Path("prepared/train_images.npy").exists() and Path("test/test_images.npy").exists()
"""
    environment = {key: value for key, value in os.environ.items() if key != "MIRROR"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "early []" in done.stdout
    assert "loaded []" in done.stdout
