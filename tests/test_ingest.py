"""Incoming batches: good ones are taken in exactly once, whatever dies; each bad one is refused in its own words."""

from __future__ import annotations

import errno
import importlib
import io
import json
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipeline.artifacts import base as artifacts
from pipeline.artifacts.validate import NearDuplicates, Report
from pipeline.core import params
from pipeline.core.errors import DataError, ParamsError, PipelineError
from pipeline.core.files import write_json
from pipeline.datasets import batches, decoding, npz
from pipeline.datasets import manifest as accepted
from pipeline.datasets.arrays import Labelled, RawImages
from pipeline.project import dvc, lock, workspace
from pipeline.retraining import ingest, quarantine
from pipeline.retraining.places import Places
from pipeline.stages import prepare
from pipeline.validation import duplicate_pairs, reference, suites
from pipeline.validation.reference import Reference
from tests.fresh_process import KILLED, exit_code

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("left", "middle", "right")
SIDE = 15


def drawn(per_class: int, seed: int) -> Labelled:
    """Bluish colour images, rough and smooth ones, with a light block at the place that the class says."""
    random = np.random.default_rng(seed)
    labels = np.tile(np.arange(3), per_class)
    images = random.integers(0, 60, (len(labels), SIDE, SIDE, 3)) - 30
    images = (images * random.uniform(0.4, 1, (len(labels), 1, 1, 1))).astype(int) + np.array([60, 90, 130])
    for image, label in zip(images, labels, strict=True):
        top = random.integers(0, 9)
        image[top : top + 6, 5 * label : 5 * label + 5] += random.integers(50, 90)
    return Labelled(images.astype(np.uint8), labels)


RAW = RawImages(drawn(80, 1), drawn(15, 2), NAMES)
GOOD, OTHER = drawn(30, 3), drawn(30, 5)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one dataset that has passed the gate, and nothing in its way."""
    return made(tmp_path, monkeypatch)


def made(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for what needs DVC: params, and the dataset with the scale that validate learnt."""
    section = params.section("validate", ROOT / "params.yaml")

    def settle(folder: Path, **more: Any) -> dict[str, Any]:
        content = {"datasets": ["toy"], "validate": section}
        workspace.make_manifests(folder, content)
        return content

    scale = reference.learn(suites.image_table({"train": RAW.train}))
    monkeypatch.setattr(workspace, "settle", settle)
    monkeypatch.setattr(ingest, "_reference", lambda places: (RAW, scale))
    (root / "data/incoming/toy").mkdir(parents=True, exist_ok=True)
    return root


@dataclass
class Taken:
    """What an ingest has answered and said."""

    answer: ingest.IngestSummary
    said: list[str]


def take(root: Path) -> Taken:
    said: list[str] = []
    return Taken(ingest.run(root, said.append), said)


def take_until(root: Path, function: str, batch: str = "") -> None:
    """Take batches in, and end the process when it calls a function, with the batch of a name where one is given."""
    with pytest.MonkeyPatch.context() as patch:
        made(root, patch)
        module, _, name = function.rpartition(".")
        original = getattr(importlib.import_module(module), name)

        def end(*arguments: Any) -> Any:
            if not batch or arguments[0].name == batch:
                os._exit(KILLED)
            return original(*arguments)

        patch.setattr(function, end)
        take(root)


def put(root: Path, name: str, data: Labelled) -> Path:
    path = root / "data/incoming/toy" / name
    np.savez(path, images=data.images, labels=data.labels)
    return path


def manifest(root: Path) -> list[dict[str, Any]]:
    entries = [json.loads(file.read_text()) for file in (root / "reports/ingest/toy").glob("*.json")]
    return sorted(entries, key=lambda entry: entry["order"])


# ---------------------------------------------------------------- a table of damage


