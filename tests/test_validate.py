"""The gate: sound data passes, and for every expectation there is damage that only this expectation finds."""

from __future__ import annotations

import json
import re
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

from pipeline.core import params
from pipeline.core.errors import DataError, GateError, ParamsError
from pipeline.datasets.arrays import Labelled, RawImages
from pipeline.datasets.formats import digits, idx
from pipeline.stages import validate
from pipeline.validation import class_conflicts, reference, statistics
from pipeline.validation import suites as gate
from pipeline.validation.expectations import Outcome

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
CLASSES = 3
SECTION = {
    "max_imbalance": 1.5,
    "max_duplicates": 0.005,
    "max_leaked": 0.0,
    "min_per_class": 4,
    "max_outliers": 0.0005,
    "max_shift": 3.0,
    "near_duplicates": {"distance": {"default": 0.05}, "warn": 0.002, "fail": 0.005},
}
SETTINGS = gate.ValidateSettings.model_validate(SECTION)


def drawn(per_class: int, seed: int) -> Labelled:
    """Images of 10×10 with random strokes, brightest at the place of the class."""
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


def with_image(image: np.ndarray, split: str = "test") -> Callable[[RawImages], RawImages]:
    """Replace image 7 of a split."""

    def damage(raw: RawImages) -> RawImages:
        part: Labelled = getattr(raw, split)
        images = part.images.copy()
        images[7] = image
        return replace(raw, **{split: Labelled(images, part.labels)})

    return damage


def copied(into: str, source: str, copies: int) -> Callable[[RawImages], RawImages]:
    """Make images of a split, from its second on, copies of the first of another, each with one more speck of dust."""

    def damage(raw: RawImages) -> RawImages:
        part: Labelled = getattr(raw, into)
        images = part.images.copy()
        images[1 : 1 + copies] = getattr(raw, source).images[0]
        for place in range(1, 1 + copies):
            images[place, 0, place + (4 if into == "test" else 0), 0] = 3
        return replace(raw, **{into: Labelled(images, part.labels)})

    return damage


def with_image_of_class(into: str, source: str, label: int, step: tuple[int, int] = (1, 1)) -> Callable:
    """Replace image 7 of a split, of class 0, by the first image of another class; steps of -1 flip it."""

    def damage(raw: RawImages) -> RawImages:
        part: Labelled = getattr(raw, source)
        return with_image(part.images[np.flatnonzero(part.labels == label)[0], :: step[0], :: step[1]], into)(raw)

    return damage


def in_colour(raw: RawImages) -> RawImages:
    """The same images, tinted."""
    tint = np.array([1, 0.8, 0.5])
    return replace(
        raw,
        **{
            split: Labelled((part.images * tint).astype(np.uint8), part.labels)
            for split, part in (("train", raw.train), ("test", raw.test))
        },
    )


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


