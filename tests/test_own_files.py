"""Layouts of folders and archives as they come, and what lies among pictures: passed over, counted, or named."""

from __future__ import annotations

import csv
import io
import re
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipeline.cli import main
from pipeline.core import params
from pipeline.core.errors import DataError
from pipeline.datasets import bars, batches, covers, decoding, packing
from pipeline.datasets.arrays import RawImages
from pipeline.datasets.formats import folder, table
from pipeline.project.params_edit import override
from pipeline.stages import prepare
from pipeline.validation import suites

ROOT = Path(__file__).resolve().parents[1]
SIZE = (8, 8)


def picture(seed: int, form: str = "PNG", shape: tuple[int, ...] = (8, 8, 3), **more: Any) -> bytes:
    """Return a picture of noise."""
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(content, form, **more)
    return content.getvalue()


def fill(root: Path, places: str = "", per_class: int = 6, seed: int = 0) -> Path:
    """Write pictures of cats and dogs below each place, and return the root."""
    for at, place in enumerate(places.split()) if places else [(0, ".")]:
        for number, label in enumerate(("cat", "dog")):
            (root / place / label).mkdir(parents=True)
            for index in range(per_class):
                key = seed + 1000 * at + 100 * number + index
                (root / place / label / f"{index}.png").write_bytes(picture(key))
    return root


def pinned(project: Path, pets: Path, skip: bool = False, **more: Any) -> dict[str, Any]:
    """Pin pictures as `pipeline ingest` does, and return the section of params with its pins."""
    section = {"format": "folder", "path": str(pets), "size": list(SIZE), "channels": 3, **more}
    section = {key: value for key, value in section.items() if value is not None}
    text = override("download: {}\ndatasets: [pets]\n", [f"download.pets={section!r}"])
    content = YAML(typ="safe").load(text)
    text = override(text, packing.pins(content, project, project, skip_damaged=skip))
    loaded: dict[str, Any] = YAML(typ="safe").load(text)["download"]["pets"]
    return loaded


def read(project: Path, path: Path, **more: Any) -> RawImages:
    source = {"table": table, "folder": folder}[more.get("format", "folder")]
    return source.read(project / "data/own/pets", source.Settings.model_validate(pinned(project, path, **more)))


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    "places", ["train val test", "Train VALID Test", "TRAINING validation testing", "in/train in/val in/test"]
)
def test_folders_of_splits_have_names_in_any_case_and_val_joins_train(tmp_path: Path, places: str) -> None:
    raw = read(tmp_path, fill(tmp_path / "pets", places))
    assert (len(raw.train), len(raw.test), raw.validation) == (24, 12, None)


def test_validation_is_kept_where_the_settings_say_so(tmp_path: Path) -> None:
    raw = read(tmp_path, fill(tmp_path / "pets", "train val test"), validation="keep")
    assert raw.validation is not None
    assert (len(raw.train), len(raw.test), int(raw.validation.sum())) == (24, 12, 12)
    splits = prepare.run(raw, prepare.PrepareSettings(val_fraction=0.5, seed=0)).splits
    given = {image.tobytes() for image in raw.train.images[raw.validation]}
    assert {image.tobytes() for image in splits.val.images} == given


def test_a_kept_validation_has_nothing_that_is_in_train(tmp_path: Path) -> None:
    pets = fill(tmp_path / "pets", "train val test")
    (pets / "val/cat/0.png").write_bytes((pets / "train/cat/0.png").read_bytes())
    raw = read(tmp_path, pets, validation="keep")
    assert len(prepare.run(raw, prepare.PrepareSettings(val_fraction=0.5, seed=0)).splits.val) == 11


def test_without_a_test_folder_test_pictures_are_chosen_and_a_kept_validation_is_not_among_them(tmp_path: Path) -> None:
    pets = fill(tmp_path / "pets", "train val", per_class=10)
    joined, kept = read(tmp_path, pets), read(tmp_path, pets, validation="keep")
    assert (len(joined.train), len(joined.test)) == (32, 8)
    assert kept.validation is not None
    assert (len(kept.train), len(kept.test), int(kept.validation.sum())) == (36, 4, 20)


