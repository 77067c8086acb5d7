"""The gate: sound data passes, and for every expectation there is damage that only this expectation finds."""

from __future__ import annotations

import json
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import gate, params, validate
from pipeline.datasets import digits, idx
from pipeline.datasets.base import Labelled, RawImages
from pipeline.errors import GateError, ParamsError

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
CLASSES = 3
SECTION = {
    "max_imbalance": 1.5,
    "max_duplicates": 0.05,
    "max_leaked": 0.0,
    "min_per_class": 4,
    "pixels": {"default": {"mean": [1, 128], "std": [25, 128], "ink": [0.02, 0.6], "min": [0, 32], "max": [128, 255]}},
}
SETTINGS = gate.Settings.model_validate(SECTION)


def drawn(per_class: int, seed: int) -> Labelled:
    """Images of 10×10 with random strokes, brightest where the class says."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), per_class)
    images = np.zeros((len(labels), 10, 10, 1), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 + 2 * label : 4 + 2 * label, :, 0] = generator.integers(100, 256, (2, 10))
        image[2 + 2 * label, 0, 0] = 255
    return Labelled(images, labels)


def sound() -> RawImages:
    return RawImages(drawn(20, 1), drawn(12, 2), ("a", "b", "c"))


def image_of(*shares_and_values: tuple[float, int]) -> np.ndarray:
    """An image of 10×10 in which these shares of the pixels have these values, and the rest none."""
    flat = np.zeros(100, np.uint8)
    start = 0
    for share, value in shares_and_values:
        end = start + round(share * 100)
        flat[start:end] = value
        start = end
    return flat.reshape(10, 10, 1)


def with_image(image: np.ndarray) -> Callable[[RawImages], RawImages]:
    """Replace test image 7."""

    def damage(raw: RawImages) -> RawImages:
        images = raw.test.images.copy()
        images[7] = image
        return replace(raw, test=Labelled(images, raw.test.labels))

    return damage


def with_label(raw: RawImages) -> RawImages:
    labels = raw.test.labels.copy()
    labels[7] = CLASSES
    return replace(raw, test=Labelled(raw.test.images, labels))


def repeated(split: str, copies: int) -> Callable[[RawImages], RawImages]:
    def damage(raw: RawImages) -> RawImages:
        part: Labelled = getattr(raw, split)
        images = part.images.copy()
        images[1 : 1 + copies] = images[0]
        return replace(raw, **{split: Labelled(images, part.labels)})

    return damage


def only(split: str, *per_class: int) -> Callable[[RawImages], RawImages]:
    """Keep this many images of every class of a split."""

    def damage(raw: RawImages) -> RawImages:
        part: Labelled = getattr(raw, split)
        kept = [np.flatnonzero(part.labels == label)[:count] for label, count in enumerate(per_class)]
        return replace(raw, **{split: part.take(np.concatenate(kept))})

    return damage


def cell(column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Change one cell of the table in the row of test image 7; for what no array of pixels can bring about alone."""

    def damage(table: pd.DataFrame) -> pd.DataFrame:
        row = table.index[(table["split"] == "test") & (table["index"] == 7)]
        table.loc[row, column] = value
        return table

    return damage


def untouched(whatever: object) -> object:
    return whatever


# (expectation, what is wrong) -> damage to the data, damage to the table
DAMAGE: dict[tuple[str, str], tuple[Callable, Callable]] = {
    ("columns", "one too many"): (untouched, lambda table: table.assign(more=1)),
    ("columns", "other order"): (untouched, lambda table: table[table.columns[::-1]]),
    ("split", "unknown"): (untouched, cell("split", "val")),
    ("label", "unknown"): (with_label, untouched),
    ("mean", "too bright"): (with_image(image_of((0.55, 255))), untouched),
    ("mean", "too dark"): (untouched, cell("mean", 0.5)),
    ("std", "nearly constant"): (with_image(image_of((0.03, 130))), untouched),
    ("ink", "too much"): (with_image(image_of((0.65, 60), (0.05, 255))), untouched),
    ("ink", "too little"): (with_image(image_of((0.01, 255))), untouched),
    ("min", "no background"): (untouched, cell("min", 40)),
    ("max", "never bright"): (with_image(image_of((0.4, 100))), untouched),
    ("sha256", "none"): (untouched, cell("sha256", "none")),
    ("repeats-train", "4 of 60"): (repeated("train", 4), untouched),
    ("repeats-test", "2 of 36"): (repeated("test", 2), untouched),
    ("leaked-test", "1 of 36"): (lambda raw: with_image(raw.train.images[0])(raw), untouched),
    ("class-count", "too few of every class"): (only("test", 3, 3, 3), untouched),
    ("class-count", "a class is missing"): (only("train", 20, 20, 0), untouched),
    ("class-count", "a split is empty"): (only("test", 0, 0, 0), untouched),
    ("class-balance", "20 to 12"): (only("train", 20, 20, 12), untouched),
}


