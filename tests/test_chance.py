"""The gate allows for chance: sound small sets pass, unusual pictures are named, and a setting decides what stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.core import params
from pipeline.datasets.arrays import Labelled, RawImages
from pipeline.datasets.formats import folder, idx, pixels
from pipeline.stages import validate
from pipeline.validation import chance, naming, negatives, reference, statistics
from pipeline.validation import suites as gate

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
SETTINGS = params.load("validate", gate.ValidateSettings, PARAMS)
NAMES = ("cat", "dog")


def strokes(count: int, seed: int, colour: bool = False) -> np.ndarray:
    """Drawings of 16×16 with three soft strokes of ink on black; in colour, on a soft ground of any tint."""
    generator = np.random.default_rng(seed)
    places = np.arange(16)
    images = np.zeros((count, 16, 16, 3 if colour else 1))
    if colour:
        slope = generator.normal(0, 4, (count, 1, 1, 3)) * places[:, None, None]
        images += generator.uniform(40, 200, (count, 1, 1, 3)) + slope
    for _ in range(3):
        height, width = generator.uniform(3, 13, (2, count, 1, 1, 1))
        angle, ink = generator.uniform(0, np.pi, (count, 1, 1, 1)), generator.uniform(120, 255, (count, 1, 1, 1))
        away = (places[:, None, None] - height) * np.cos(angle) + (places[None, :, None] - width) * np.sin(angle)
        images += ink * np.exp(-(away**2) / 3)
    return images.clip(0, 255).astype(np.uint8)


def files(split: str, labels: np.ndarray) -> tuple[str, ...]:
    return tuple(f"{NAMES[label]}/{split}{number}.jpg" for number, label in enumerate(labels))


def small(seed: int = 0, *, colour: bool = False, train: int = 160, test: int = 40) -> RawImages:
    """A small set of two classes, as `folder` reads it."""
    images = strokes(train + test, seed, colour)
    labels = np.arange(train + test) % 2
    first, second = np.arange(train), np.arange(train, train + test)
    parts = [
        Labelled(images[place], labels[place], files(split, labels[place]))
        for split, place in (("train", first), ("test", second))
    ]
    return RawImages(*parts, NAMES)


def changed(raw: RawImages, split: str, **images: np.ndarray) -> RawImages:
    """Replace images of a split, given as ``at7=…``."""
    part = getattr(raw, split)
    content = part.images.copy()
    for place, image in images.items():
        content[int(place.removeprefix("at"))] = image
    new = Labelled(content, part.labels, part.files)
    return RawImages(new, raw.test, NAMES) if split == "train" else RawImages(raw.train, new, NAMES)


def noise(raw: RawImages, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, raw.train.images.shape[1:], dtype=np.uint8)


def run(raw: RawImages, folder: Path, *, strict: bool = True) -> validate.ValidationResult:
    return validate.run("pets", raw, SETTINGS, folder, strict=strict)


def outside(raw: RawImages) -> dict[str, list[int]]:
    """The positions of unusual images by statistic, without the expectations around them."""
    table = statistics.image_table({"train": raw.train, "test": raw.test})
    bounds = reference.learn(table).bounds
    found = {name: table.index[(table[name] < low) | (table[name] > high)] for name, (low, high) in bounds.items()}
    return {name: list(places) for name, places in found.items() if name in reference.APART and len(places)}


def test_as_many_are_allowed_as_chance_gives_over_all_limits_at_once() -> None:
    assert [chance.allowed(count, 0.0, 20) for count in (1, 10_000)] == [0, 0]
    for images in (20, 100, 2_000, 60_000):
        most = chance.allowed(images, 0.005, 20)
        assert binom.sf(most, images, 0.005) <= 0.01 / 20 < binom.sf(most - 1, images, 0.005)
    assert chance.allowed(60_000, 0.005, 20) < 0.0062 * 60_000  # of many images the share itself decides
    assert chance.allowed(0, 0.005, 20) == 0


@pytest.mark.parametrize("colour", [False, True])
def test_sound_small_sets_have_next_to_no_unusual_images(colour: bool) -> None:
    named = [sum(map(len, outside(small(seed, colour=colour)).values())) for seed in range(10)]
    assert sum(named) <= 0.01 * 10 * 200


@pytest.mark.parametrize("share", [0.01, 0.04])
@pytest.mark.parametrize("colour", [False, True])
def test_noise_is_outside_of_the_bounds_even_where_train_has_much_of_it(colour: bool, share: float) -> None:
    raw = small(colour=colour)
    places = range(0, 160, round(1 / share))
    damaged = changed(raw, "train", **{f"at{place}": noise(raw, place) for place in places})
    assert set(places) <= set(outside(damaged)["roughness"])


@pytest.mark.parametrize(("height", "width", "channels"), [(16, 16, 1), (9, 14, 3), (64, 3, 1)])
def test_a_negative_is_found_among_drawings_of_any_shape(height: int, width: int, channels: int) -> None:
    generator = np.random.default_rng(0)
    ground = generator.uniform(0, 60, (100, 1, 1, channels)) + np.zeros((100, height, width, channels))
    ground[:, height // 3 : 2 * height // 3] += generator.uniform(60, 160, (100, 1, 1, 1))
    images = ground.astype(np.uint8)
    images[[7, 50]] = 255 - images[[7, 50]]
    assert np.flatnonzero(negatives.find(images, images)).tolist() == [7, 50]


def test_pictures_that_are_as_likely_as_their_negatives_have_none() -> None:
    images = np.random.default_rng(0).integers(0, 256, (200, 1, 1, 3), dtype=np.uint8) + np.zeros(
        (1, 8, 8, 1), np.uint8
    )
    assert not negatives.find(images, images).any()
    assert not negatives.find(images[:20], images[:20]).any(), "too few to learn from"


def test_a_few_unusual_pictures_are_named_by_file_and_stop_nothing(tmp_path: Path) -> None:
    raw = changed(small(), "test", at5=noise(small()))
    raw = changed(raw, "train", at8=255 - raw.train.images[8])
    result = run(raw, tmp_path)
    assert result.passed
    lines = validate.summary(result, tmp_path)
    assert any("roughness-test" in line and "test/dog/test5.jpg" in line for line in lines)
    assert any("negative-train" in line and "train/cat/train8.jpg" in line for line in lines)
    assert not [line for line in lines if line.startswith("warning")]


def test_more_than_chance_gives_stop_strict_sets_and_are_warnings_for_own_ones(tmp_path: Path) -> None:
    raw = small()
    damaged = changed(raw, "test", **{f"at{place}": noise(raw, place) for place in range(8)})
    strict, own = run(damaged, tmp_path / "a"), run(damaged, tmp_path / "b", strict=False)
    assert (strict.passed, own.passed) == (False, True)
    assert "roughness-test" in own.report.warnings
    message = str(validate.refusal(strict, tmp_path))
    assert "of the 40 images of test (a share of 0.005, beyond chance) (validate.max_outliers" in message
    assert "found 8: test/cat/test0.jpg, test/dog/test1.jpg" in message


@pytest.mark.slow
def test_a_test_split_that_is_other_data_always_stops(tmp_path: Path) -> None:
    raw = small()
    other = RawImages(raw.train, Labelled(255 - raw.test.images, raw.test.labels, raw.test.files), NAMES)
    assert not run(other, tmp_path, strict=False).passed


@pytest.mark.slow
def test_class_sizes_and_imbalance_warn_in_own_sets_and_a_missing_class_always_stops(tmp_path: Path) -> None:
    raw = small()

    def with_dogs(train: int, test: int) -> RawImages:
        kept = [
            np.sort(np.append(np.flatnonzero(part.labels == 0), np.flatnonzero(part.labels == 1)[:count]))
            for part, count in ((raw.train, train), (raw.test, test))
        ]
        return RawImages(raw.train.take(kept[0]), raw.test.take(kept[1]), NAMES)

    rare = run(with_dogs(10, 2), tmp_path / "rare", strict=False)
    assert rare.passed
    assert {"class-count", "class-balance"} <= set(rare.report.warnings)
    lines = "\n".join(validate.summary(rare, tmp_path))
    assert "class-count: expected at least 10 (validate.min_per_class" in lines
    assert "found 1: class 'dog' of test; low 2, high 80" in lines
    strict = run(with_dogs(10, 2), tmp_path / "strict")
    message = str(validate.refusal(strict, tmp_path))
    assert "for 2 reasons: (1) class-count" in message
    assert "(2) class-balance: expected at most 1.5 (validate.max_imbalance" in message
    assert not run(with_dogs(10, 0), tmp_path / "missing", strict=False).passed


@pytest.mark.slow
def test_pairs_are_named_as_pairs_on_the_page_and_in_the_message(tmp_path: Path) -> None:
    raw = small()
    leaked = changed(raw, "test", at3=raw.train.images[12], at9=raw.train.images[30])
    result = run(leaked, tmp_path, strict=False)
    message = str(validate.refusal(result, tmp_path))
    assert "leaked-test: expected at most 0 of the 40 images of test (validate.max_leaked" in message
    assert "found 2: train/cat/train12.jpg and test/dog/test3.jpg" in message
    assert "train/cat/train30.jpg and test/dog/test9.jpg" in message
    page = (tmp_path / "images.html").read_text(encoding="utf-8")
    assert 'alt="test/dog/test3.jpg"' in page
    assert 'alt="train/cat/train12.jpg"' in page


def test_an_image_is_named_by_its_file_or_its_place_and_always_by_its_class() -> None:
    images, labels = np.zeros((3, 2, 2, 1), np.uint8), np.array([0, 1, 7])
    parts = {
        "train": Labelled(images, labels, ("train/cat/1.png", "x/2.png", "")),
        "test": Labelled(images, labels),
    }
    names = naming.Names(parts, NAMES)
    assert [names.at(place) for place in range(6)] == [
        "train/cat/1.png",
        "train/x/2.png ('dog')",
        "train[2] ('label 7')",
        "test[0] ('cat')",
        "test[1] ('dog')",
        "test[2] ('label 7')",
    ]
    assert names.of_class("test", 1) == "class 'dog' of test"


def test_a_setting_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("a: 1\nvalidate:\n  # a comment\n  max_leaked: 0\n  near_duplicates: {warn: 0.1,\n    fail: 1}\n")
    assert params.line("validate.max_leaked", file) == "validate.max_leaked, params.yaml line 4"
    assert params.line("validate.near_duplicates.fail", file) == "validate.near_duplicates.fail, params.yaml line 6"
    assert params.line("validate.none", file) == "validate.none"
    assert params.line("a.b", file) == "a.b"
    assert params.line("a", tmp_path / "none.yaml") == "a"


def test_own_pictures_warn_and_others_are_strict_unless_their_section_says_otherwise() -> None:
    pin = {"name": "x.zip", "bytes": 1, "sha256": "0" * 64}
    own = {"format": "folder", "path": "p", "size": [8, 8], "channels": 1, "files": [pin], "classes": NAMES}
    assert not folder.Settings.model_validate(own).strict
    assert folder.Settings.model_validate(own | {"gate": "strict"}).strict
    public = {"format": "idx", "classes": NAMES}
    assert idx.Settings.model_validate(public).strict
    assert not idx.Settings.model_validate(public | {"gate": "warn"}).strict
    assert not idx.Settings.model_validate(public | {"path": "p", "files": [pin]}).strict
    assert idx.Settings.model_validate(public | {"path": "p", "files": [pin], "gate": "strict"}).strict
    table = {"format": "pixels", "path": "p", "files": [pin], "classes": NAMES}
    assert not pixels.Settings.model_validate(table).strict
    assert pixels.Settings.model_validate(table | {"gate": "strict"}).strict
    with pytest.raises(ValueError, match="'warn' or 'strict'"):
        idx.Settings.model_validate(public | {"gate": "loose"})