@pytest.mark.parametrize("around", ["", "pets", "archive/pets/images"])
def test_folders_around_everything_are_passed_through(tmp_path: Path, around: str) -> None:
    fill(tmp_path / "pets" / around)
    raw = read(tmp_path, tmp_path / "pets")
    assert (raw.class_names, len(raw.train) + len(raw.test)) == (("cat", "dog"), 12)


@pytest.mark.parametrize("places", ["", "pets", "pets/train pets/test"])
def test_a_zip_of_folders_is_the_same_as_the_folders(tmp_path: Path, places: str) -> None:
    pets = fill(tmp_path / "pets", places)
    with zipfile.ZipFile(tmp_path / "pets.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(pets.rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
        archive.writestr("__MACOSX/pets/._cat", b"\0" * 64)
    assert pinned(tmp_path, tmp_path / "pets.zip")["files"] == pinned(tmp_path, pets)["files"]


def test_classes_called_train_and_bus_are_classes(tmp_path: Path) -> None:
    pets = fill(tmp_path / "pets")
    (pets / "cat").rename(pets / "train")
    (pets / "dog").rename(pets / "bus")
    assert pinned(tmp_path, pets)["classes"] == ["bus", "train"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda pets: (pets / "val").rename(pets / "Train"), "two folders of one split: .* found Train and train"),
        (lambda pets: (pets / "val").rename(pets / "extra"), "extra .is neither train nor val nor test"),
        (lambda pets: (pets / "test/1.png").write_bytes(picture(9)), r"test/1\.png .a file next to the class folders"),
        (lambda pets: (pets / "train/cat").rename(pets / "train/dog "), "class: .*'dog' and 'dog ' differ by a blank"),
    ],
)  # fmt: skip
def test_a_layout_that_means_two_things_is_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    pets = fill(tmp_path / "pets", "train val test")
    spoil(pets)
    with pytest.raises(DataError, match=message):
        pinned(tmp_path, pets)


# ---------------------------------------------------------------- litter, formats, errors


def test_litter_is_passed_over_with_one_line_that_counts_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = fill(tmp_path / "pets")
    clean = pinned(tmp_path, pets)
    for name in ("cat/Thumbs.db", "cat/desktop.ini", "dog/.DS_Store", "dog/._1.png", "README.md", "dog/THUMBS.DB"):
        (pets / name).write_bytes(b"\0" * 64)
    (pets / ".ipynb_checkpoints").mkdir()
    (pets / ".ipynb_checkpoints/1.png").write_bytes(picture(9))
    capsys.readouterr()
    assert pinned(tmp_path, pets) == clean
    lines = [line for line in capsys.readouterr().err.splitlines() if "passed over" in line]
    assert len(lines) == 1
    assert lines[0].startswith("pets: 7 files of other programs passed over: ")
    assert "Thumbs.db" in lines[0]


def test_pictures_in_a_format_that_is_not_read_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = fill(tmp_path / "pets")
    for name in ("cat/IMG_1.HEIC", "cat/IMG_2.heic", "dog/3.dng"):
        (pets / name).write_bytes(b"\0" * 64)
    assert len(pinned(tmp_path, pets)["classes"]) == 2
    assert "pets: 3 pictures passed over, because DNG and HEIC are not read" in (said := capsys.readouterr().err)
    assert "next: save a copy as JPEG or PNG in the same folder" in said
    (pets / "cat/IMG_1.jpg").write_bytes(picture(7, "JPEG"))
    pinned(tmp_path, pets)
    assert "pets: 13 pictures of 2 classes pinned" in capsys.readouterr().err


def test_webp_tiff_bmp_and_the_first_frame_of_gif_are_read(tmp_path: Path) -> None:
    pets = fill(tmp_path / "pets", per_class=1)
    pixels = np.random.default_rng(5).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    first, other = Image.fromarray(pixels).quantize(64), Image.fromarray(255 - pixels).quantize(64)
    first.save(pets / "cat/a.gif", save_all=True, append_images=[other])
    for name, more in {"b.webp": {"lossless": True}, "c.tiff": {}, "d.BMP": {}}.items():
        first.convert("RGB").save(pets / "cat" / name, **more)
    first.convert("RGB").save(pets / "cat/e.tif", save_all=True, append_images=[other.convert("RGB")])
    raw = read(tmp_path, pets, test_fraction=0.01)
    cats = raw.train.images[raw.train.labels == 0][1:]
    assert len(cats) == 5
    assert (cats == np.asarray(first.convert("RGB"))).all()