def cells(column: str, value: object, split: str, count: int) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Change cells of the table in rows of a split; for what no array of pixels can bring about alone."""

    def damage(images: pd.DataFrame) -> pd.DataFrame:
        row = images.index[(images["split"] == split) & images["index"].between(7, 6 + count)]
        images.loc[row, column] = value
        return images

    return damage


def cell(column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return cells(column, value, "test", 1)


def brighter_class(images: pd.DataFrame) -> pd.DataFrame:
    images.loc[(images["split"] == "test") & (images["label"] == 1), "channel0"] += 12
    return images


def one_group(images: pd.DataFrame) -> pd.DataFrame:
    images.loc[(images["split"] == "train") & (images["label"] == 1), "group"] = 0
    return images


def untouched(whatever: object) -> object:
    return whatever


# (expectation, what is wrong) -> damage to the data, damage to the table
DAMAGE: dict[tuple[str, str], tuple[Callable, Callable]] = {
    ("columns", "one too many"): (untouched, lambda table: table.assign(more=1)),
    ("columns", "other order"): (untouched, lambda table: table[table.columns[::-1]]),
    ("split", "unknown"): (untouched, cell("split", "val")),
    ("label", "unknown"): (with_label, untouched),
    ("shape", "another"): (untouched, cell("shape", "10×10×3")),
    ("contrast", "nearly constant"): (with_image(image_of((0.2, 2))), untouched),
    ("sha256", "none"): (untouched, cell("sha256", "none")),
    ("repeats-train", "4 of 60"): (repeated("train", 4), untouched),
    ("repeats-test", "4 of 36"): (repeated("test", 4), untouched),
    ("leaked-test", "1 of 36"): (lambda raw: with_image(raw.train.images[0])(raw), untouched),
    ("near-train", "4 of 60"): (copied("train", "train", 4), untouched),
    ("near-train-some", "3 of 60"): (copied("train", "train", 3), untouched),
    ("near-test", "4 of 36"): (copied("test", "test", 4), untouched),
    ("near-test-some", "3 of 36"): (copied("test", "test", 3), untouched),
    ("near-leaked-test", "4 of 36"): (untouched, cells("near_leaked", True, "test", 4)),
    ("near-leaked-test-some", "3 of 36"): (untouched, cells("near_leaked", True, "test", 3)),
    ("two-classes", "1 of train in test"): (with_image_of_class("test", "train", 1), cell("leaked", False)),
    ("two-classes", "2 of train"): (with_image_of_class("train", "train", 1), untouched),
    ("two-classes-near", "1 of train, mirrored"): (with_image_of_class("train", "train", 1, (1, -1)), untouched),
    ("two-classes-near", "1 of train, upside down"): (with_image_of_class("test", "train", 1, (-1, 1)), untouched),
    ("class-count", "too few of every class"): (only("test", 3, 3, 3), untouched),
    ("class-missing", "a class is missing"): (only("train", 20, 20, 0), untouched),
    ("class-missing", "a split is empty"): (only("test", 0, 0, 0), untouched),
    ("class-groups", "a class of near duplicates"): (untouched, one_group),
    ("class-balance", "20 to 12"): (only("train", 20, 20, 12), untouched),
    ("class-shift", "12 grey levels"): (untouched, brighter_class),
}
for column, (low, high) in {
    "mean": (5, 90),
    "std": (20, 120),
    "ink": (0.05, 0.5),
    "clipped": (-1, 0.2),
    "roughness": (-1, 1.9),
    "entropy": (-1, 4.9),
}.items():
    DAMAGE |= {(f"{column}-train", "too high"): (untouched, cells(column, high, "train", 2))}
    DAMAGE |= {(f"{column}-test", "too high"): (untouched, cells(column, high, "test", 2))}
    DAMAGE |= {(f"{column}-test", "too low"): (untouched, cells(column, low, "test", 2))}
DAMAGE |= {(f"negative-{split}", "2"): (untouched, cells("negative", True, split, 2)) for split in ("train", "test")}
DAMAGE |= {("saturation-train", "too high"): (in_colour, cells("saturation", 250, "train", 2))}
DAMAGE |= {("saturation-test", "too low"): (in_colour, cells("saturation", 0, "test", 2))}


def judge(raw: RawImages, docs: Path | None = None, change_table: Callable = untouched) -> list[Outcome]:
    parts = {"train": raw.train, "test": raw.test}
    near = gate.near_duplicates(parts, SETTINGS, "toy").within(SETTINGS.distance_of("toy"))
    conflicts = class_conflicts.find(parts, near, SETTINGS.distance_of("toy"))
    sound_table = gate.image_table(parts, near, conflicts)
    scale = reference.learn(sound_table)
    return gate.check(change_table(sound_table), SETTINGS, CLASSES, docs, scale=scale)


def failed(outcomes: list[Outcome]) -> list[str]:
    return [outcome.name for outcome in outcomes if not outcome.passed]


@pytest.mark.parametrize("kind", [untouched, in_colour], ids=["grey", "colour"])
def test_sound_data_meets_every_expectation(kind: Callable, tmp_path: Path) -> None:
    assert failed(judge(kind(sound()), tmp_path)) == []
    assert (tmp_path / "index.html").is_file()
    pages = list((tmp_path / "validations").rglob("*.html"))
    assert len(pages) == 2


@pytest.mark.parametrize(  # a second each: every other one is left to the slow set
    ("name", "wrong"),
    [pytest.param(*row, marks=pytest.mark.slow if place % 2 else ()) for place, row in enumerate(DAMAGE)],
    ids=[f"{name}: {wrong}" for name, wrong in DAMAGE],
)
def test_only_its_own_expectation_finds_a_damage(name: str, wrong: str) -> None:
    damage_data, damage_table = DAMAGE[name, wrong]
    outcomes = judge(damage_data(sound()), None, damage_table)
    expected = {name} | ({f"{name}-some"} if name.startswith("near") and not name.endswith("-some") else set())
    expected |= {"class-count"} if name == "class-missing" else set()
    assert set(failed(outcomes)) == expected
    assert any(outcome.stops for outcome in outcomes) is not name.endswith(("-some", "-near"))


def test_every_expectation_has_a_damage() -> None:
    names = set()
    for raw in (sound(), in_colour(sound())):
        scale = reference.learn(gate.image_table({"train": raw.train}))
        suites = gate.suites(SETTINGS, scale, CLASSES, {"train": 60, "test": 36})
        names |= {expectation.meta["name"] for suite in suites.values() for expectation in suite}
    assert names == {name for name, _ in DAMAGE}


def test_what_is_allowed_passes() -> None:
    assert failed(judge(repeated("train", 3)(sound()))) == []
    assert failed(judge(copied("test", "test", 1)(sound()))) == []
    assert failed(judge(sound(), None, cells("mean", 90, "test", 1))) == []


def test_an_outcome_names_the_rows() -> None:
    outcomes = {outcome.name: outcome for outcome in judge(sound(), None, cells("mean", 90, "test", 2))}
    found = outcomes["mean-test"]
    assert (found.unexpected_count, found.examples, found.column) == (2, ("test[7]", "test[8]"), "mean")
    assert found.observed["high"] == 90.0
    few = {outcome.name: outcome for outcome in judge(only("train", 20, 20, 12)(sound()))}
    assert few["class-balance"].examples == ("train class 2",)


def test_no_temporary_folders_and_no_progress_bars_are_left(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    judge(sound(), tmp_path / "docs")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_statistics_of_an_image() -> None:
    image = image_of((0.25, 200))
    images = np.stack([image, image, image_of((1, 9)), image_of((0.1, 255))])
    found = gate.image_table(
        {"train": Labelled(images, np.zeros(4, np.int64)), "test": Labelled(images[:1], np.zeros(1, np.int64))}
    )
    assert tuple(found.columns) == statistics.image_columns(1)
    assert found.loc[0, ["mean", "ink", "clipped", "shape"]].tolist() == [50, 0.25, 0, "10×10×1"]
    assert found.loc[0, "std"] == pytest.approx(200 * np.sqrt(0.25 * 0.75))
    assert found.loc[2, "std"] == 0
    assert found.loc[3, "clipped"] == 0.1
    assert found["repeats"].tolist() == [False, True, False, False, False]
    assert found["leaked"].tolist() == [False, False, False, False, True]


def test_statistics_of_a_colour_image() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[0, :2] = (200, 100, 40)
    images[1] = 90
    found = gate.image_table({"train": Labelled(images, np.zeros(2, np.int64))})
    assert tuple(found.columns) == statistics.image_columns(3)
    assert found["saturation"].tolist() == [80, 0]
    assert found.loc[0, ["channel0", "channel1", "channel2"]].tolist() == [100, 50, 20]
    assert found["mean"].tolist() == pytest.approx([340 / 6, 90])
    assert found["std"].tolist() == pytest.approx(images.reshape(2, -1).std(axis=1))


def test_bounds_come_from_the_middle_of_train_whatever_a_few_of_its_images_are() -> None:
    raw = sound()
    plain = reference.learn(gate.image_table({"train": raw.train}))
    many = Labelled(np.repeat(raw.train.images, 10, axis=0), np.repeat(raw.train.labels, 10))
    images = many.images.copy()
    images[:2] = 255
    moved = reference.learn(gate.image_table({"train": Labelled(images, many.labels)}))
    for name, (low, high) in plain.bounds.items():
        assert moved.bounds[name] == pytest.approx((low, high), abs=0.05 * max(high, 1))
    low, high = plain.bounds["mean"]
    means = raw.train.images.mean(axis=(1, 2, 3))
    assert low < means.min() < means.max() < high
    assert reference.Reference.model_validate(json.loads(plain.model_dump_json())) == plain


def test_without_train_there_is_nothing_to_learn_bounds_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images of train"):
        gate.check(gate.image_table({"test": sound().test}), SETTINGS, CLASSES, tmp_path, ("test",))


def test_the_distance_is_a_datasets_own_or_the_default() -> None:
    near = {"distance": {"toy": 0.2, "default": 0.1}, "warn": 0, "fail": 0}
    settings = gate.ValidateSettings.model_validate(SECTION | {"near_duplicates": near})
    assert (settings.distance_of("toy"), settings.distance_of("other")) == (0.2, 0.1)
    with pytest.raises(ParamsError, match="expected other or default, found toy"):
        gate.ValidateSettings.model_validate(
            SECTION | {"near_duplicates": near | {"distance": {"toy": 0.2}}}
        ).distance_of("other")


def test_a_warning_above_the_failure_is_refused() -> None:
    near = SECTION["near_duplicates"] | {"warn": 0.5}
    with pytest.raises(ParamsError, match=r"validate\.near_duplicates is wrong"):
        params.parse("validate", SECTION | {"near_duplicates": near}, gate.ValidateSettings)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch) -> Path:
    """A project whose one dataset is `sound`, with the stage's arguments set."""
    files = ("train-images", "train-labels", "t10k-images", "t10k-labels")
    pins = [{"name": name, "bytes": 1, "sha256": "0" * 64} for name in files]
    download = {"format": "idx", "mirrors": [], "files": pins, "classes": ["a", "b", "c"]}
    (tmp_path / "params.yaml").write_text(json.dumps({"download": {"toy": download}, "validate": SECTION}))
    write_raw(tmp_path, sound())
    arguments = ["--dataset", "toy", "--raw", "raw", "--report", "reports/toy.json"]
    arguments += ["--details", "reports/toy", "--docs", "docs/toy"]
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


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_report_is_about_the_data_and_nothing_else(workspace: Path) -> None:
    write_raw(workspace, copied("test", "train", 1)(copied("train", "train", 1)(sound())))
    validate.main()
    written = files(workspace / "reports")
    validate.main()
    assert files(workspace / "reports") == written
    report = json.loads(written["toy.json"])
    assert report["passed"] is True
    assert report["warnings"] == []
    assert report["images"] == {"train": 60, "test": 36}
    assert report["classes"]["test"] == {"a": 12, "b": 12, "c": 12}
    assert report["imbalance"] == {"train": 1.0, "test": 1.0}
    assert report["expectations"]["class-count"] == {"low": 12.0, "high": 20.0}
    assert report["near_duplicates"]["threshold"] == 0.05
    assert report["near_duplicates"]["counts"]["0.05"] == {"train": 1, "test": 0, "across": 2}
    assert sorted(pair.split()[:4] for pair in report["near_duplicates"]["pairs"]) == [
        ["train", "0", "test", "1"],
        ["train", "0", "train", "1"],
        ["train", "1", "test", "1"],
    ]
    assert reference.Reference.model_validate(report["reference"]).shape == (10, 10, 1)
    assert str(workspace) not in written["toy.json"].decode()
    rows = written["toy/near_duplicates.csv"].decode().splitlines()
    assert rows[0] == "split,index,other_split,other_index,distance"
    expected = ["train,0,test,1", "train,0,train,1", "train,1,test,1"]
    assert sorted(row.rpartition(",")[0] for row in rows[1:]) == expected