def packed(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def whole() -> bytes:
    return packed(images=OTHER.images, labels=OTHER.labels)


def zipped(images: bytes, *, name: str = "images.npy", how: int = zipfile.ZIP_STORED, labels: int = 90) -> bytes:
    """An .npz file whose images are any bytes."""
    buffer, numbers = io.BytesIO(), io.BytesIO()
    np.save(numbers, np.resize(OTHER.labels, labels).astype(np.uint8))
    with zipfile.ZipFile(buffer, "w", how) as archive:
        archive.writestr(name, images)
        archive.writestr("labels.npy", numbers.getvalue())
    return buffer.getvalue()


def header(shape: str, version: bytes = b"\x01\x00") -> bytes:
    """The start of an .npy file of uint8 that declares a shape."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode()


def odd_exif(tag: int, kind: int, count: int, value: int) -> bytes:
    """A JPEG file that is to be turned, with another EXIF entry that Pillow cannot write again."""
    entries = struct.pack(">HHIHHHHII", 0x0112, 3, 1, 6, 0, tag, kind, count, value)
    content = io.BytesIO()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + entries + bytes(4) + b"AB" * 9
    Image.fromarray(GOOD.images[0]).save(content, "JPEG", exif=exif, quality=95)
    return content.getvalue()


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


def relabelled(change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    return packed(images=OTHER.images, labels=change(OTHER.labels))


def repainted(change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    return packed(images=change(OTHER.images).astype(np.uint8), labels=OTHER.labels)


def with_first(*images: np.ndarray) -> bytes:
    """A good batch with other images in front."""
    return packed(images=np.concatenate([images, OTHER.images[len(images) :]]), labels=OTHER.labels)


def dusty(image: np.ndarray, place: int) -> np.ndarray:
    copy = image.copy()
    copy[0, place] ^= 1
    return copy


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing.npz": (lambda: b"", "is damaged: .*found an empty file"),
    "cut.npz": (lambda: whole()[:-50], "is damaged: .*found only the start of an .npz file"),
    "flipped.npz": (lambda: flipped(whole()), "is damaged: .*CRC"),
    "text.npz": (lambda: b"label,pixels\n1,2\n", "is damaged: .*another file type"),
    "notes.txt": (lambda: b"see mail", "is not a batch: expected an .npz file, or a folder .* found a file named"),
    "unlabelled.npz": (
        lambda: packed(images=OTHER.images),
        "arrays: expected images.npy and labels.npy, .*, found images",
    ),
    "more.npz": (
        lambda: packed(images=OTHER.images, labels=OTHER.labels, x=OTHER.labels),
        "found images.npy, .*, x.npy",
    ),
    "escape.npz": (lambda: zipped(b"", name="../../escaped.npy"), "found ../../escaped.npy, labels.npy"),
    "pickle.npz": (lambda: relabelled(lambda labels: labels.astype(object)), "labels.npy holds Python objects"),
    "magic.npz": (lambda: zipped(b"GIF89a" * 20), "is damaged: .*magic string"),
    "version.npz": (lambda: zipped(header("(90, 15, 15, 3)", b"\x09\x00")), "npy format version 1 or 2, found"),
    "lies.npz": (lambda: zipped(header("(1000000000, 15, 15, 3)")), "declares .*: expected 675,000,000,000 bytes"),
    "long-header.npz": (
        lambda: zipped(b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + b" " * 99),
        "header of 1,073,741,824 bytes",
    ),
    "deep-header.npz": (lambda: zipped(header("(" * 9_000)), "is damaged: .*has the header"),
    "torn-header.npz": (lambda: zipped(header("(90, 15, 15, 3)").replace(b"}", b"'")), "is damaged: .*has the header"),
    "strange-type.npz": (lambda: zipped(header("(90, 15, 15, 3)").replace(b"|u1", b"|q9")), "has the type '.q9'"),
    "lzma.npz": (lambda: zipped(b"x" * 99, how=zipfile.ZIP_LZMA), "compression: expected stored or deflated"),
    "bzip2.npz": (lambda: zipped(bytes(99), how=zipfile.ZIP_BZIP2), "expected stored or deflated, found method 12"),
    "tiny-images.npz": (
        lambda: zipped(header("(2000000, 1, 1, 3)") + bytes(6_000_000), how=zipfile.ZIP_DEFLATED, labels=2_000_000),
        "has too many images: expected at most 500,000 in a batch, found 2,000,000",
    ),
    "negative.npz": (lambda: zipped(header("(-90, 15, 15, 3)")), r"declares \(-90"),
    "bomb.npz": (lambda: zipped(bytes(9 << 20), how=zipfile.ZIP_DEFLATED), "images.npy is too large: .*9,437,184"),
    "float.npz": (lambda: packed(images=OTHER.images / 255, labels=OTHER.labels), "found float64 .*3\\)$"),
    "nan.npz": (lambda: packed(images=OTHER.images * np.nan, labels=OTHER.labels), "with NaN values"),
    "flat.npz": (lambda: packed(images=OTHER.images.reshape(90, -1), labels=OTHER.labels), r"found uint8 \(90, 675\)"),
    "unwhole.npz": (lambda: relabelled(lambda labels: labels / 2), "labels: expected integers"),
    "short.npz": (
        lambda: relabelled(lambda labels: labels[:-1]),
        "labels do not match images: expected 90 labels, found 89",
    ),
    "huge-label.npz": (lambda: relabelled(lambda labels: labels.astype(np.uint64) + 2**63), "expected class numbers"),
    "label.npz": (
        lambda: relabelled(lambda labels: labels + 1),
        "labels that are not classes .*found 30: label.npz\\[2\\] \\(.label 3.\\)",
    ),
    "minus.npz": (
        lambda: relabelled(lambda labels: labels - 1),
        "labels that are not classes .*found 30: minus.npz\\[0\\] \\(.label -1.\\)",
    ),
    "empty.npz": (lambda: packed(images=OTHER.images[:0], labels=OTHER.labels[:0]), "is empty: expected at least one"),
    "small.npz": (
        lambda: packed(images=OTHER.images[:, :8], labels=OTHER.labels),
        r"image shape: .*\(8, 15, 3\)",
    ),
    "grey.npz": (lambda: packed(images=OTHER.images[..., :1], labels=OTHER.labels), r"image shape: .*15, 1\)"),
    "blank.npz": (
        lambda: with_first(np.full((SIDE, SIDE, 3), 90, np.uint8)),
        "blank images .*found 1: blank.npz\\[0\\] ",
    ),
    "twice.npz": (lambda: with_first(*[OTHER.images[9]] * 9), "occur twice in the batch .*found 9"),
    "dust.npz": (lambda: with_first(*(dusty(OTHER.images[9], n) for n in range(15))), "look the same within the batch"),
    "leak.npz": (
        lambda: with_first(RAW.test.images[0]),
        "images that are in test .*found 1: test\\[0\\] .* and leak.npz\\[0\\] ",
    ),
    "leak-dust.npz": (
        lambda: with_first(*(dusty(image, 3) for image in RAW.test.images[:9])),
        "look the same as one in test .*found 9",
    ),
    "again.npz": (lambda: packed(images=RAW.train.images[:90], labels=OTHER.labels), "in train already: .*90 of 90"),
    "bgr.npz": (lambda: repainted(lambda images: images[..., ::-1]), "levels differ from train"),
    "inverted.npz": (lambda: repainted(lambda images: 255 - images), "darker or lighter than those of train"),
    "pale.npz": (lambda: repainted(lambda images: images / 3 + 68), "less or more contrast than those of train"),
    "rotated-labels.npz": (
        lambda: relabelled(lambda labels: (labels + 1) % 3),
        "class 'left' does not look like itself: .*found 0 of 30; most look like 'right'",
    ),
}


def pictures(folder: Path, size: tuple[int, int] = (SIDE, SIDE)) -> None:
    """Write the good batch as a folder of pictures per class."""
    for index, (image, label) in enumerate(zip(GOOD.images[:60], GOOD.labels, strict=False)):
        (folder / NAMES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize(size).save(folder / NAMES[label] / f"{index:03}.png")


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds nothing."""
    declared = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (declared, b"IDAT", b"IEND")
    framed = (struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "misnamed": (lambda box: (box / "left").rename(box / "lefd"), "unknown class: expected 'left'. .*found 'lefd'"),
    "stray": (lambda box: (box / "notes.txt").write_text("x"), "a file next to the class folders"),
    "not-a-picture": (lambda box: (box / "left/a.csv").write_text("x"), "a.csv .does not have the suffix of a picture"),
    "gif": (lambda box: (box / "left/a.png").write_bytes(b"GIF89a"), "1 of 61 .*left/a.png .not a PNG, JPEG"),
    "torn": (lambda box: os.truncate(box / "left/000.png", 200), "1 of 60 pictures cannot be read: .*left/000.png"),
    "pixel-bomb": (
        lambda box: (box / "left/a.png").write_bytes(png_header(9_000, 9_000)),
        "declares 9,000 × 9,000 pixels",
    ),
    "many-pixels": (
        lambda box: [(box / f"left/{n}.png").write_bytes(png_header(7_000, 7_000)) for n in range(409)],
        "has too many pixels: expected at most 20,000,000,000 in all pictures, found 20,041",
    ),
    "pixel-flood": (
        lambda box: (box / "left/a.png").write_bytes(png_header(60_000, 60_000)),
        "Image size .3600000000 pixels. exceeds limit",
    ),
    "link-out": (lambda box: (box / "left/a.png").symlink_to("/etc/passwd"), "a.png .is a link out of"),
    "link-round": (lambda box: (box / "left/a.png").symlink_to("a.png"), "a.png .is a link to nothing"),
    "no-pictures": (lambda box: [path.unlink() for path in box.glob("*/*")], "no-pictures is empty"),
}
ODD = {"link.npz": "is a link", "pipe.npz": "is not a batch: .*neither a file nor a folder"}
DAMAGED = {**{name: told for name, (_, told) in (FILES | FOLDERS).items()}, **ODD}


@dataclass
class Outcome:
    """What became of the table, with two good batches among it."""

    root: Path
    taken: Taken
    before: dict[str, bytes]

    def report(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / f"data/quarantine/toy/{name}/report.json").read_text())
        return found


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Everything damaged and two good batches, in one ingest."""
    root = tmp_path_factory.mktemp("table")
    box, before = root / "data/incoming/toy", {}
    with pytest.MonkeyPatch.context() as monkeypatch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # casts of the damage itself
        made(root, monkeypatch)
        monkeypatch.setattr(npz, "MOST_BATCH_BYTES", 8 << 20)
        for name, (make, _) in FILES.items():
            before[name] = make()
            (box / name).write_bytes(before[name])
        for name, (damage, _) in FOLDERS.items():
            pictures(box / name)
            damage(box / name)
        (box / "link.npz").symlink_to(root / "elsewhere.npz")
        os.mkfifo(box / "pipe.npz")
        put(root, "a-good.npz", GOOD)
        pictures(box / "a-good-folder", (40, 40))
        return Outcome(root, take(root), before)


@pytest.mark.parametrize("name", DAMAGED)
def test_every_damaged_batch_is_quarantined_with_its_own_reason(outcome: Outcome, name: str) -> None:
    report = outcome.report(name)
    assert re.search(DAMAGED[name], report["reasons"][0]), report["reasons"]
    assert report["batch"] == name
    assert os.path.lexists(outcome.root / f"data/quarantine/toy/{name}/batch/{name}")
    [line] = [line for line in outcome.taken.said if f": {name} " in line]
    assert f"{name} quarantined: {report['reasons'][0]}" in line
    assert f"data/quarantine/toy/{name}/report.json" in line


def test_no_two_kinds_of_damage_are_told_alike(outcome: Outcome) -> None:
    assert len(DAMAGED) >= 40
    reasons = [outcome.report(name)["reasons"][0].replace(name, "") for name in DAMAGED]
    assert len(set(reasons)) == len(reasons)


def test_what_is_quarantined_is_whole(outcome: Outcome) -> None:
    for name, content in outcome.before.items():
        assert (outcome.root / f"data/quarantine/toy/{name}/batch/{name}").read_bytes() == content


def test_bad_batches_do_not_keep_the_good_ones_out(outcome: Outcome) -> None:
    lines = manifest(outcome.root)
    assert [(line["batch"], line["images"]) for line in lines] == [("a-good-folder", 60), ("a-good.npz", 90)]
    assert outcome.taken.answer == ingest.IngestSummary(accepted=2, quarantined=len(DAMAGED), images=150)
    assert {path.stem for path in (outcome.root / "data/accepted/toy").iterdir()} == {line["digest"] for line in lines}
    assert list((outcome.root / "data/incoming/toy").iterdir()) == []


# ---------------------------------------------------------------- what is taken, and how often


def test_an_accepted_batch_is_an_immutable_file_that_its_digest_names(project: Path) -> None:
    put(project, "monday.npz", GOOD)
    take(project)
    path = project / f"data/accepted/toy/{GOOD.digest()}.npz"
    assert npz.read_npz(path).digest() == GOOD.digest()
    assert path.stat().st_mode & 0o222 == 0
    entry = {"digest": GOOD.digest(), "batch": "monday.npz", "images": 90, "classes": list(NAMES), "order": 1}
    assert manifest(project) == [entry]


def test_the_same_images_are_taken_once_whatever_they_are_called(project: Path) -> None:
    put(project, "monday.npz", GOOD)
    put(project, "tuesday.npz", GOOD)
    first = take(project)
    assert first.answer == ingest.IngestSummary(accepted=1, known=1, images=90)
    put(project, "wednesday.npz", GOOD)
    before = manifest(project)
    second = take(project)
    assert second.said == ["toy: wednesday.npz is known, taken in as monday.npz; removed"]
    assert manifest(project) == before


def test_a_batch_is_compared_with_the_batches_before_it(project: Path) -> None:
    put(project, "monday.npz", GOOD)
    put(project, "tuesday.npz", Labelled(np.concatenate([GOOD.images[:9], drawn(30, 9).images[9:]]), GOOD.labels))
    said = take(project).said
    assert "tuesday.npz quarantined: images that are in train already" in said[1]


def test_known_pictures_under_classes_numbered_otherwise_are_refused_with_what_each_class_looks_like(
    project: Path,
) -> None:
    put(project, "monday.npz", GOOD)
    put(project, "tuesday.npz", Labelled(GOOD.images, (GOOD.labels + 1) % 3))
    taken = take(project)
    assert taken.answer == ingest.IngestSummary(accepted=1, quarantined=1, images=90)
    assert "tuesday.npz quarantined: images that are in the batch or the dataset under another class" in taken.said[1]
    assert "found 90: monday.npz[0] ('left') and tuesday.npz[0] ('middle')" in taken.said[1]
    assert "class 'left' does not look like itself" in taken.said[1]
    assert "found 0 of 30; most look like 'right'" in taken.said[1]


def test_a_few_look_alikes_are_taken_with_a_warning(project: Path) -> None:
    twins = [dusty(image, 3) for image in RAW.test.images[:4]]
    put(project, "monday.npz", Labelled(np.concatenate([twins, GOOD.images[4:]]), GOOD.labels))
    taken = take(project)
    assert taken.answer == ingest.IngestSummary(accepted=1, images=90)
    assert "monday.npz accepted, with warnings (near-leaked-batch-some)" in taken.said[0]
    assert "found 4: test[" in taken.said[1]


def test_a_batch_may_lack_a_class(project: Path) -> None:
    put(project, "two.npz", GOOD.take(np.flatnonzero(GOOD.labels < 2)))
    assert take(project).answer.accepted == 1


@pytest.mark.parametrize("box", [None, "toy", "tox", "toy.npz"])
def test_nothing_to_take_is_fine(project: Path, box: str | None) -> None:
    (project / "data/incoming/toy").rmdir()
    if box is None:
        (project / "data/incoming").rmdir()
    elif box == "toy.npz":
        (project / "data/incoming" / box).write_bytes(b"")
    else:
        (project / "data/incoming" / box).mkdir()
    taken = take(project)
    assert taken.answer == ingest.IngestSummary()
    assert manifest(project) == []
    strays = [] if box in (None, "toy") else [f"{project}/data/incoming/{box} is left alone: expected a dataset"]
    assert [line.partition(" of params.yaml")[0] for line in taken.said] == strays


def test_a_file_where_batches_are_expected_is_told(project: Path) -> None:
    (project / "data/incoming/toy").rmdir()
    (project / "data/incoming/toy").write_bytes(whole())
    [line] = take(project).said
    assert "is left alone: expected a folder of batches, found a file" in line


def test_what_is_still_being_copied_is_left_alone(project: Path) -> None:
    path = put(project, ".monday.npz", GOOD)
    assert take(project).answer == ingest.IngestSummary()
    assert path.exists()


def test_a_name_cannot_write_lines_of_its_own(project: Path) -> None:
    name = b"x\n\x1b[31mtoy: x accepted\xff.txt".decode(errors="surrogateescape")
    (project / "data/incoming/toy" / name).write_text("")
    [line] = take(project).said
    assert line.isprintable()
    line.encode()
    assert (project / "data/quarantine/toy" / name / "report.json").exists()


def test_two_bad_batches_of_one_name_are_both_kept(project: Path) -> None:
    for content in (b"one", b"two"):
        (project / "data/incoming/toy/bad.npz").write_bytes(content)
        take(project)
    kept = {path.read_bytes() for path in (project / "data/quarantine/toy").glob("*/batch/bad.npz")}
    assert kept == {b"one", b"two"}


def test_a_second_ingest_waits_and_then_says_who_is_in_its_way(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_PATIENCE_S", 0.1)
    take(project)
    write_json(project / lock.HOLDER, {"pid": 7, "command": "pipeline run", "since": "today"})
    with filelock.FileLock(project / lock.FILE), pytest.raises(PipelineError, match="`pipeline run`"):
        take(project)


def test_a_batch_that_cannot_be_moved_stays_and_does_not_stop_the_others(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(project, "a.npz", GOOD)
    put(project, "b.npz", drawn(30, 8))
    rename = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "a.npz":
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    taken = take(project)
    assert taken.answer == ingest.IngestSummary(accepted=1, left=1, images=90)
    assert "a.npz is left alone: it cannot be moved: Permission denied" in taken.said[0]
    assert (project / "data/incoming/toy/a.npz").exists()


def test_a_full_disk_costs_nothing_but_time(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(project, "monday.npz", GOOD)
    save = np.savez

    def fill(file: Any, **arrays: np.ndarray) -> None:
        file.write(bytes(1000))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", fill)
    with pytest.raises(OSError, match="No space left"):  # of which `entry.run` makes one line
        take(project)
    assert list((project / "data/accepted/toy").iterdir()) == []
    monkeypatch.setattr(np, "savez", save)
    assert take(project).answer.accepted == 1


def test_a_folder_that_nobody_may_write_to_is_told_in_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(project, "monday.npz", GOOD)

    def refuse(self: Path, **more: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    with monkeypatch.context() as inner:
        inner.setattr(Path, "mkdir", refuse)
        with pytest.raises(PipelineError, match=r"Read-only file system; batches left where they are; next: let this"):
            take(project)
    assert take(project).answer.accepted == 1


@pytest.mark.slow
def test_killed_before_any_change_to_the_disk_nothing_is_lost_or_taken_twice(tmp_path: Path) -> None:
    script = Path(__file__).with_name("ingest_killed.py")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}  # the code beside this file, not what is installed
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) > 50
    assert [code for code, _ in results] == [-9] * (len(results) - 1) + [0]
    expected = {
        "manifest": [["a-good.npz", 6], ["b-folder", 4]],
        "stored": True,
        "quarantine": ["c-bad.npz", "d-damaged.npz"],
        "reports": ["c-bad.npz", "d-damaged.npz"],
        "waiting": [],
    }
    assert [after for _, after in results if after != expected] == []


# ---------------------------------------------------------------- faults that stay with their batch


@pytest.mark.parametrize("entry", [(270, 5, 1, 0), (0x8825, 3, 2, 1), (273, 1, 1, 0)], ids=str)
def test_a_picture_with_an_odd_exif_entry_is_decoded_and_turned(entry: tuple[int, int, int, int]) -> None:
    found = decoding.decode(odd_exif(*entry), (SIDE, SIDE), 3)
    assert np.abs(found.astype(int) - np.rot90(GOOD.images[0], -1)).mean() < 15


FAULTS = [
    MemoryError(),
    TypeError("odd"),
    RecursionError("deep"),
    lzma.LZMAError("corrupt"),
    OSError(errno.EIO, "Input/output error"),
]


@pytest.mark.parametrize(
    ("step", "fault"),
    [*(("read", fault) for fault in FAULTS), ("judge", MemoryError()), ("judge", DataError("too many"))],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_any_fault_while_a_batch_is_checked_is_its_own(
    project: Path, monkeypatch: pytest.MonkeyPatch, step: str, fault: Exception
) -> None:
    owner = batches if step == "read" else ingest
    check = getattr(owner, step)

    def fail_on_the_first(*arguments: Any) -> Any:
        seen.append(arguments)
        if len(seen) == 1:
            raise fault
        return check(*arguments)

    seen: list[Any] = []
    monkeypatch.setattr(owner, step, fail_on_the_first)
    put(project, "a.npz", OTHER)
    put(project, "b.npz", GOOD)
    taken = take(project)
    assert taken.answer == ingest.IngestSummary(accepted=1, quarantined=1, images=90)
    assert (str(fault) or "MemoryError") in taken.said[0]
    assert (project / "data/quarantine/toy/a.npz/batch/a.npz").exists()


@pytest.mark.parametrize("fault", [ParamsError("validate.x"), ImportError("no scipy"), OSError(errno.ENOSPC, "full")])
def test_what_is_no_fault_of_a_batch_stops_and_loses_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(*arguments: Any) -> Any:
        raise fault

    put(project, "a.npz", GOOD)
    with monkeypatch.context() as inner:
        inner.setattr(ingest, "judge", fail)
        for _ in range(3):
            with pytest.raises(type(fault)):
                take(project)
    assert take(project).answer.accepted == 1


def test_a_batch_that_ends_the_process_twice_is_quarantined_unread(project: Path) -> None:
    put(project, "a.npz", OTHER)
    put(project, "b.npz", GOOD)
    for _ in range(2):  # as the kernel ends a process that needs too much memory
        assert exit_code(take_until, project, "pipeline.datasets.batches.read", "a.npz") == KILLED
    taken = take(project)
    assert taken.answer == ingest.IngestSummary(accepted=1, quarantined=1, images=90)
    assert "a.npz quarantined: the process ended 2 times while it checked this batch" in taken.said[0]
    assert list((project / "data/incoming/toy").iterdir()) == []


def test_names_of_255_bytes_and_equal_ones_are_quarantined(project: Path) -> None:
    name = "é" * 125 + "x.npz"
    for content in (b"one", b"two", b"two"):
        (project / "data/incoming/toy" / name).write_bytes(content)
        assert take(project).answer.quarantined == 1
    kept = [path.read_bytes() for path in sorted((project / "data/quarantine/toy").glob("*/batch/*"))]
    assert sorted(kept) == [b"one", b"two"]  # what came twice is there once


def test_a_claimed_batch_is_not_replaced_by_a_later_one_of_its_name(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = project / "data/incoming/toy/a.npz"
    with monkeypatch.context() as inner:
        inner.setattr(quarantine, "put", refuse)
        for content in (b"one", b"two"):
            path.write_bytes(content)
            assert take(project).answer.left == (1 if content == b"one" else 2)
    for _ in range(2):
        take(project)
    kept = {path.read_bytes() for path in (project / "data/quarantine/toy").glob("*/batch/a.npz")}
    assert kept == {b"one", b"two"}


def test_an_accepted_batch_that_cannot_be_removed_is_known_and_named_once_per_ingest(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(project / "data/incoming/toy/monday")
    unlink = os.unlink

    def refuse(path: Any, **more: Any) -> None:
        if str(path) == "000.png":  # relative to its folder's descriptor, as shutil.rmtree calls it
            raise PermissionError(errno.EACCES, "Permission denied", path)
        unlink(path, **more)

    with monkeypatch.context() as inner:
        inner.setattr(os, "unlink", refuse)
        first, second = take(project), take(project)
        put(project, "tuesday.npz", OTHER)
        third = take(project)
    assert first.answer == ingest.IngestSummary(accepted=1, images=60)
    assert re.search("monday accepted.*60 images", first.said[0])
    assert re.search("monday is stored and cannot be removed; next: remove .*/.done/.*/monday", first.said[1])
    assert second.answer == ingest.IngestSummary()
    assert re.fullmatch("toy: monday was dealt with earlier and cannot be removed; next: .*/monday", second.said[0])
    assert third.answer == ingest.IngestSummary(accepted=1, images=90)
    assert take(project).said == []
    assert list((project / "data/incoming/toy").iterdir()) == []


def test_a_link_in_place_of_the_folder_for_removal_is_not_followed(project: Path) -> None:
    (project / "home/kept").mkdir(parents=True)
    (project / "home/kept").chmod(0o750)
    (project / "data/incoming/toy/.done").symlink_to(project / "home")
    take(project)
    assert (project / "home/kept").stat().st_mode & 0o777 == 0o750
    assert not (project / "data/incoming/toy/.done").is_symlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove anything")
def test_class_folders_without_write_permission_are_removed(project: Path) -> None:
    pictures(project / "data/incoming/toy/monday")
    (project / "data/incoming/toy/monday/left").chmod(0o555)
    assert take(project).answer.accepted == 1
    assert list((project / "data/incoming/toy").iterdir()) == []


def cross_disk(source: Any, target: Any, **more: Any) -> None:
    if "/incoming/" in str(source) and "/quarantine/" in str(target):
        raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))
    _RENAME(source, target, **more)


_RENAME = os.rename


def test_quarantine_on_another_disk_gets_verified_copies(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "rename", cross_disk)
    box = project / "data/incoming/toy"
    (box / "a.npz").write_bytes(b"bad")
    pictures(box / "b")
    (box / "b/left").rename(box / "b/lefd")
    (box / "b/lefd/loop.png").symlink_to("loop.png")
    (box / "b/lefd").chmod(0o555)
    (box / "c.npz").symlink_to("elsewhere")
    os.mkfifo(box / "d.npz")
    put(project, "e.npz", GOOD)
    assert take(project).answer == ingest.IngestSummary(accepted=1, quarantined=4, images=90)
    kept = project / "data/quarantine/toy"
    assert (kept / "a.npz/batch/a.npz").read_bytes() == b"bad"
    assert len(list((kept / "b/batch/b").glob("*/*.png"))) == 61
    assert (kept / "c.npz/batch/c.npz").readlink() == Path("elsewhere")
    assert (kept / "d.npz/batch/d.npz").is_fifo()
    assert list(box.iterdir()) == []
    assert [path for path in kept.rglob("*") if "partial" in path.name] == []


def take_until_removal_from_another_disk(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", cross_disk)
        take_until(root, "pipeline.retraining.removal.remove")


def test_a_wrong_copy_and_a_kill_between_copy_and_removal_lose_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "rename", cross_disk)
    path = project / "data/incoming/toy/a.npz"
    path.write_bytes(b"bad")
    with monkeypatch.context() as inner:
        inner.setattr(shutil, "copy2", lambda source, target, **more: Path(target).write_bytes(b"bat"))
        assert "was not copied to quarantine correctly" in take(project).said[0]
    assert exit_code(take_until_removal_from_another_disk, project) == KILLED
    assert take(project).answer.quarantined == 1
    assert [path.read_bytes() for path in (project / "data/quarantine").rglob("a.npz") if path.is_file()] == [b"bad"]
    assert list((project / "data/incoming/toy").iterdir()) == []


# ---------------------------------------------------------------- what becomes of it


def grown(root: Path, raw: RawImages = RAW) -> accepted.Grown:
    return accepted.grow(raw, root / "reports/ingest/toy", root / "data/accepted/toy")


def test_train_grows_and_test_never_does(project: Path) -> None:
    put(project, "monday.npz", GOOD)
    take(project)
    raw = grown(project).raw
    assert len(raw.train) == len(RAW.train) + len(GOOD)
    assert raw.train.take(np.arange(240, 330)).digest() == GOOD.digest()
    assert raw.test.digest() == RAW.test.digest()


def test_without_batches_a_dataset_is_what_it_was(project: Path) -> None:
    take(project)
    found = grown(project)
    assert found.raw.train is RAW.train
    assert (found.batches, found.images) == ((), 0)


def test_images_that_are_in_test_by_now_are_held_back(project: Path) -> None:
    put(project, "monday.npz", GOOD)
    take(project)
    test = Labelled(np.concatenate([RAW.test.images, GOOD.images[:4]]), np.append(RAW.test.labels, GOOD.labels[:4]))
    found = grown(project, replace(RAW, test=test))
    assert (found.images, found.held_back) == (86, 4)


def test_labels_follow_the_names_of_classes(project: Path) -> None:
    put(project, "monday.npz", GOOD)
    take(project)
    found = grown(project, replace(RAW, class_names=("middle", "right", "left")))
    assert found.raw.train.labels[240:].tolist() == [[2, 0, 1][label] for label in GOOD.labels]
    with pytest.raises(DataError, match="has an unknown class: expected left, middle, found right"):
        grown(project, replace(RAW, class_names=("left", "middle")))


def test_an_accepted_file_that_is_missing_or_changed_is_told(project: Path) -> None:
    put(project, "monday.npz", GOOD)
    take(project)
    path = project / f"data/accepted/toy/{GOOD.digest()}.npz"
    path.chmod(0o644)
    path.write_bytes(packed(images=GOOD.images[::-1], labels=GOOD.labels))
    with pytest.raises(DataError, match=r"does not match the manifest \(batch monday.npz\)"):
        grown(project)
    path.unlink()
    with pytest.raises(
        DataError, match=r"is missing, but the manifest lists it \(batch monday.npz\): expected 90 images"
    ):
        grown(project)


def test_near_duplicates_that_came_in_a_batch_stay_on_one_side_of_validation(project: Path) -> None:
    twins = Labelled(np.stack([dusty(image, 2) for image in RAW.train.images[:60]]), RAW.train.labels[:60])
    accepted.append(
        project / "reports/ingest/toy",
        accepted.ManifestEntry(
            digest=accepted.store(project / "data/accepted/toy", twins), batch="twins", images=60, classes=NAMES
        ),
    )
    found = grown(project)
    duplicate_pairs.save(project / "near.csv", duplicate_pairs.NONE, {"train": 240, "test": 45})
    near = prepare.near_duplicates(project / "near.csv", found, distance=0.15)
    assert {(int(a), int(b)) for a, b in zip(near.first, near.second, strict=True)} == {(240 + n, n) for n in range(60)}
    splits = prepare.run(found.raw, prepare.PrepareSettings(val_fraction=0.3, seed=0), near).splits
    inside = {image.tobytes() for image in splits.val.images}
    both = [(image.tobytes() in inside) + (dusty(image, 2).tobytes() in inside) for image in RAW.train.images[:60]]
    assert set(both) == {0, 2}


def test_the_reference_is_what_validate_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.datasets.formats import shapes

    settings = {"format": "shapes", "train": 40, "test": 20, "seed": 0, "classes": ["disc", "ring"]}
    write_json(tmp_path / "params.yaml", {"download": {"toy": settings}})
    raw = shapes.read(tmp_path, shapes.Settings.model_validate(settings))
    scale = reference.learn(suites.image_table({"train": raw.train}))
    by_split: dict[str, Any] = {name: {} for name in ("images", "classes", "imbalance", "duplicates", "digest")}
    near = NearDuplicates(threshold=0.05, counts={}, pairs=())
    further: dict[str, Any] = {"warnings": (), "leaked": 0, "expectations": {}, "near_duplicates": near}
    report = Report(dataset="toy", passed=True, reference=scale, **by_split, **further)
    targets: list[str] = []

    def reproduce(root: Path, *, targets: list[str], quiet: bool, into: list[str] = targets) -> int:
        into += targets
        artifacts.write(root / "reports/validate/toy.json", report)
        return 0

    monkeypatch.setattr(dvc, "reproduce", reproduce)
    places = Places(tmp_path, "toy")
    found, learnt = ingest._reference(places)
    assert targets == ["validate@toy"]
    assert found.train.digest() == raw.train.digest()
    assert learnt == Reference.model_validate(scale.model_dump())
    monkeypatch.setattr(dvc, "reproduce", lambda root, **more: 1)
    with pytest.raises(PipelineError, match=r"nothing to judge them by.*batches left where they are"):
        ingest._reference(places)


def test_ingest_and_the_graph_mean_the_same_places() -> None:
    graph = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    places = Places(Path(), "${item.dataset}")
    assert f"--manifest {places.manifest} --accepted {places.accepted} " in graph["prepare"]["cmd"]
    assert str(places.manifest) in graph["prepare"]["deps"]
    assert str(places.validated) in [next(iter(metric)) for metric in graph["validate"]["metrics"]]


def test_every_dataset_of_params_has_its_manifest_in_git() -> None:
    names = set(YAML(typ="safe").load(ROOT / "params.yaml")["download"])
    listed = subprocess.run(
        ["git", "ls-files", str(workspace.MANIFESTS)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {Path(line).parent.name for line in listed.stdout.splitlines()} >= names
