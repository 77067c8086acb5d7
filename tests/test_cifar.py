"""CIFAR-10's binary edition: a real archive is read, damaged and hostile ones are refused, each in its own one line."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import params
from pipeline.core.errors import DataError
from pipeline.datasets.formats import cifar

pytestmark = pytest.mark.timeout(30)  # a lying header must not make anyone wait

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = "cifar-10-binary.tar.gz"
EDITION = "567f82aac5cc8fefe05fbbf2aee37697997139ac57ef4dcfe1cb98c29beaa2a1"  # the official images in another order
FOLDER = "cifar-10-batches-bin"
CLASSES = ("cat", "dog", "frog")
IMAGES = 20
BATCHES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")


def records(seed: int, images: int = IMAGES) -> np.ndarray:
    made = np.random.default_rng(seed).integers(0, 256, (images, 3073), dtype=np.uint8)
    made[:, 0] %= len(CLASSES)
    return made


def whole() -> dict[str, bytes]:
    content = {f"{FOLDER}/{name}": records(seed).tobytes() for seed, name in enumerate(BATCHES)}
    return {f"{FOLDER}/batches.meta.txt": b"cat\ndog\nfrog\n\n", **content, f"{FOLDER}/readme.html": b"<html>"}


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def tar(members: dict[str, bytes], *extra: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return an archive of some members, and of others from their headers; a size may be wrong."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, content in (*(member(name, content) for name, content in members.items()), *extra):
            archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
            archive.fileobj.write(content + bytes(-len(content) % 512))
            archive.offset = archive.fileobj.tell()
    return made.getvalue()


def packed(members: dict[str, bytes], *extra: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return gzip.compress(tar(members, *extra), 1)


def without(name: str) -> dict[str, bytes]:
    return {path: content for path, content in whole().items() if not path.endswith(name)}


def changed(name: str, content: bytes | Callable[[bytes], bytes]) -> bytes:
    path = f"{FOLDER}/{name}"
    return packed(whole() | {path: content if isinstance(content, bytes) else content(whole()[path])})


def with_label(content: bytes) -> bytes:
    values = bytearray(content)
    values[4 * 3073] = 3
    return bytes(values)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], cifar.RawImages]:
    section = {
        "format": "cifar",
        "mirrors": [],
        "files": [{"name": ARCHIVE, "bytes": 1, "sha256": "0" * 64}],
        "batch_images": IMAGES,
        "classes": CLASSES,
    }

    def from_bytes(content: bytes) -> cifar.RawImages:
        (tmp_path / ARCHIVE).write_bytes(content)
        return cifar.read(tmp_path, cifar.Settings.model_validate(section))

    return from_bytes


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_an_archive_is_read(read, pack: Callable[[bytes], bytes]) -> None:
    raw = read(pack(tar(whole())))
    expected = np.concatenate([records(seed) for seed in range(5)])
    np.testing.assert_array_equal(raw.train.labels, expected[:, 0])
    np.testing.assert_array_equal(raw.test.labels, records(5)[:, 0])
    for channel in range(3):  # planes, row by row
        plane = expected[:, 1 + 1024 * channel : 1 + 1024 * (channel + 1)].reshape(-1, 32, 32)
        np.testing.assert_array_equal(raw.train.images[..., channel], plane)
    assert raw.class_names == CLASSES


def test_the_order_of_members_is_nothing_to_trust(read) -> None:
    backwards = read(packed(dict(reversed(whole().items()))))
    assert backwards.train.digest() == read(packed(whole())).train.digest()


def test_what_other_tools_add_is_left_alone(read) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for info, content in (member(FOLDER, kind=tarfile.DIRTYPE), member(f"{FOLDER}/._test_batch.bin", b"x")):
            archive.addfile(info, io.BytesIO(content))
        for name, content in whole().items():
            info, _ = member(f"./{name}", content, mtime=1.5)
            archive.addfile(info, io.BytesIO(content))
    assert len(read(made.getvalue()).train) == 5 * IMAGES


LINK = {"linkname": "/etc/passwd"}
HEADER_LIE = member(f"{FOLDER}/data_batch_5.bin", b"x" * 100, size=IMAGES * 3073)
LINKED_BATCH = member(f"{FOLDER}/data_batch_1.bin", b"", tarfile.SYMTYPE, linkname="data_batch_2.bin")
SECOND_BATCH = member(f"{FOLDER}/data_batch_1.bin", records(9).tobytes())
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty file": (lambda: b"", "cannot be unpacked: expected a complete tar archive, found empty file"),
    "a page instead": (
        lambda: b"<html>not found</html>" * 40,
        "cannot be unpacked: expected a complete tar archive, found invalid header",
    ),
    "gzip of a page": (
        lambda: gzip.compress(b"<html>" * 400),
        "cannot be unpacked: expected a complete tar archive, found invalid header",
    ),
    "truncated gzip": (lambda: packed(whole())[:-2000], "found Compressed file ended before"),
    "gzip without its checksum": (lambda: packed(whole())[:-8], "found Compressed file ended before"),
    "wrong checksum": (lambda: packed(whole())[:-8] + bytes(8), "found CRC check failed"),
    "damaged gzip": (
        lambda: packed(whole())[:10] + b"\xff" * 100 + packed(whole())[110:],
        "found .*Error -3 while decompressing",
    ),
    "truncated tar": (lambda: gzip.compress(tar(whole())[:200_000]), "found unexpected end of data"),
    "cut between members": (lambda: packed(without("_batch.bin")), r"lacks test_batch\.bin: expected six"),
    "header with a wrong sum": (
        lambda: gzip.compress(b"c" + tar(whole())[1:].replace(b"ustar", b"vstar", 1)),
        "cannot be unpacked",
    ),
    "lying size": (lambda: packed(without("data_batch_5.bin"), HEADER_LIE), "found unexpected end of data"),
    "negative size": (
        lambda: packed({}, member(f"{FOLDER}/data_batch_1.bin", size=-512)),
        "cannot be unpacked|does not have a whole number",
    ),
    "absurd size": (
        lambda: packed({}, member(f"{FOLDER}/data_batch_1.bin", size=3073 << 40)),
        r"declares too many bytes: .*found 3,378,799,232,155,648 in .*data_batch_1\.bin",
    ),
    "absurd size of another": (
        lambda: packed({}, member(f"{FOLDER}/readme.html", size=1 << 60)),
        r"declares too many bytes: expected at most 1,417,336 bytes, found 1,152,921,504,606,846,976 in .*readme\.html",
    ),
    "absurd long name": (
        lambda: packed({}, member("././@LongLink", b"", tarfile.GNUTYPE_LONGNAME, size=1 << 60)),
        "cannot be unpacked",
    ),
    "escape upwards": (
        lambda: packed(whole(), member("../../evil", b"x")),
        r"outside its folder: expected cifar-10-batches-bin, found '\.\./\.\./evil'",
    ),
    "escape in the middle": (
        lambda: packed(whole(), member(f"{FOLDER}/../../evil", b"x")),
        "outside its folder: .*batches-bin/../../evil",
    ),
    "absolute path": (
        lambda: packed(whole(), member("/etc/cron.d/evil", b"x")),
        "outside its folder: .*'/etc/cron.d/evil'",
    ),
    "symbolic link": (
        lambda: packed(whole(), member(f"{FOLDER}/s", b"", tarfile.SYMTYPE, **LINK)),
        "member .*/s is a link",
    ),
    "hard link": (
        lambda: packed(whole(), member(f"{FOLDER}/h", b"", tarfile.LNKTYPE, **LINK)),
        "member .*/h is a link",
    ),
    "link for a batch": (lambda: packed(without("batch_1.bin"), LINKED_BATCH), r"data_batch_1\.bin is a link"),
    "device": (
        lambda: packed(whole(), member(f"{FOLDER}/zero", b"", tarfile.CHRTYPE)),
        "member .*/zero is not a regular file",
    ),
    "sparse file": (
        lambda: packed(whole(), member(f"{FOLDER}/hole", b"", tarfile.GNUTYPE_SPARSE)),
        "member .*/hole is not a regular file",
    ),
    "pipe": (
        lambda: packed(whole(), member(f"{FOLDER}/fifo", b"", tarfile.FIFOTYPE)),
        "member .*/fifo is not a regular file",
    ),
    "bomb of noise": (
        lambda: packed(whole(), member(f"{FOLDER}/bomb", np.random.default_rng(0).bytes(2_000_000))),
        "declares too many bytes: expected at most 1,417,336 bytes, found 2,000,000 in",
    ),
    "bomb of zeros": (
        lambda: gzip.compress(tar({f"{FOLDER}/bomb": bytes(1_300_000)})),
        "packed too tightly for images: expected at most 100 times",
    ),
    "bytes after the end": (
        lambda: gzip.compress(tar(whole()) + np.random.default_rng(0).bytes(1_500_000), 1),
        "unpacks to too many bytes",
    ),
    "too many members": (
        lambda: packed(whole() | {f"{FOLDER}/{number}": b"" for number in range(40)}),
        "has too many members: expected at most 32",
    ),
    "half a record": (
        lambda: changed("data_batch_2.bin", lambda content: content[:-1]),
        r"data_batch_2\.bin does not have a whole number of records: expected a multiple of 3,073 bytes, found 61,459",
    ),
    "an image too few": (
        lambda: changed("data_batch_3.bin", lambda content: content[:-3073]),
        r"data_batch_3\.bin has the wrong number of images: expected 20 images, found 19",
    ),
    "CIFAR-100 records": (
        lambda: changed("test_batch.bin", bytes(IMAGES * 3074)),
        r"test_batch\.bin does not have a whole number",
    ),
    "no images": (
        lambda: changed("test_batch.bin", b""),
        r"test_batch\.bin has the wrong number of images: expected 20 images, found 0",
    ),
    "unknown label": (
        lambda: changed("data_batch_4.bin", with_label),
        r"data_batch_4\.bin: label 4 is out of range: expected 0 to 2 \(download's classes\), found 3",
    ),
    "missing batch": (lambda: packed(without("batch_2.bin")), r"lacks data_batch_2\.bin: expected six batches"),
    "missing names": (lambda: packed(without("meta.txt")), r"lacks batches\.meta\.txt"),
    "another folder": (
        lambda: packed({name.replace(FOLDER, "other"): content for name, content in whole().items()}),
        "lacks data_batch_1.bin, .*found none of them",
    ),
    "pickles": (
        lambda: packed({f"cifar-10-batches-py/data_batch_{n}": b"\x80\x02." for n in range(1, 6)}),
        "lacks .*found none of them",
    ),
    "duplicate member": (lambda: packed(whole(), SECOND_BATCH), r"has data_batch_1\.bin twice"),
    "too few classes": (
        lambda: changed("batches.meta.txt", b"cat\ndog\n"),
        r"lists the wrong number of classes: expected 3, found 2",
    ),
    "other classes": (
        lambda: changed("batches.meta.txt", b"cat\nfrog\ndog\n"),
        "names class 1 differently: expected 'dog' .*found 'frog'",
    ),
    "names that are no text": (lambda: changed("batches.meta.txt", b"\xff\xfe"), r"batches\.meta\.txt is not text"),
    "endless names": (
        lambda: changed("batches.meta.txt", b"cat\n" * 2000),
        r"batches\.meta\.txt is too large: expected at most 4,096 bytes",
    ),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_cifar_refuses(read, tmp_path: Path, damage: str) -> None:
    make, message = REFUSED[damage]
    content = make()
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as caught:
            read(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert peak < 8_000_000, "memory follows what the settings expect, not what a header claims"
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE], "nothing is extracted"


def test_each_kind_of_damage_has_a_message_of_its_own(read) -> None:
    kinds = [
        "truncated gzip",
        "truncated tar",
        "absurd size",
        "escape upwards",
        "symbolic link",
        "device",
        "bomb of noise",
    ]
    kinds += [
        "bomb of zeros",
        "too many members",
        "half a record",
        "unknown label",
        "missing batch",
        "duplicate member",
    ]
    kinds += ["too few classes", "other classes", "names that are no text", "endless names", "wrong checksum"]
    messages = set()
    for kind in kinds:
        with pytest.raises(DataError) as caught:
            read(REFUSED[kind][0]())
        messages.add(re.sub(r"\S*data_batch_\d\.bin|[\d,]+", "", str(caught.value)))
    assert len(messages) == len(kinds)


def test_a_missing_archive_is_an_error(tmp_path: Path, read) -> None:
    read(packed(whole()))
    chosen = params.load("download.cifar10", cifar.Settings, ROOT / "params.yaml")
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz is missing; next: dvc repro download"):
        cifar.read(tmp_path / "nowhere", chosen)


def test_the_images_of_cifar_10_are_read_whole(mirror: Path) -> None:
    with (mirror / "cifar10" / ARCHIVE).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != EDITION:
            pytest.skip("the local mirror holds another edition of CIFAR-10")
    raw = cifar.read(mirror / "cifar10", params.load("download.cifar10", cifar.Settings, ROOT / "params.yaml"))
    assert raw.train.images.shape == (50_000, 32, 32, 3)
    assert raw.test.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(raw.train.labels).tolist() == [5000] * 10
    means = raw.train.images.mean(axis=(0, 1, 2))
    assert means == pytest.approx([125.306918, 122.950394, 113.865383], abs=1e-5), "as published: red, green, blue"