def test_pictures_of_the_data_are_written(workspace: Path) -> None:
    validate.main()
    found = files(workspace / "reports" / "toy" / "pictures")
    assert sorted(found) == ["balance.png", "levels.png", "means.png", "samples.png"]
    assert all(content.startswith(b"\x89PNG") for content in found.values())


def test_the_page_shows_the_images_that_are_named_and_the_nearest_pairs(workspace: Path) -> None:
    write_raw(workspace, with_image(image_of((0.2, 2)))(copied("train", "train", 2)(sound())))
    with pytest.raises(GateError, match=r"contrast: .*test\[7\].*next: open docs/toy/images.html"):
        validate.main()
    page = (workspace / "docs" / "toy" / "images.html").read_text()
    assert 'contrast <span class="failed">failed</span>' in page
    assert 'alt="test[7] (&#39;a&#39;)"' in page
    assert page.count('<figure class="over">') == 3  # the pairs of an image and its two copies
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_a_warning_is_printed_and_stops_nothing(workspace: Path, capsys) -> None:
    write_raw(workspace, copied("test", "test", 3)(sound()))
    validate.main()
    message = capsys.readouterr().out
    assert (
        "warning: toy: near-test-some: expected at most 2 of the 36 images of test (a share of 0.002, beyond chance)"
        " (validate.near_duplicates.warn, params.yaml line 1), found 3: test[0] ('a') and test[1] ('a') (distance 0.0"
        in message
    )
    assert json.loads((workspace / "reports" / "toy.json").read_text())["warnings"] == ["near-test-some"]


