"""Tables of pixels: read as their columns and settings say, upright and whole, or refused with the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import DataError
from pipeline.datasets import packing
from pipeline.datasets.arrays import RawImages
from pipeline.datasets.formats import pixels
from tests.test_own_files import pinned

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
LABELS = np.tile([1, 10], 10)


def text(images: np.ndarray = IMAGES, header: str = "label,pixel0", last: bool = False, mark: str = ",") -> str:
    """Return a table, with a header that starts as given, or none."""
    flat = images.reshape(len(images), -1)
    columns = [] if not header else [header.split(",")[0], *(f"pixel{place}" for place in range(flat.shape[1]))]
    rows = [columns] if columns else []
    rows += [[str(label), *map(str, row)] for label, row in zip(LABELS, flat, strict=True)]
    return "\n".join(mark.join(row[1:] + row[:1] if last else row) for row in rows) + "\n"


def read(project: Path, path: Path, **more: Any) -> RawImages:
    section = pinned(project, path, **{"format": "pixels", "size": None, "channels": 1, **more})
    return pixels.read(project / "data/own/pets", pixels.Settings.model_validate(section))


def everything(raw: RawImages) -> dict[bytes, str]:
    """Return the class of every image."""
    return {
        image.tobytes(): raw.class_names[label]
        for part in (raw.train, raw.test)
        for image, label in zip(part.images, part.labels, strict=True)
    }


ONE_CELL = "label,pixels\n" + "\n".join(row.replace(" ", ",", 1) for row in text(header="", mark=" ").splitlines())
EXPECTED = {image.tobytes(): str(label) for image, label in zip(IMAGES, LABELS, strict=True)}


@pytest.mark.parametrize(
    ("content", "more"),
    [
        (text(), {}),
        (text(header=""), {}),
        (text(header="\ufeff Label"), {}),
        (text(last=True), {}),
        (text(header="digit"), {"label": "digit"}),
        (text(mark=";"), {"size": [4, 4]}),
        (text(IMAGES.transpose(0, 2, 1)), {"transpose": True}),
        (ONE_CELL, {}),
    ],
    ids=["kaggle", "no header", "blanks", "label last", "another label", "semicolons", "transposed", "one cell"],
)  # fmt: skip
def test_a_line_is_an_image(tmp_path: Path, content: str, more: dict[str, Any]) -> None:
    (tmp_path / "train.csv").write_text(content, encoding="utf-8")
    raw = read(tmp_path, tmp_path / "train.csv", **more)
    assert everything(raw) == EXPECTED
    assert raw.train.images.shape[1:] == (4, 4, 1)


def test_images_need_not_be_square_nor_grey(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(text(IMAGES.reshape(20, 2, 8)))
    assert read(tmp_path, tmp_path / "train.csv", size=[2, 8]).train.images.shape[1:] == (2, 8, 1)
    colours = np.random.default_rng(1).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    (tmp_path / "train.csv").write_text(text(colours))
    found = read(tmp_path, tmp_path / "train.csv", channels=3)
    assert set(everything(found)) == {image.tobytes() for image in colours}


def test_a_table_may_have_splits_and_groups(tmp_path: Path) -> None:
    header, *rows = text().splitlines()
    ends = [("train", "anna"), ("Train", "bert"), ("test", "cleo"), ("test", "dora")] * 5
    lines = [f"{row},{split},{group}" for row, (split, group) in zip(rows, ends, strict=True)]
    (tmp_path / "train.csv").write_text("\n".join([f"{header},split,group", *lines]))
    raw = read(tmp_path, tmp_path / "train.csv")
    assert (set(raw.train.groups), set(raw.test.groups)) == ({"anna", "bert"}, {"cleo", "dora"})


def test_a_folder_has_a_table_for_each_split(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/fashion-mnist_train.csv").write_text(text())
    (tmp_path / "csv/fashion-mnist_test.csv").write_text(text(255 - IMAGES))
    raw = read(tmp_path, tmp_path / "csv")
    assert (len(raw.train), len(raw.test)) == (20, 20)
    assert {image.tobytes() for image in raw.test.images} == {image.tobytes() for image in 255 - IMAGES}
    (tmp_path / "csv/more.csv").write_text(text())
    with pytest.raises(DataError, match=r"tables: expected one CSV file with train in its name"):
        read(tmp_path, tmp_path / "csv")


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (text(header="digit"), {}, r"columns: expected one called label, .* next: set label: to the column"),
        (text(IMAGES[:, :3]), {}, r"expected a square number of pixels .* found 12; next: set size: \[height, width\]"),
        (text(), {"size": [4, 5]}, r"expected 4 × 5 × 1, by size and channels, found 16"),
        (text(IMAGES // 16), {}, r"at most 15 in the whole table; next: multiply them by 17"),
        (text().replace("\n1,", "\n1,0.5,", 1), {}, r"train\.csv line 2 .has a pixel of 0\.5: expected whole numbers"),
        (text().replace("\n1,", "\n1,-3,", 1), {}, r"line 2 .has a pixel of -3"),
        (text().replace("\n1,", "\n1,x,", 1), {}, r"line 2 .could not convert string to float"),
        (text() + "1,2,3\n", {}, r"1 file beside 20 .*train\.csv line 22 .has 3 values"),
        (text() + ",2" * 17 + "\n", {}, r"line 22 .has no label"),
        ("", {}, r"columns"),
    ],
)
def test_a_table_that_holds_no_images_is_refused_with_the_line(
    tmp_path: Path, content: str, more: dict[str, Any], message: str
) -> None:
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path, tmp_path / "train.csv", **more)


def test_the_advice_to_multiply_small_values_is_right(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(text(IMAGES // 16 * 17))
    assert read(tmp_path, tmp_path / "train.csv").train.images.max() == 255


def test_equal_tables_give_equal_pins(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(text())
    (tmp_path / "again.csv").write_text(text().replace(",", " , "))
    entries = [pixels.find(tmp_path / name).entries for name in ("train.csv", "again.csv")]
    first, second = (packing.pack("pets", each, tmp_path / "own") for each in entries)
    assert first == second