def test_errors_of_many_files_are_counted_escaped_and_listed(tmp_path: Path) -> None:
    pets = fill(tmp_path / "pets", per_class=12)
    for index in range(7):
        (pets / f"cat/no\u00a0break{index}.png").write_bytes(b"GIF89a")
    with pytest.raises(DataError) as caught:
        pinned(tmp_path, pets)
    message, listed = str(caught.value), tmp_path / "data/own/pets/damaged.csv"
    assert "pets: 7 files beside 24 pictures cannot be used" in message
    assert message.count("no\\xa0break") == 5
    assert f"and 2 more; {listed} lists all of them; next: fix or remove them" in message
    with listed.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == [f"no\\xa0break{index}.png" for index in range(7)]
    assert all("not a PNG, JPEG" in row["fault"] for row in rows)
    assert not list((tmp_path / "data/own/pets").glob("*.zip")), "nothing is pinned"


@pytest.mark.parametrize(
    ("name", "content"),
    [("notes.txt", b"x"), ("cat/1.csv", b"x"), ("cat/cut.png", picture(3)[:90]), ("dog/a.png", b"")],
)
def test_skip_damaged_goes_on_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    pets = fill(tmp_path / "pets")
    clean = pinned(tmp_path, pets)
    (pets / name).write_bytes(content)
    with pytest.raises(DataError, match="or call `pipeline ingest` or `run` with --skip-damaged"):
        pinned(tmp_path, pets)
    section = pinned(tmp_path, pets, skip=True)
    assert section == {**clean, "skip_damaged": True}
    assert "pets: 1 file left out that cannot be used, see " in capsys.readouterr().err
    assert pinned(tmp_path, pets, **section) == section, "the setting is enough"
    for command in (["ingest"], ["run", "--workspace", "w"]):
        assert main.parser().parse_args([*command, "--skip-damaged"]).skip_damaged