def test_a_failure_names_its_images_and_leaves_no_report(workspace: Path) -> None:
    validate.main()
    write_raw(workspace, with_image(image_of((0.2, 2)))(sound()))
    with pytest.raises(GateError) as caught:
        validate.main()
    message = str(caught.value)
    assert "toy: the gate refuses this data for 1 reason: (1) contrast: expected at least 2" in message
    assert "found 1: test[7] ('a'); low" in message
    assert "\n" not in message
    assert not (workspace / "reports" / "toy.json").exists()
    assert (workspace / "docs" / "toy" / "index.html").is_file()
    found = json.loads((workspace / "docs" / "toy" / "failed.json").read_text())
    assert found["passed"] is False
    assert [outcome["name"] for outcome in found["outcomes"] if not outcome["passed"]] == ["contrast"]
    write_raw(workspace, sound())
    validate.main()
    assert not (workspace / "docs" / "toy" / "failed.json").exists()


def test_a_failure_names_all_that_failed(tmp_path: Path) -> None:
    raw = only("train", 20, 20, 12)(with_label(sound()))
    result = validate.run("toy", raw, SETTINGS, tmp_path)
    message = str(validate.refusal(result, tmp_path))
    assert "for 2 reasons: (1) label: expected one of 0, 1, 2, found 1: test[7] ('label 3')" in message
    assert "(2) class-balance: expected at most 1.5 (validate.max_imbalance, params.yaml line " in message
    assert "), found 1: class 'c' of train; low" in message


