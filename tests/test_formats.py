"""Source formats: real files are read, damaged and lying ones are refused in one line."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import params
from pipeline.core.errors import DataError
from pipeline.datasets.arrays import RawImages
from pipeline.datasets.formats import digits, idx

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params.yaml"
IMAGES = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
LABELS = np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8)
NAMES = ("train-images.gz", "train-labels.gz", "t10k-images.gz", "t10k-labels.gz")


def encode(values: np.ndarray, *, magic: bytes = b"\0\0\x08", shape: tuple[int, ...] | None = None) -> bytes:
    declared = values.shape if shape is None else shape
    return magic + bytes([len(declared)]) + struct.pack(f">{len(declared)}I", *declared) + values.tobytes()


def idx_settings(**unpacked: int) -> idx.Settings:
    files = [{"name": name, "bytes": 1, "sha256": "0" * 64} for name in NAMES]
    for pin in files:
        if (size := unpacked.get(str(pin["name"]).removesuffix(".gz").replace("-", "_"))) is not None:
            pin |= {"unpacked_bytes": size, "unpacked_sha256": "0" * 64}
    section = {"format": "idx", "mirrors": [], "files": files, "classes": ["a", "b", "c"]}
    return idx.Settings.model_validate(section)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).write_bytes(gzip.compress(encode(IMAGES if "images" in name else LABELS)))
    return tmp_path


def test_idx_is_read_gzipped_or_plain(folder: Path) -> None:
    (folder / "t10k-images.gz").write_bytes(encode(IMAGES[::-1]))
    raw = idx.read(folder, idx_settings())
    np.testing.assert_array_equal(raw.train.images[..., 0], IMAGES)
    np.testing.assert_array_equal(raw.test.images[..., 0], IMAGES[::-1])
    np.testing.assert_array_equal(raw.train.labels, LABELS)
    assert raw.class_names == ("a", "b", "c")


LIES: dict[str, tuple[str, bytes, str]] = {
    "no idx": ("train-images.gz", b"<html>not found</html>", "is not an IDX file: expected magic 00000803"),
    "empty": ("train-images.gz", b"", "is not an IDX file"),
    "floats": ("train-images.gz", encode(IMAGES, magic=b"\0\0\x0d"), "wrong value type: expected 0x08"),
    "labels for images": ("train-images.gz", encode(LABELS), "wrong number of dimensions: expected 3, found 1"),
    "cut in the header": ("train-images.gz", encode(IMAGES)[:9], "ends in its header"),
    "cut in the values": ("train-images.gz", encode(IMAGES)[:-1], "ends early: expected 88 bytes"),
    "bytes after the end": ("train-images.gz", encode(IMAGES) + b"!", "has bytes after its end: expected 88 bytes"),
    "absurd size": ("train-images.gz", encode(IMAGES, shape=(2**32 - 1,) * 3), "ends early"),
    "no image": ("train-images.gz", encode(IMAGES[:0]), "is empty"),
    "truncated gzip": ("train-images.gz", gzip.compress(encode(IMAGES))[:-12], "cannot be unpacked"),
    "damaged gzip": ("train-images.gz", b"\x1f\x8b" + bytes(100), "cannot be unpacked"),
    "unknown label": ("train-labels.gz", encode(LABELS * 2), r"label 2 is out of range: expected 0 to 2"),
    "too few labels": (
        "train-labels.gz",
        encode(LABELS[:5]),
        "does not match train-images.gz: expected 6 labels, found 5",
    ),
    "other size in test": ("t10k-images.gz", encode(IMAGES.reshape(6, 3, 4)), "test images differ in size from train"),
}


@pytest.mark.parametrize("lie", LIES)
def test_idx_refuses(folder: Path, lie: str) -> None:
    name, content, message = LIES[lie]
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        idx.read(folder, idx_settings())
    assert "\n" not in str(caught.value)


def test_idx_refuses_a_missing_file(folder: Path) -> None:
    (folder / "train-labels.gz").unlink()
    with pytest.raises(DataError, match=r"train-labels\.gz is missing; next: dvc repro download"):
        idx.read(folder, idx_settings())


def test_idx_unpacks_no_more_than_the_pin(folder: Path, monkeypatch) -> None:
    read: list[int] = []
    original = gzip.GzipFile.read

    def count(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        chunk = original(self, size)
        read.append(len(chunk))
        return chunk

    monkeypatch.setattr(gzip.GzipFile, "read", count)
    (folder / "train-images.gz").write_bytes(gzip.compress(encode(IMAGES) + bytes(50_000_000)))
    with pytest.raises(DataError, match="unpacks to too many bytes: expected at most 88 bytes"):
        idx.read(folder, idx_settings(train_images=88))
    assert sum(read) < 3_000_000


def test_idx_needs_files_for_every_role(folder: Path) -> None:
    chosen = idx_settings()
    with pytest.raises(DataError, match="expected one named t10k-labels"):
        idx.read(folder, chosen.model_copy(update={"files": chosen.files[:3]}))


def test_mnist_is_read_whole(mirror: Path) -> None:
    raw = idx.read(mirror / "mnist", params.load("download.mnist", idx.Settings, PARAMS))
    assert raw.train.images.shape == (60_000, 28, 28, 1)
    assert raw.test.images.shape == (10_000, 28, 28, 1)
    assert raw.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert raw.train.images[0].sum() == 27_525


@pytest.fixture
def digits_settings() -> digits.Settings:
    return params.load("download.digits", digits.Settings, PARAMS)


def packed_rows() -> list[list[int]]:
    """Forty rows of four digits, every cell in range."""
    return [[(row * 7 + column) % 17 for column in range(64)] + [row % 4] for row in range(40)]


@pytest.fixture
def read_digits(tmp_path: Path, digits_settings: digits.Settings) -> Callable[[str], RawImages]:
    def read(text: str) -> RawImages:
        (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(text.encode()))
        return digits.read(tmp_path, digits_settings)

    return read


def as_text(rows: list[list[int]]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def test_digits_are_split_one_in_five_of_every_class(read_digits) -> None:
    raw = read_digits(as_text(packed_rows()))
    assert np.bincount(raw.train.labels).tolist() == [8] * 4
    assert np.bincount(raw.test.labels).tolist() == [2] * 4
    assert digits.is_test(np.array([7] * 5 + [3] * 5)).nonzero()[0].tolist() == [4, 9]


def test_digits_fill_mnists_frame() -> None:
    scan = np.zeros((2, 8, 8), np.int64)
    scan[0] = 16
    scan[1, 0, 0] = 16
    large = digits.enlarge(scan)
    assert large.shape == (2, 28, 28, 1)
    assert large.dtype == np.uint8
    assert (large[0, 4:24, 4:24] == 255).all()
    assert large[0].sum() == 400 * 255
    assert large[1, 4, 4, 0] > 200
    assert large[1, 14:, 14:].sum() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",", ";", 1), "line 1: expected 65 values, found 64"),
        (lambda text: text + "\n", "line 41: expected 65 values, found 1"),
        (lambda text: "x" + text, "line 1: expected integers"),
        (lambda text: "17" + text[1:], "line 1: pixel 0 is out of range: expected 0 to 16, found 17"),
        (lambda text: "-1" + text[1:], "line 1: pixel 0 is out of range: expected 0 to 16, found -1"),
        (lambda text: "9" * 30 + text[1:], "line 1: expected values of 0 to 16"),
        (lambda text: text[:-2] + "10\n", "line 40: a label is out of range: expected 0 to 9, found 10"),
        (lambda text: "", "is empty"),
    ],
)
def test_digits_refuse_bad_rows(read_digits, change, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_digits(change(as_text(packed_rows())))


def test_the_real_digits_are_read_whole(digits_settings: digits.Settings) -> None:
    from pipeline.datasets.download.sources import locate

    found = locate(digits_settings.mirrors[0])
    assert found is not None
    raw = digits.read(found, digits_settings)
    assert (len(raw.train), len(raw.test)) == (1442, 355)
    assert raw.train.images.max() == 255
    assert len(np.unique(np.concatenate([raw.train.images, raw.test.images]), axis=0)) == 1797


# ---------------------------------------------------------------- IDX files of one's own, such as EMNIST's

EMNIST = {
    "train_images": "emnist-letters-train-images-idx3-ubyte.gz",
    "train_labels": "emnist-letters-train-labels-idx1-ubyte.gz",
    "test_images": "emnist-letters-test-images-idx3-ubyte.gz",
    "test_labels": "emnist-letters-test-labels-idx1-ubyte.gz",
}


def own_idx(root: Path, names: dict[str, str], images: np.ndarray, labels: np.ndarray) -> Path:
    root.mkdir()
    for role, name in names.items():
        (root / name).write_bytes(gzip.compress(encode(images if "images" in role else labels)))
    return root


def pinned_idx(project: Path, path: Path, **more: object) -> RawImages:
    """Pin own files as `pipeline ingest` does, and read them."""
    from ruamel.yaml import YAML

    from pipeline.datasets import packing
    from pipeline.project.params_edit import override

    section = {"format": "idx", "path": str(path), **more}
    text = override("download: {}\ndatasets: [letters]\n", [f"download.letters={section!r}"])
    text = override(text, packing.pins(YAML(typ="safe").load(text), project, project))
    settings = idx.Settings.model_validate(YAML(typ="safe").load(text)["download"]["letters"])
    return idx.read(project / "data/own/letters", settings)


def test_letters_of_emnist_are_upright_and_their_classes_begin_at_1(tmp_path: Path) -> None:
    letters = own_idx(tmp_path / "letters", EMNIST, IMAGES.transpose(0, 2, 1), LABELS + 1)
    raw = pinned_idx(tmp_path, letters, transpose=True, first_label=1)
    assert raw.class_names == ("1", "2", "3")
    np.testing.assert_array_equal(raw.train.images[..., 0], IMAGES)
    np.testing.assert_array_equal(raw.test.labels, LABELS)
    assert pinned_idx(tmp_path, letters, transpose=True, first_label=1, classes=["a", "b", "c"]).class_names[0] == "a"


def test_files_of_emnist_stop_until_the_settings_say_how_they_lie_and_where_labels_begin(tmp_path: Path) -> None:
    letters = own_idx(tmp_path / "letters", EMNIST, IMAGES, LABELS + 1)
    with pytest.raises(DataError, match=r"labels are out of range: .* found 1 to 3; next: set first_label: 1$"):
        pinned_idx(tmp_path, letters, transpose=True)
    with pytest.raises(DataError, match=r"labels are out of range: .* next: set first_label: 1$"):
        pinned_idx(tmp_path, letters, transpose=True, classes=["a", "b", "c"])
    with pytest.raises(DataError, match=r"whose images are transposed: .* next: set transpose: true, or false"):
        pinned_idx(tmp_path, letters, first_label=1)
    assert pinned_idx(tmp_path, letters, first_label=1, transpose=False).train.images.shape == (6, 4, 3, 1)


def test_files_with_any_names_have_the_roles_that_the_settings_name(tmp_path: Path) -> None:
    names = dict(zip(EMNIST, ("a b.idx", "c.idx", "d.idx", "e.idx"), strict=True))
    own = own_idx(tmp_path / "letters", names, IMAGES, LABELS)
    with pytest.raises(DataError, match="expected one named train-images"):
        pinned_idx(tmp_path, own)
    raw = pinned_idx(tmp_path, own, roles={**names, "train_images": "a b.idx"})
    np.testing.assert_array_equal(raw.train.images[..., 0], IMAGES)
    with pytest.raises(DataError, match=r"expected one named f\.idx, found a b\.idx, c\.idx"):
        pinned_idx(tmp_path, own, roles={**names, "test_labels": "f.idx"})
