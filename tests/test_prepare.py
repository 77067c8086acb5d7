"""Prepare: a stratified, reproducible, disjoint split of data that the gate has passed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Labelled, RawImages, load_splits, load_test, save_splits, save_test
from pipeline.stages import prepare
from pipeline.validation.duplicate_pairs import Pairs


def labelled(counts: list[int], seed: int) -> Labelled:
    labels = np.repeat(np.arange(len(counts)), counts)
    generator = np.random.default_rng(seed)
    generator.shuffle(labels)
    return Labelled(generator.integers(0, 256, (len(labels), 6, 5, 1), dtype=np.uint8), labels)


@pytest.fixture
def raw() -> RawImages:
    return RawImages(labelled([200, 100, 50], 1), labelled([20, 10, 5], 2), ("a", "b", "c"))


def settings(fraction: float = 0.1, seed: int = 0) -> prepare.PrepareSettings:
    return prepare.PrepareSettings(val_fraction=fraction, seed=seed)


def pixels(data: Labelled) -> set[bytes]:
    return {image.tobytes() for image in data.images}


def test_every_class_is_split_by_the_fraction(raw: RawImages) -> None:
    splits = prepare.run(raw, settings()).splits
    assert np.bincount(splits.val.labels).tolist() == [20, 10, 5]
    assert np.bincount(splits.train.labels).tolist() == [180, 90, 45]


def test_no_image_is_lost_or_on_both_sides(raw: RawImages) -> None:
    splits = prepare.run(raw, settings()).splits
    assert pixels(splits.train) | pixels(splits.val) == pixels(raw.train)
    assert not pixels(splits.train) & pixels(splits.val)


def test_images_keep_their_labels(raw: RawImages) -> None:
    label_of = {image.tobytes(): label for image, label in zip(raw.train.images, raw.train.labels, strict=True)}
    splits = prepare.run(raw, settings()).splits
    for side in (splits.train, splits.val):
        assert [label_of[image.tobytes()] for image in side.images] == side.labels.tolist()


def test_a_seed_always_draws_the_same_and_another_seed_does_not(raw: RawImages) -> None:
    first, again, other = (prepare.run(raw, settings(seed=seed)).splits for seed in (0, 0, 1))
    assert first.digest == again.digest
    assert first.digest != other.digest
    assert pixels(first.val) != pixels(other.val)


def test_identical_images_stay_on_one_side() -> None:
    train = labelled([40, 40], 3)
    images = np.repeat(train.images, 3, axis=0)
    copies = Labelled(images, np.repeat(train.labels, 3))
    splits = prepare.run(RawImages(copies, train, ("a", "b")), settings(0.25)).splits
    assert not pixels(splits.train) & pixels(splits.val)
    assert np.bincount(splits.val.labels).tolist() == [30, 30]


def test_saved_splits_come_back_memory_mapped_and_uint8(raw: RawImages, tmp_path: Path) -> None:
    result = prepare.run(raw, settings())
    save_splits(tmp_path / "prepared", result.splits)
    save_test(tmp_path / "test", result.test)
    splits, test = load_splits(tmp_path / "prepared"), load_test(tmp_path / "test")
    for side in (splits.train, splits.val, test.test):
        assert isinstance(side.images, np.memmap)
        assert side.images.dtype == np.uint8
        assert side.labels.dtype == np.int64
        assert side.images.shape == (len(side), 6, 5, 1)
    assert splits.digest == result.splits.digest
    assert splits.train.digest() == result.splits.train.digest()
    assert test.digest == raw.test.digest()
    assert splits.class_names == ("a", "b", "c")


def test_a_class_too_small_for_both_sides_is_refused() -> None:
    small = RawImages(labelled([100, 3], 1), labelled([5, 5], 2), ("a", "b"))
    with pytest.raises(DataError, match=r"class b cannot be split.*found 3 in train, 0 in validation"):
        prepare.run(small, settings())


def report_of(raw: RawImages) -> dict[str, object]:
    return {
        "dataset": "toy",
        "passed": True,
        "warnings": [],
        "images": {"train": 300, "test": 30},
        "classes": {"train": {}, "test": {}},
        "imbalance": {"train": 1.0, "test": 1.0},
        "duplicates": {"train": 0, "test": 0},
        "leaked": 0,
        "near_duplicates": {"threshold": 0.05, "counts": {}, "pairs": []},
        "digest": {"train": raw.train.digest(), "test": raw.test.digest()},
        "expectations": {},
        "reference": {"shape": [6, 5, 1], "bounds": {}, "levels": {}},
    }


def without(report: dict[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in report.items() if name != key}


def write(path: Path, report: object) -> Path:
    path.write_text(report if isinstance(report, str) else json.dumps(report))
    return path


def test_validated_data_is_accepted(raw: RawImages, tmp_path: Path) -> None:
    prepare.require_validated(write(tmp_path / "report.json", report_of(raw)), raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda report: report | {"passed": False},
            "did not pass this data: expected passed: true, found passed: false",
        ),
        (lambda report: without(report, "passed"), "expected the file that validate writes, found passed: .*required"),
        (lambda report: report | {"passed": "yes"}, r'found passed: .*valid boolean \("yes"\)'),
        (lambda report: report | {"passed": None}, r"found passed: .*valid boolean \(null\)"),
        (lambda report: without(report, "digest"), "expected the file that validate writes, found digest: .*required"),
        (
            lambda report: report | {"digest": {}},
            "train is not the data that was validated: expected digest None",
        ),
        (lambda report: report | {"digest": report["digest"] | {"train": "00"}}, "train is not .* expected digest 00"),
        (lambda report: report | {"digest": report["digest"] | {"test": "00"}}, "test is not .* expected digest 00"),
        (lambda report: "{", "cannot be used: expected the file that validate writes, found Expecting property name"),
        (lambda report: [], r"cannot be used: expected the file that validate writes, found .*\(\[\]\)"),
    ],
)
def test_damaged_reports_are_refused(raw: RawImages, tmp_path: Path, change, message: str) -> None:
    path = write(tmp_path / "report.json", change(report_of(raw)))
    with pytest.raises(DataError, match=f"{message}.*next: dvc repro validate"):
        prepare.require_validated(path, raw)


def test_a_missing_report_is_refused(raw: RawImages, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found none; next: dvc repro validate"):
        prepare.require_validated(tmp_path / "none.json", raw)


def in_pairs(*linked: tuple[int, int]) -> Pairs:
    first, second = np.array(linked).T
    return Pairs(first, second, np.full(len(linked), 0.1))


def test_near_duplicates_stay_on_one_side_though_only_a_chain_links_them(raw: RawImages) -> None:
    links = [(index + 1, index) for start in range(0, 300, 10) for index in range(start, start + 9)]
    splits = prepare.run(raw, settings(0.3), in_pairs(*links)).splits
    in_val = np.isin([image.tobytes() for image in raw.train.images], [image.tobytes() for image in splits.val.images])
    chains = in_val[:300].reshape(30, 10)
    assert (chains.all(axis=1) | ~chains.any(axis=1)).all()
    assert chains.any()
    assert not chains.all()


def test_a_near_duplicate_of_a_copy_stays_with_the_original() -> None:
    train = labelled([40, 40], 3)
    images = np.concatenate([train.images, train.images[:10]])
    group = prepare.groups_of(images, in_pairs((60, 5)))
    assert group[85] == group[5] == group[60] == 5
    again = prepare.groups_of(images, in_pairs((85, 60)))
    assert again[85] == again[5] == again[60] == 5


@pytest.mark.parametrize("near", [in_pairs((1, 0)), in_pairs((3, 2))])
def test_a_split_that_is_not_disjoint_is_refused(raw: RawImages, near: Pairs) -> None:
    images = raw.train.images.copy()
    in_val = np.zeros(len(images), dtype=bool)
    in_val[1] = True
    if near.first[0] == 3:
        images[1] = images[0]
    with pytest.raises(DataError, match="train and validation are not disjoint"):
        prepare.require_disjoint(Labelled(images, raw.train.labels), in_val, near)


def test_run_itself_makes_sure_that_its_sides_are_disjoint(raw: RawImages, monkeypatch) -> None:
    links = in_pairs(*((index + 1, index) for index in range(300)))
    monkeypatch.setattr(prepare, "groups_of", lambda images, *_: np.arange(len(images)))
    with pytest.raises(DataError, match="train and validation are not disjoint"):
        prepare.run(raw, settings(0.3), links)
