"""Own images: a folder or a table becomes one pinned file, and what comes out is upright, whole and of one size."""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import DataError, ParamsError
from pipeline.datasets import decoding, packing
from pipeline.datasets.arrays import RawImages
from pipeline.datasets.formats import folder, table

SECTION = {"format": "folder", "size": [16, 16], "channels": 3, "test_fraction": 0.25, "seed": 0}


def save(path: Path, size: tuple[int, int] = (20, 20), colour: Any = (200, 40, 40), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def fill(root: Path, per_class: int = 8) -> None:
    for label, red in (("cat", 100), ("dog", 200)):
        for index in range(per_class):
            save(root / label / f"{index}.png", (10 + index, 30 - index), (red, index, 0))


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def pinned(project: Path, **more: Any) -> dict[str, Any]:
    """Pin own images as `pipeline ingest` does, and return the section that comes of it."""
    from ruamel.yaml import YAML

    from pipeline.project.params_edit import override

    section = {**SECTION, "path": "pets", **more}
    text = override("download: {}\ndatasets: [pets]\n", [f"download.pets={section!r}"])
    text = override(text, packing.pins(YAML(typ="safe").load(text), project, project))
    loaded: dict[str, Any] = YAML(typ="safe").load(text)["download"]["pets"]
    return loaded


def read(project: Path, **more: Any) -> RawImages:
    settings = folder.Settings.model_validate(pinned(project, **more))
    return folder.read(project / "data/own/pets", settings)


def test_a_folder_becomes_a_dataset(tmp_path: Path) -> None:
    fill(tmp_path / "pets")
    raw = read(tmp_path)
    assert raw.class_names == ("cat", "dog")
    assert raw.train.images.shape == (12, 16, 16, 3)
    assert np.bincount(raw.test.labels).tolist() == [2, 2]
    reds = raw.train.images[:, 8, 8, 0]
    assert (reds == np.array([100, 200])[raw.train.labels]).all()


def test_train_and_test_folders_are_kept(tmp_path: Path) -> None:
    fill(tmp_path / "pets/train", 5)
    fill(tmp_path / "pets/test", 3)
    raw = read(tmp_path)
    assert (len(raw.train), len(raw.test)) == (10, 6)


def test_a_table_is_the_same_as_a_folder(tmp_path: Path) -> None:
    fill(tmp_path / "pets")
    lines = [f"{label}/{index}.png,{label}" for label in ("cat", "dog") for index in range(8)]
    (tmp_path / "pets/pets.csv").write_text("\n".join(["path,label", *lines]))
    entries = table.collect(tmp_path / "pets/pets.csv")
    (tmp_path / "pets/pets.csv").unlink()
    assert [entry.path for entry in entries] == [entry.path for entry in folder.collect(tmp_path / "pets")]
    assert packing.classes("pets", entries) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("file,label\n", "columns: expected path, label, found"),
        ("path,label\n../secret.png,cat\n", "line 2 .path is outside the folder"),
        ("path,label\ncat/99.png,cat\n", "line 2 .no such picture: 'cat/99.png'"),
        ("path,label,split\ncat/0.png,cat,dev\n", "line 2 .split: expected train, val or test, found 'dev'"),
        ("path,label\ncat/0.png,a/b\n", "classes: expected at least two classes"),
    ],
)
def test_a_wrong_table_is_told(tmp_path: Path, text: str, told: str) -> None:
    fill(tmp_path / "pets")
    save(tmp_path / "secret.png")
    (tmp_path / "pets/pets.csv").write_text(text)
    with pytest.raises(DataError, match=told):
        pinned(tmp_path, format="table", path="pets/pets.csv")


def test_the_pin_changes_exactly_when_the_images_do(tmp_path: Path) -> None:
    fill(tmp_path / "pets")
    first = pinned(tmp_path)
    os.utime(tmp_path / "pets/cat/0.png", (0, 0))
    assert pinned(tmp_path) == first
    save(tmp_path / "pets/cat/0.png", colour=(1, 2, 3))
    changed = pinned(tmp_path)
    assert changed["files"] != first["files"]
    packs = {path.name for path in (tmp_path / "data/own/pets").iterdir()}
    assert {file["name"] for file in first["files"] + changed["files"]} == packs


def test_what_is_pinned_is_enough_where_the_images_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "pets")
    section = pinned(tmp_path)
    (tmp_path / "pets").rename(tmp_path / "gone")
    assert pinned(tmp_path, **section) == section
    assert "does not exist; using the pinned file" in capsys.readouterr().err


def test_images_that_are_not_pinned_yet_are_told_with_what_to_do(tmp_path: Path) -> None:
    from pipeline.core import params

    with pytest.raises(ParamsError, match="own images are not pinned: run `pipeline ingest`"):
        params.parse("download.pets", {**SECTION, "path": "pets"}, folder.Settings)