def judge(raw: RawImages, docs: Path, change_table: Callable = untouched) -> list[gate.Outcome]:
    table = gate.image_table({"train": raw.train, "test": raw.test})
    return gate.check(change_table(table), SETTINGS, "toy", CLASSES, docs)


def test_sound_data_meets_every_expectation(tmp_path: Path) -> None:
    outcomes = judge(sound(), tmp_path)
    assert [outcome.name for outcome in outcomes if not outcome.passed] == []
    assert (tmp_path / "index.html").is_file()
    pages = list((tmp_path / "validations").rglob("*.html"))
    assert len(pages) == 2


@pytest.mark.parametrize(("name", "wrong"), DAMAGE, ids=[f"{name}: {wrong}" for name, wrong in DAMAGE])
def test_only_its_own_expectation_finds_a_damage(name: str, wrong: str, tmp_path: Path) -> None:
    damage_data, damage_table = DAMAGE[name, wrong]
    outcomes = judge(damage_data(sound()), tmp_path, damage_table)
    assert [outcome.name for outcome in outcomes if not outcome.passed] == [name]


def test_every_expectation_has_a_damage() -> None:
    suites = gate.suites(SETTINGS, "toy", CLASSES)
    names = [expectation.meta["name"] for suite in suites.values() for expectation in suite]
    assert sorted(names) == sorted({name for name, _ in DAMAGE})


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    assert all(outcome.passed for outcome in judge(repeated("train", 3)(sound()), tmp_path))


def test_an_outcome_names_the_rows(tmp_path: Path) -> None:
    outcomes = {outcome.name: outcome for outcome in judge(with_image(image_of((0.4, 100)))(sound()), tmp_path)}
    found = outcomes["max"]
    assert (found.unexpected_count, found.examples, found.column) == (1, ("test[7]",), "max")
    assert found.observed == {"low": 100.0, "high": 255.0}
    few = {outcome.name: outcome for outcome in judge(only("train", 20, 20, 12)(sound()), tmp_path)}
    assert few["class-balance"].examples == ("train class 2",)


def test_no_temporary_folders_and_no_progress_bars_are_left(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    judge(sound(), tmp_path / "docs")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_statistics_of_an_image() -> None:
    image = image_of((0.25, 200))
    images = np.stack([image, image, image_of((1, 9))])
    table = gate.image_table(
        {"train": Labelled(images, np.zeros(3, np.int64)), "test": Labelled(images[:1], np.zeros(1, np.int64))}
    )
    assert tuple(table.columns) == gate.IMAGE_COLUMNS
    assert table.loc[0, ["mean", "ink", "min", "max"]].tolist() == [50, 0.25, 0, 200]
    assert table.loc[0, "std"] == pytest.approx(200 * np.sqrt(0.25 * 0.75))
    assert table.loc[2, "std"] == 0
    assert table["repeats"].tolist() == [False, True, False, False]
    assert table["leaked"].tolist() == [False, False, False, True]


def test_bounds_are_a_datasets_own_or_the_default() -> None:
    loose = SECTION["pixels"]["default"]
    settings = gate.Settings.model_validate(SECTION | {"pixels": {"toy": loose | {"max": [1, 2]}, "default": loose}})
    assert settings.pixels_of("toy").max == (1, 2)
    assert settings.pixels_of("other").max == (128, 255)
    with pytest.raises(ParamsError, match="expected other or default, found toy"):
        gate.Settings.model_validate(SECTION | {"pixels": {"toy": loose}}).pixels_of("other")


def test_bounds_the_wrong_way_round_are_refused() -> None:
    pixels = {"default": SECTION["pixels"]["default"] | {"mean": [5, 1]}}
    with pytest.raises(ParamsError, match=r"validate\.pixels\.default\.mean is wrong"):
        params.parse("validate", SECTION | {"pixels": pixels}, gate.Settings)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch) -> Path:
    """A project whose one dataset is `sound`, with the stage's arguments set."""
    files = ("train-images", "train-labels", "t10k-images", "t10k-labels")
    pins = [{"name": name, "bytes": 1, "sha256": "0" * 64} for name in files]
    download = {"format": "idx", "mirrors": [], "files": pins, "classes": ["a", "b", "c"]}
    (tmp_path / "params.yaml").write_text(json.dumps({"download": {"toy": download}, "validate": SECTION}))
    write_raw(tmp_path, sound())
    arguments = ["--dataset", "toy", "--raw", "raw", "--report", "reports/toy.json", "--docs", "docs/toy"]
    monkeypatch.setattr(sys, "argv", ["validate", *arguments])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_raw(workspace: Path, raw: RawImages) -> None:
    (workspace / "raw").mkdir(exist_ok=True)
    for prefix, part in (("train", raw.train), ("t10k", raw.test)):
        shape = struct.pack(">III", *part.images.shape[:3])
        (workspace / "raw" / f"{prefix}-images").write_bytes(b"\0\0\x08\3" + shape + part.images.tobytes())
        labels = part.labels.astype(np.uint8)
        (workspace / "raw" / f"{prefix}-labels").write_bytes(b"\0\0\x08\1" + shape[:4] + labels.tobytes())