def batch_outcomes(batch: Labelled, docs: Path | None = None) -> list[Outcome]:
    scale = reference.learn(gate.image_table({"train": drawn(20, 1)}))
    return gate.check_batch(batch, sound(), scale, SETTINGS, "toy", docs)


def test_a_sound_batch_passes_though_it_lacks_a_class(tmp_path: Path) -> None:
    assert failed(batch_outcomes(drawn(20, 3).take(np.arange(40)), tmp_path)) == []


def with_images(*images: np.ndarray) -> Labelled:
    batch = drawn(20, 3)
    content = batch.images.copy()
    content[: len(images)] = images
    return Labelled(content, batch.labels)


def dusty(image: np.ndarray, specks: int) -> list[np.ndarray]:
    copies = [image.copy() for _ in range(specks)]
    for place, copy in enumerate(copies):
        copy[0, place, 0] = 3
    return copies


BATCHES: dict[str, tuple[Callable[[], Labelled], set[str]]] = {
    "a label that is none": (lambda: Labelled(drawn(2, 3).images, np.full(6, 3)), {"label"}),
    "blank": (lambda: with_images(image_of((1, 9))), {"contrast"}),
    "a test image": (lambda: with_images(drawn(12, 2).images[0]), {"leaked-batch"}),
    "test images with dust": (
        lambda: with_images(*dusty(drawn(12, 2).images[0], 1), *dusty(drawn(12, 2).images[1], 3)),
        {"near-leaked-batch", "near-leaked-batch-some"},
    ),
    "the same again": (lambda: with_images(*[drawn(12, 4).images[0]] * 5), {"repeats-batch"}),
    "the same with dust": (
        lambda: with_images(*dusty(drawn(12, 4).images[0], 5)),
        {"near-batch", "near-batch-some"},
    ),
}


@pytest.mark.parametrize("wrong", BATCHES)
def test_a_batch_is_refused_for_what_is_wrong_with_it(wrong: str) -> None:
    make, expected = BATCHES[wrong]
    assert expected <= set(failed(batch_outcomes(make())))


def test_a_batch_outside_the_bounds_of_train_is_refused() -> None:
    negative = drawn(20, 3)
    found = failed(batch_outcomes(Labelled(255 - negative.images, negative.labels)))
    assert {"mean-batch", "ink-batch", "clipped-batch", "class-shift"} <= set(found)


def test_a_batch_of_another_shape_is_refused() -> None:
    outcomes = batch_outcomes(Labelled(np.zeros((5, 8, 8, 3), np.uint8), np.zeros(5, np.int64)))
    assert "shape" in failed(outcomes)
    assert any(outcome.stops for outcome in outcomes)


def test_the_real_digits_pass(tmp_path: Path) -> None:
    from pipeline.datasets.download.sources import locate

    chosen = params.load("download.digits", digits.Settings, PARAMS)
    folder = locate(chosen.mirrors[0])
    assert folder is not None
    raw = digits.read(folder, chosen)
    result = validate.run("digits", raw, params.load("validate", gate.ValidateSettings, PARAMS), tmp_path)
    assert [outcome.name for outcome in result.outcomes if outcome.stops] == []


@pytest.mark.slow  # 15 s on two cores
def test_mnist_passes_in_seconds(mirror: Path, tmp_path: Path) -> None:
    chosen = params.load("download.mnist", idx.Settings, PARAMS)
    raw = idx.read(mirror / "mnist", chosen)
    since = time.perf_counter()
    result = validate.run("mnist", raw, params.load("validate", gate.ValidateSettings, PARAMS), tmp_path)
    print(f"validating 70,000 images took {time.perf_counter() - since:.2f} s")
    assert failed(list(result.outcomes)) == []
    assert result.report.images == {"train": 60_000, "test": 10_000}
    assert result.report.expectations["class-count"] == {"low": 892.0, "high": 6742.0}
    assert time.perf_counter() - since < 60