def test_few_pictures_change_sides_when_some_are_added() -> None:
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 1), dtype=np.uint8)
    labels = np.repeat(np.arange(2), 100)
    before = folder.choose_test(images[10:], labels[10:], 0.2, 0)
    after = folder.choose_test(images, labels, 0.2, 0)[10:]
    assert (before != after).sum() <= 4
    doubled = folder.choose_test(np.repeat(images, 2, axis=0), np.repeat(labels, 2), 0.2, 0)
    assert (doubled[::2] == doubled[1::2]).all(), "copies go together"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda root: (root / "notes.txt").write_text("x"), "a file next to the class folders"),
        (lambda root: (root / "cat/notes.txt").write_text("x"), "does not have the suffix of a picture"),
        (lambda root: (root / "cat/0").mkdir(), "does not have the suffix of a picture"),
        (lambda root: (root / "cat/out.png").symlink_to(root.parent / "secret.png"), "is a link out of the folder"),
        (lambda root: [path.unlink() for path in (root / "cat").iterdir()], "cat .a class without pictures"),
        (
            lambda root: [path.rename(root / "dog" / f"c{path.name}") for path in (root / "cat").iterdir()],
            "a class without",
        ),
    ],
)
def test_what_is_no_picture_is_never_passed_over(tmp_path: Path, damage: Any, told: str) -> None:
    fill(tmp_path / "pets")
    save(tmp_path / "secret.png")
    damage(tmp_path / "pets")
    with pytest.raises(DataError, match=told):
        pinned(tmp_path)


def test_damaged_pictures_are_named_one_by_one(tmp_path: Path) -> None:
    fill(tmp_path / "pets")
    (tmp_path / "pets/cat/1.png").write_bytes(b"GIF89a")
    (tmp_path / "pets/cat/2.png").write_bytes((tmp_path / "pets/cat/2.png").read_bytes()[:-30])
    (tmp_path / "pets/dog/0.png").write_bytes(png_header(100_000, 100_000) + bytes(100))
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert "3 files beside 13 pictures cannot be used" in message
    assert re.search(r"found cat/1.png \(not a PNG, JPEG.+\), cat/2.png \(.+\), dog/0.png \(.+\);", message)


def encoded(image: Image.Image, form: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def test_a_picture_keeps_its_proportions_and_gets_black_beside_it() -> None:
    wide = decoding.decode(encoded(Image.new("L", (40, 20), 255)), (16, 16), 1)[..., 0]
    assert (wide[4:12] == 255).all()
    assert not wide[:4].any()
    assert not wide[12:].any()


def test_exif_orientation_is_applied() -> None:
    image = Image.new("L", (16, 16))
    image.paste(255, (0, 0, 16, 8))  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown rotated by 90° clockwise
    shown = decoding.decode(encoded(image, "JPEG", exif=exif.tobytes(), quality=95), (16, 16), 1)[..., 0]
    assert shown[:, 10:].mean() > 250
    assert shown[:, :6].mean() < 5


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), [0, 0, 0]),
        (Image.new("L", (8, 8), 77), [77, 77, 77]),
        (Image.fromarray(np.full((8, 8), 200 << 8, np.uint16)), [200, 200, 200]),
        (Image.new("1", (8, 8), 1), [255, 255, 255]),
        (Image.new("RGB", (8, 8), (9, 8, 7)).quantize(2), [9, 8, 7]),
    ],
)
def test_every_kind_of_png_becomes_colour(image: Image.Image, expected: list[int]) -> None:
    assert decoding.decode(encoded(image), (8, 8), 3)[4, 4].tolist() == expected


@pytest.mark.parametrize(
    "names", [("\N{CAT FACE}", "\N{DOG FACE}"), ("caf\u00e9", "the\u0301"), ("$_$", "$^$"), ("a'b\"", "x: #y")]
)
def test_class_names_of_any_kind_are_found_again_and_drawn(tmp_path: Path, names: tuple[str, str]) -> None:
    import unicodedata

    from pipeline.datasets import batches
    from pipeline.validation import plots

    for name, colour in zip(names, (100, 200), strict=True):
        for index in range(8):
            save(tmp_path / "pets" / unicodedata.normalize("NFD", name) / f"{index}.png", colour=(colour, index, 0))
    raw = read(tmp_path)
    assert raw.class_names == tuple(sorted(unicodedata.normalize("NFC", name) for name in names))
    assert len(plots.draw({"train": raw.train, "test": raw.test}, raw.class_names, seed=0)["balance"]) > 1000
    assert len(batches.read(tmp_path / "pets", (16, 16, 3), raw.class_names)) == 16


def test_two_folders_with_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("caf\u00e9", "cafe\u0301", "tea"):
        save(tmp_path / "pets" / name / "1.png")
    with pytest.raises(DataError, match="two folders of one class"):
        folder.collect(tmp_path / "pets")


def test_two_packings_at_once_do_not_mix(tmp_path: Path) -> None:
    """The first packing is halfway when the second one begins and ends."""
    fill(tmp_path / "pets")
    fill(tmp_path / "other", 5)
    inner: list[dict[str, Any]] = []

    class Halfway(folder.Entry):
        @property
        def name(self) -> str:  # type: ignore[override]
            inner[:] = inner or [packing.pack("other", folder.collect(tmp_path / "other"), tmp_path / "own")]
            return "5.png"

    entries = folder.collect(tmp_path / "pets")
    object.__setattr__(entries[5], "__class__", Halfway)
    outer = packing.pack("pets", entries, tmp_path / "own")
    for pin in (outer, inner[0]):
        content = (tmp_path / "own" / pin["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == pin["sha256"]
        with zipfile.ZipFile(tmp_path / "own" / pin["name"]) as archive:
            assert archive.testzip() is None
    assert len(list((tmp_path / "own").iterdir())) == 2