def test_skip_damaged_never_loses_a_class(tmp_path: Path) -> None:
    pets = fill(tmp_path / "pets", per_class=2)
    for index in range(2):
        (pets / f"cat/{index}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"class cat \(none of its pictures can be read"):
        pinned(tmp_path, pets, skip=True)


def test_one_refusal_names_all_that_is_wrong(tmp_path: Path) -> None:
    pets = fill(tmp_path / "pets", per_class=3)
    (pets / "empty").mkdir()
    (pets / "cat/0.png").write_bytes(b"")
    (pets / "cat/<script>.txt").write_bytes(b"x")
    (pets / "notes.txt").write_bytes(b"x")
    with pytest.raises(DataError, match="4 files beside 5 pictures") as caught:
        pinned(tmp_path, pets)
    assert all(name in str(caught.value) for name in ("empty (a class", "cat/0.png", "cat/<script>.txt", "notes.txt"))


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(
    "text",
    [
        "path, label\n{0}, cat\n{1}, dog\n",
        "\ufeffPath,Label\n{0},cat\n{1}, dog\n",
        " path ; label\n {0} ;cat \n{1};\u00a0dog\n",
        "path\tlabel\n{0}\tcat\n{1}\tdog\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_blanks_marks_and_other_separators_in_a_table_do_not_count(tmp_path: Path, text: str, encoding: str) -> None:
    pets = fill(tmp_path / "pets")
    (pets / "pets.csv").write_text(text.format("cat/0.png", "dog\\0.png"), encoding=encoding)
    entries = table.collect(pets / "pets.csv")
    assert [(entry.label, entry.name) for entry in entries] == [("cat", "0000002-0.png"), ("dog", "0000003-0.png")]


@pytest.mark.parametrize("other", ["cat ", " cat", "cat\u00a0", "cat\u200b"])
def test_labels_that_differ_by_a_blank_are_one_class_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: str
) -> None:
    pets = fill(tmp_path / "pets")
    rows = [("cat/0.png", "cat"), ("cat/1.png", other), ("cat/2.png", "cat"), ("dog/0.png", "dog")]
    (pets / "pets.csv").write_text("path,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    assert pinned(tmp_path, pets / "pets.csv", format="table")["classes"] == ["cat", "dog"]
    line = next(line for line in capsys.readouterr().err.splitlines() if "differ" in line)
    escaped = other.replace("\u00a0", "\\xa0").replace("\u200b", "\\u200b")
    assert f"'cat' and '{escaped}' differ by a blank" in line


def test_a_table_has_three_splits_too(tmp_path: Path) -> None:
    pets = fill(tmp_path / "pets", per_class=8)
    splits = ["Train", " train", "VALID", "val", "validation", "test", "Test", "train"]
    rows = [f"{label}/{index}.png,{label},{split}" for label in ("cat", "dog") for index, split in enumerate(splits)]
    (pets / "pets.csv").write_text("\n".join(["path,label,split", *rows]))
    raw = read(tmp_path, pets / "pets.csv", format="table", validation="keep")
    assert raw.validation is not None
    assert (len(raw.train), len(raw.test), int(raw.validation.sum())) == (12, 4, 6)


# ---------------------------------------------------------------- what a whole set shows


def ink(level: int, seed: int) -> Image.Image:
    """Return a stroke of a grey level on a transparent ground."""
    pixels = np.full((*SIZE, 4), level, np.uint8)
    pixels[..., 3] = 0
    pixels[seed % 8, 1:7, 3] = 255
    return Image.fromarray(pixels)


def draw(pets: Path, *pictures: Image.Image, form: str = "png") -> Path:
    """Save each picture for both classes."""
    for index, image in enumerate(pictures):
        for label in ("cat", "dog"):
            (pets / label).mkdir(parents=True, exist_ok=True)
            image.save(pets / label / f"{index}.{form}")
    return pets


def deep(peak: int, form: type[np.generic] = np.uint16) -> Image.Image:
    """Return a grey picture of 16 bits with levels up to a peak."""
    return Image.fromarray(np.linspace(0, peak, 64).astype(form).reshape(SIZE))


@pytest.mark.parametrize(("bits", "form"), [(12, "png"), (10, "png"), (8, "png"), (14, "png"), (12, "tiff")])
def test_values_of_few_bits_in_16_bit_files_are_read_with_their_depth_or_not_at_all(
    tmp_path: Path, bits: int, form: str
) -> None:
    peak = 2**bits - 1
    pets = draw(tmp_path / "pets", deep(peak // 3), deep(peak), form=form)
    with pytest.raises(
        DataError, match=rf"at most {peak:,} in the whole set, .* set depth: {bits} in download\.pets"
    ) as error:
        pinned(tmp_path, pets, channels=1)
    assert "\n" not in str(error.value)
    raw = read(tmp_path, pets, channels=1, depth=bits)
    images = np.concatenate([raw.train.images, raw.test.images])
    assert images.max() == 255
    assert len(np.unique(images)) > 60


def test_16_bit_files_that_fill_their_range_need_no_depth_and_a_dark_one_among_them_is_no_reason(
    tmp_path: Path,
) -> None:
    pets = draw(tmp_path / "pets", deep(1000), deep(50_000))
    raw = read(tmp_path, pets, channels=1)
    assert np.concatenate([raw.train.images, raw.test.images]).max() == 50_000 >> 8


def test_values_beyond_the_depth_stop_with_the_depth_they_need(tmp_path: Path) -> None:
    pets = draw(tmp_path / "pets", deep(4095), deep(900))
    with pytest.raises(DataError, match=r"expected values of 10 bits, .* next: set depth: 12 in download\.pets"):
        pinned(tmp_path, pets, channels=1, depth=10)
    settings = folder.Settings.model_validate({**pinned(tmp_path, pets, channels=1, depth=12), "depth": 10})
    with pytest.raises(DataError, match=r"set depth: 12 in the dataset's section of params\.yaml"):
        folder.read(tmp_path / "data/own/pets", settings)


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """Return a PNG file with 16 bits a channel in colour, which Pillow cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    framed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def test_colours_of_few_bits_in_16_bit_files_are_refused(tmp_path: Path) -> None:
    pets = fill(tmp_path / "pets", per_class=2)
    pixels = np.random.default_rng(0).integers(0, 4096, (*SIZE, 3))
    (pets / "cat/deep.png").write_bytes(png_of_16_bits(pixels))
    with pytest.raises(DataError, match=r"12 bits in .*deep\.png; next: convert them to 8 bits a channel"):
        pinned(tmp_path, pets)
    assert pinned(tmp_path, pets, depth=16)
    (pets / "cat/deep.png").write_bytes(png_of_16_bits(pixels * 16))
    assert pinned(tmp_path, pets)


def test_floating_point_values_are_refused_by_name(tmp_path: Path) -> None:
    pets = draw(tmp_path / "pets", deep(1, np.float32), form="tiff")
    with pytest.raises(DataError, match=r"cat/0\.tiff .holds floating-point values: save it with 8 or 16 bits"):
        pinned(tmp_path, pets, channels=1)


@pytest.mark.parametrize("level", [0, 40, 80])
@pytest.mark.parametrize("palette", [False, True])
def test_dark_ink_on_a_transparent_ground_stops_with_the_setting_and_is_kept_on_white(
    tmp_path: Path, level: int, palette: bool
) -> None:
    images = [ink(level, seed) for seed in range(4)]
    pets = draw(tmp_path / "pets", *[image.quantize(4) if palette else image for image in images])
    with pytest.raises(
        DataError, match=r"8 of 8 transparent pictures .* next: set background: white in download\.pets"
    ):
        pinned(tmp_path, pets, channels=1)
    white = read(tmp_path, pets, channels=1, background="white").train.images
    assert (white.min(), white.max()) == (level, 255)
    black = read(tmp_path, pets, channels=1, background="black").train.images
    assert (black.min(), black.max()) == (0, level)
    with pytest.raises(
        DataError, match=r"8 files beside 0 pictures cannot be used: .*cat/0\.png .has transparent pixels"
    ):
        pinned(tmp_path / "other", pets, channels=1, background="refuse")


def test_light_ink_on_a_transparent_ground_and_opaque_pictures_with_alpha_are_read_as_before(tmp_path: Path) -> None:
    dark = Image.fromarray(np.random.default_rng(0).integers(0, 60, (*SIZE, 3), dtype=np.uint8)).convert("RGBA")
    images = read(tmp_path, draw(tmp_path / "pets", ink(200, 1), ink(255, 2), dark), channels=1).train.images
    assert (images.min(axis=(1, 2, 3)) < 20).all()


def test_bars_have_the_colour_of_the_background(tmp_path: Path) -> None:
    wide = Image.new("RGB", (16, 8), (90, 90, 90))
    pets = draw(tmp_path / "pets", wide, wide)
    for background, level in {"white": 255, "black": 0}.items():
        image = read(tmp_path, pets, background=background).train.images[0]
        assert (image[:2] == level).all()
        assert (image[2:6] == 90).all()


def test_pictures_of_another_shape_are_cropped_or_stretched_where_the_settings_say_so(tmp_path: Path) -> None:
    levels = np.repeat(np.array([10, 100, 200, 250], np.uint8), 4)
    wide = Image.fromarray(np.tile(levels, (8, 1)))
    pets = draw(tmp_path / "pets", wide, wide)
    rows = {fit: read(tmp_path, pets, fit=fit, channels=1).train.images[0, 4, :, 0] for fit in ("crop", "stretch")}
    assert rows["crop"].tolist() == [100] * 4 + [200] * 4
    assert rows["stretch"][[0, 7]].tolist() == [10, 250]


# ---------------------------------------------------------------- bars


def test_a_size_that_wastes_less_is_named_at_import_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 20, 3), dtype=np.uint8)
    pets = draw(tmp_path / "pets", *map(Image.fromarray, noise))
    section = pinned(tmp_path, pets, size=[64, 64])
    said = capsys.readouterr().err
    assert "pets: most pictures are 1:2 (width:height): size [64, 32] would leave 0% of the frame to bars" in said
    assert "where [64, 64] leaves 50%" in said
    pinned(tmp_path, pets, **section)
    pinned(tmp_path, pets, size=[64, 64])
    pinned(tmp_path / "other", pets, size=[64, 32])
    pinned(tmp_path / "third", pets, size=[64, 64], fit="crop")
    assert "most pictures" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shapes", "size", "said"),
    [
        ([(30, 40)] * 9 + [(40, 30)], (32, 32), "4:3 (width:height): size [24, 32]"),
        ([(90, 160)] * 5, (64, 64), "16:9 (width:height): size [36, 64]"),
        ([(40, 40)] * 5, (32, 64), "1:1 (width:height): size [64, 64]"),
        ([(30, 40), (40, 30)] * 5, (32, 32), None),
        ([(30, 32)] * 5, (32, 32), None),
        ([], (32, 32), None),
    ],
)
def test_the_size_that_is_named_wastes_less(
    shapes: list[tuple[int, int]], size: tuple[int, int], said: str | None
) -> None:
    line = bars.advice(shapes, size)
    if said is None:
        assert line is None
        return
    assert line is not None
    assert f"most pictures are {said} would" in line
    height, width = (int(side) for side in re.findall(r"size \[(\d+), (\d+)\]", line)[0])
    assert bars.waste(shapes, (height, width)) < bars.waste(shapes, size) - 0.1


def strangers(folder_: Path, height: int, width: int, count: int = 12) -> list[np.ndarray]:
    """Save bright pictures that have nothing to do with each other."""
    random = np.random.default_rng(height)
    pictures = []
    for index in range(count):
        pixels = np.clip(215 + random.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)
        folder_.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder_ / f"{index}.png")
        pictures.append(pixels)
    return pictures


def test_bars_make_no_near_duplicates_of_strangers_and_hide_none(tmp_path: Path) -> None:
    tall = strangers(tmp_path / "pets/cat", 32, 16)
    strangers(tmp_path / "pets/dog", 16, 32)
    Image.fromarray(np.clip(tall[3].astype(int) + 20, 0, 255).astype(np.uint8)).save(tmp_path / "pets/cat/copy.png")
    raw = read(tmp_path, tmp_path / "pets", size=[32, 32], test_fraction=0.01)
    settings = params.load("validate", suites.ValidateSettings, ROOT / "params.yaml")
    with_bars = suites.near_duplicates({"train": replace(raw.train, covers=None)}, settings, "pets").within(0.15)
    assert len(with_bars) > 20, "with their bars, strangers are alike"
    pairs = suites.near_duplicates({"train": raw.train}, settings, "pets").within(0.15)
    assert [{raw.train.files[a], raw.train.files[b]} for a, b in zip(pairs.first, pairs.second, strict=True)] == [
        {"cat/3.png", "cat/copy.png"}
    ]


def test_what_a_picture_covers_is_inferred_for_images_of_batches(tmp_path: Path) -> None:
    strangers(tmp_path / "pets/cat", 32, 16)
    strangers(tmp_path / "pets/dog", 16, 32)
    strangers(tmp_path / "pets/dog", 32, 32, count=4)
    raw = read(tmp_path, tmp_path / "pets", size=[32, 32], test_fraction=0.01, background="white")
    found = covers.inferred(raw.train.images, raw.train, 255)
    assert found is not None
    assert raw.train.covers is not None
    assert (found == raw.train.covers).all()
    batch = batches.read(tmp_path / "pets", (32, 32, 3), raw.class_names, reading=raw.reading)
    assert batch.covers is not None
    assert len(np.unique(batch.covers, axis=0)) == 3


@pytest.mark.parametrize(
    ("form", "more"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})]
)
def test_orientation_is_applied_once_in_every_format(form: str, more: dict[str, Any]) -> None:
    levels = Image.fromarray(np.repeat(np.repeat(np.array([[250, 10], [10, 10]], np.uint8), 4, axis=0), 8, axis=1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90° clockwise: the bright corner comes to the right
    content = io.BytesIO()
    levels.save(content, form, exif=exif, **more)
    shown = decoding.decode(content.getvalue(), (16, 8), 1)[..., 0]
    assert shown[:6, 5:].mean() > 200
    assert shown[10:].mean() < 50
    assert shown[:, :3].mean() < 50
    sight = decoding.look(content.getvalue(), decoding.PLAIN)
    assert (sight.height, sight.width) == (16, 8)