def test_the_report_is_about_the_data_and_nothing_else(workspace: Path) -> None:
    validate.main()
    written = (workspace / "reports" / "toy.json").read_bytes()
    validate.main()
    assert (workspace / "reports" / "toy.json").read_bytes() == written
    report = json.loads(written)
    assert report["passed"] is True
    assert report["images"] == {"train": 60, "test": 36}
    assert report["classes"]["test"] == {"a": 12, "b": 12, "c": 12}
    assert report["digest"] == {"train": sound().train.digest(), "test": sound().test.digest()}
    assert report["imbalance"] == {"train": 1.0, "test": 1.0}
    assert report["expectations"]["class-count"] == {"low": 12.0, "high": 20.0}
    assert str(workspace) not in written.decode()


def test_a_failure_tells_where_to_look_and_leaves_no_report(workspace: Path) -> None:
    validate.main()
    write_raw(workspace, with_image(image_of((0.4, 100)))(sound()))
    with pytest.raises(GateError) as caught:
        validate.main()
    told = str(caught.value)
    assert "toy: expectation 'max' (expect_column_values_to_be_between) failed on column max" in told
    assert "expected 128 to 255, found 1 unexpected, such as test[7]" in told
    assert "next: open docs/toy/index.html" in told
    assert "\n" not in told
    assert not (workspace / "reports" / "toy.json").exists()
    assert (workspace / "docs" / "toy" / "index.html").is_file()
    failed = json.loads((workspace / "docs" / "toy" / "failed.json").read_text())
    assert failed["passed"] is False
    assert [outcome["name"] for outcome in failed["outcomes"] if not outcome["passed"]] == ["max"]
    write_raw(workspace, sound())
    validate.main()
    assert not (workspace / "docs" / "toy" / "failed.json").exists()


def test_a_failure_names_all_that_failed(tmp_path: Path) -> None:
    raw = only("train", 20, 20, 12)(with_label(sound()))
    result = validate.run("toy", raw, SETTINGS, tmp_path)
    assert "failed too: class-balance" in str(validate.refusal(result, tmp_path))


def test_the_real_digits_pass(tmp_path: Path) -> None:
    from pipeline.sources import locate

    chosen = params.load("download.digits", digits.Settings, PARAMS)
    folder = locate(chosen.mirrors[0])
    assert folder is not None
    raw = digits.read(folder, chosen)
    result = validate.run("digits", raw, params.load("validate", gate.Settings, PARAMS), tmp_path)
    assert [outcome.name for outcome in result.outcomes if not outcome.passed] == []


def test_mnist_passes_in_seconds(mirror: Path, tmp_path: Path) -> None:
    chosen = params.load("download.mnist", idx.Settings, PARAMS)
    raw = idx.read(mirror / "mnist", chosen)
    since = time.perf_counter()
    result = validate.run("mnist", raw, params.load("validate", gate.Settings, PARAMS), tmp_path)
    print(f"validating 70,000 images took {time.perf_counter() - since:.2f} s")
    assert [outcome.name for outcome in result.outcomes if not outcome.passed] == []
    assert result.report["images"] == {"train": 60_000, "test": 10_000}
    assert result.report["expectations"]["class-count"] == {"low": 892.0, "high": 6742.0}
    assert time.perf_counter() - since < 60
