"""Groups stay on one side of every split, wherever they come from; a class that is one group is named."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.core import params
from pipeline.core.errors import DataError, ParamsError
from pipeline.datasets import batches, grouping, manifest
from pipeline.datasets.arrays import Labelled, RawImages, load_splits, save_splits
from pipeline.datasets.formats import folder, table
from pipeline.models.families.knn import family as knn
from pipeline.retraining import ingest
from pipeline.stages import prepare, validate
from pipeline.validation import suites
from tests import test_ingest
from tests.test_class_conflicts import SETTINGS, photographs
from tests.test_packing import SECTION, pinned

PEOPLE = tuple(f"anna-{number}" for number in range(12))
CLASSES = ("cat", "dog", "owl")


def draw(home: Path, pictures: int = 3) -> list[tuple[str, str, str]]:
    """Write pictures of every class by every person; return path, label and person of each."""
    images = iter(photographs(len(PEOPLE) * len(CLASSES) * pictures, 1))
    rows = []
    for person in PEOPLE:
        for name in CLASSES:
            for index in range(pictures):
                path = home / name / f"{person}_{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(next(images)).save(path)
                rows.append((f"{name}/{path.name}", name, person))
    return rows


def read(project: Path, **more: Any) -> RawImages:
    section = pinned(project, **more)
    source = table if section["format"] == "table" else folder
    raw: RawImages = source.read(project / "data/own/pets", source.Settings.model_validate(section))
    return raw


def written(home: Path, rows: list[tuple[str, ...]], *columns: str) -> dict[str, str]:
    with (home / "pets.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", *columns), *rows])
    return {"format": "table", "path": "pets/pets.csv"}


@pytest.mark.parametrize("source", ["pattern", "pattern with parentheses", "table"])
def test_a_group_is_on_one_side_of_test_and_of_validation(tmp_path: Path, source: str) -> None:
    rows = draw(tmp_path / "pets")
    pattern = {"pattern": "anna-[0-9]+", "pattern with parentheses": "/(anna)-([0-9]+)_[0-9]+[.]png$"}.get(source)
    raw = read(tmp_path, **({"group": pattern} if pattern else written(tmp_path / "pets", rows, "group")))
    assert set(raw.train.groups).isdisjoint(raw.test.groups)
    assert len({*raw.train.groups, *raw.test.groups}) == len(PEOPLE)
    assert np.bincount(raw.test.labels).tolist() == [9, 9, 9]  # of 36, at a fraction of 0.25
    splits = prepare.run(raw, prepare.PrepareSettings(val_fraction=0.1, seed=0)).splits
    sides = [{image.tobytes() for image in side.images} for side in (splits.train, splits.val)]
    of_sides = [
        {group for group, image in zip(raw.train.groups, raw.train.images, strict=True) if image.tobytes() in side}
        for side in sides
    ]
    assert of_sides[0].isdisjoint(of_sides[1])
    assert np.bincount(splits.val.labels).tolist() == [3, 3, 3]


def test_groups_are_whole_in_the_folds_of_a_cross_validation(tmp_path: Path) -> None:
    draw(tmp_path / "pets")
    prepared = prepare.run(read(tmp_path, group="anna-[0-9]+"), prepare.PrepareSettings(val_fraction=0.1, seed=0))
    save_splits(tmp_path / "prepared", prepared.splits)
    train = load_splits(tmp_path / "prepared").train
    assert set(train.groups) == set(prepared.splits.train.groups)
    used = np.random.default_rng(0).permutation(len(train))
    for groups, whole in ((train.groups, True), ((), False)):
        folds = knn._folds(used, groups, 5)
        assert sorted(np.concatenate(folds).tolist()) == list(range(len(train)))
        assert len(folds) == 5
        of_folds = [{train.groups[index] for index in fold} for fold in folds]
        assert all(one.isdisjoint(other) for one, other in combinations(of_folds, 2)) is whole
    assert len(knn._folds(used, ("anna",) * len(train), 5)) == 5


def test_a_new_picture_of_a_known_group_moves_no_other(tmp_path: Path) -> None:
    draw(tmp_path / "pets")
    before = set(read(tmp_path, group="anna-[0-9]+").test.groups)
    draw(tmp_path / "pets", pictures=4)
    assert set(read(tmp_path, group="anna-[0-9]+").test.groups) == before


def test_pictures_without_a_group_stay_with_their_copies_and_groups_with_theirs() -> None:
    images = photographs(40, 2)
    images[1], images[3] = images[0], images[2]
    groups = ("", "", "a", "b", *("a", "b", "", "") * 9)
    for seed in range(5):
        mask = grouping.choose_test(images, np.repeat([0, 1], 20), groups, 0.25, seed)
        assert mask[0] == mask[1]
        linked = mask[[group != "" for group in groups]]
        assert linked.all() or not linked.any()  # images 2 and 3 are the same picture of both groups


@pytest.mark.parametrize("counts", [[1, 12, 12], [2, 12, 12], [3, 12, 12], [12, 3, 2]])
def test_every_class_with_enough_groups_gets_one_on_each_side(counts: list[int]) -> None:
    labels = np.repeat(np.arange(3), np.array(counts) * 5)
    component = np.repeat(np.arange(sum(counts)) * 5, 5)
    mask = grouping.choose(component, labels, 0.2, np.unique(component).tolist(), leave=2)
    for label, count in enumerate(counts):
        test = len(np.unique(component[mask & (labels == label)]))
        assert test == (0 if count == 1 else 1 if count < 12 else 2)


def test_a_group_on_both_sides_of_a_given_split_is_refused_by_name(tmp_path: Path) -> None:
    draw(tmp_path / "pets/train")
    (tmp_path / "pets/test").mkdir()
    for name in CLASSES:
        (tmp_path / "pets/train" / name).rename(tmp_path / "pets/test" / name)
        (tmp_path / "pets/train" / name).mkdir()
        for path in (tmp_path / "pets/test" / name).glob("anna-[0-7]_?.png"):
            path.rename(tmp_path / "pets/train" / name / path.name)
    assert len(read(tmp_path, group="anna-[0-9]+").test) == 36
    (tmp_path / "pets/test/owl/anna-8_0.png").rename(tmp_path / "pets/train/owl/anna-8_0.png")
    with pytest.raises(DataError, match=r"1 groups are on both sides: .*found 'anna-8' \(1 and 8 pictures\)"):
        read(tmp_path, group="anna-[0-9]+")


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (
            "berta-[0-9]+",
            "108 of 108 pictures are in no group: expected the pattern .* in every path, found cat/anna-0_0.p",
        ),
        ("anna-1[0-9]", "90 of 108 pictures are in no group"),
        (r"(anna|berta", "regular expression"),
    ],
)
def test_a_pattern_that_finds_no_group_is_refused(tmp_path: Path, group: str, message: str) -> None:
    draw(tmp_path / "pets")
    with pytest.raises((DataError, ParamsError), match=message):
        read(tmp_path, group=group)


def test_groups_of_a_column_and_of_a_pattern_are_not_mixed(tmp_path: Path) -> None:
    rows = draw(tmp_path / "pets")
    with pytest.raises(DataError, match=r"download.pets.group: expected groups from .*found both; next: remove one"):
        read(tmp_path, **written(tmp_path / "pets", rows, "group"), group="anna")


def test_a_pattern_that_changes_where_the_pictures_are_not_is_refused(tmp_path: Path) -> None:
    draw(tmp_path / "pets")
    section = pinned(tmp_path, group="anna-[0-9]+")
    for group in (r"(anna)", None):
        settings = folder.Settings.model_validate({**section, "group": group})
        with pytest.raises(DataError, match=r"found those of anna-\[0-9\]\+; next: call `pipeline ingest`"):
            folder.read(tmp_path / "data/own/pets", settings)
    with pytest.raises(ParamsError, match="no regular expression"):
        params.parse("download.pets", {**section, "group": "("}, folder.Settings)


def test_without_groups_a_packed_file_is_what_it_was(tmp_path: Path) -> None:
    draw(tmp_path / "pets")
    [pin] = pinned(tmp_path)["files"]
    with zipfile.ZipFile(tmp_path / "data/own/pets" / pin["name"]) as archive:
        assert all(name.startswith("all/") for name in archive.namelist())
    [grouped] = pinned(tmp_path, group="anna")["files"]
    assert grouped["sha256"] != pin["sha256"]


# ---------------------------------------------------------------- batches

PEOPLE_OF_BATCH = ("in test", "in train", "new")


def grouped(part: Labelled, *people: str) -> Labelled:
    return replace(part, groups=tuple(people[index % len(people)] for index in range(len(part))))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose dataset has groups."""
    root = test_ingest.made(tmp_path, monkeypatch)
    raw = replace(test_ingest.RAW, train=grouped(test_ingest.RAW.train, "in train"))
    raw = replace(raw, test=grouped(raw.test, "in test"), group=r"([a-z]+ ?[a-z]*)-")
    scale = ingest._reference(None)[1]  # type: ignore[arg-type]
    monkeypatch.setattr(ingest, "_reference", lambda places: (raw, scale))
    return root


def grown(root: Path) -> manifest.Grown:
    raw = ingest._reference(None)[0]  # type: ignore[arg-type]
    return manifest.grow(raw, root / "reports/ingest/toy", root / "data/accepted/toy")


@pytest.mark.parametrize("kind", ["groups", "group", "folder"])
def test_pictures_of_a_batch_whose_group_is_in_test_are_held_back_and_counted(project: Path, kind: str) -> None:
    batch = grouped(test_ingest.GOOD, *PEOPLE_OF_BATCH)
    box = project / "data/incoming/toy"
    if kind == "folder":
        for index, (image, label) in enumerate(zip(batch.images, batch.labels, strict=True)):
            path = box / "monday" / test_ingest.NAMES[label] / f"{PEOPLE_OF_BATCH[index // 30]}-{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    else:
        np.savez(box / "monday.npz", images=batch.images, labels=batch.labels, **{kind: np.array(batch.groups)})
    [line] = test_ingest.take(project).said
    assert "accepted: 90 images, 30 of them held back because their groups are in test, digest" in line
    assert line.endswith("; labels 0 = 'left', 1 = 'middle', 2 = 'right'")
    found = grown(project)
    assert (found.images, found.held_back) == (60, 30)
    assert set(found.raw.train.groups) == {"in train", "new"}
    group = prepare.groups_of(found.raw.train.images, prepare.NONE, found.raw.train.groups)
    assert len(np.unique(group)) == 2


def test_a_test_image_in_a_group_of_test_is_no_reason_to_refuse_the_others(project: Path) -> None:
    batch = grouped(test_ingest.GOOD, "new")
    images, groups = batch.images.copy(), ["in test", *batch.groups[1:]]
    images[0] = test_ingest.RAW.test.images[0]
    np.savez(project / "data/incoming/toy/monday.npz", images=images, labels=batch.labels, groups=groups)
    assert "1 of them held back" in test_ingest.take(project).said[0]


def test_a_batch_that_is_all_of_test_groups_is_refused_and_one_without_groups_is_warned_of(project: Path) -> None:
    arrays = {"images": test_ingest.GOOD.images, "labels": test_ingest.GOOD.labels}
    np.savez(project / "data/incoming/toy/a.npz", **arrays, groups=["in test"] * 90)
    np.savez(project / "data/incoming/toy/b.npz", **arrays)
    said = test_ingest.take(project).said
    assert "a.npz quarantined: nothing is left to learn from: every image is of a group in test" in said[0]
    assert "b.npz accepted" in said[1]
    assert "b.npz: warning: it has no groups, and the dataset has" in said[2]


def test_a_batch_with_other_groups_is_another_batch(project: Path) -> None:
    for name in ("anna", "berta"):
        data = grouped(test_ingest.GOOD, name)
        assert data.digest() not in {test_ingest.GOOD.digest(), grouped(test_ingest.GOOD, "carl").digest()}
        assert manifest.store(project / "accepted", data) == data.digest()
        entry = manifest.ManifestEntry(digest=data.digest(), batch="x", images=90, classes=test_ingest.NAMES)
        assert manifest.load(project / "accepted", entry, project, test_ingest.NAMES).groups == data.groups


def test_a_picture_of_a_batch_without_its_group_in_the_path_is_named(project: Path) -> None:
    path = project / "data/incoming/toy/monday/left"
    path.mkdir(parents=True)
    Image.fromarray(test_ingest.GOOD.images[0]).save(path / "1234.png")
    with pytest.raises(DataError, match=r"monday: 1 of 1 pictures are in no group: .*found left/1234.png"):
        batches.read(path.parent, (15, 15, 3), test_ingest.NAMES, r"([a-z]+)-")


# ---------------------------------------------------------------- a class that is one group


def frames(count: int) -> np.ndarray:
    noise = np.random.default_rng(3).integers(0, 3, (count, 16, 16, 3), dtype=np.uint8)
    return photographs(1, 7) + noise


def refused(tmp_path: Path, raw: RawImages) -> str:
    result = validate.run("pets", raw, SETTINGS.model_copy(update={"max_imbalance": 100}), tmp_path / "docs")
    return str(validate.refusal(result, tmp_path / "docs"))


def collected(ships: np.ndarray, groups: tuple[str, ...] = ()) -> RawImages:
    """Cats, dogs and ships; a sixth of each is in test."""
    images = np.concatenate([photographs(120, 5), ships])
    labels = np.repeat(np.arange(3), [60, 60, len(ships)])
    files = tuple(f"{('cat', 'dog', 'ship')[label]}/{index}.png" for index, label in enumerate(labels))
    everything = Labelled(images, labels, files, ("",) * 120 + groups if groups else ())
    test = np.arange(len(labels)) % 6 == 5
    return RawImages(
        everything.take(np.flatnonzero(~test)), everything.take(np.flatnonzero(test)), ("cat", "dog", "ship")
    )


def test_a_class_of_one_burst_is_named_with_its_files(tmp_path: Path) -> None:
    error = refused(tmp_path, collected(frames(72)))
    assert "class-groups: expected at least 2, found 1: " in error
    found = "all 60 pictures of 'ship' in train are near duplicates of each other"
    assert (
        f"{found} (train/ship/120.png, train/ship/121.png, train/ship/122.png, …): add others, or leave the class out"
        in error
    )
    assert "val_fraction" not in error


def test_a_class_of_one_picture_and_its_copies_is_named_and_one_of_two_bursts_is_not(tmp_path: Path) -> None:
    two = np.concatenate([frames(36), photographs(1, 8) + frames(36) % 3])
    for ships, named in ((np.repeat(frames(1), 72, axis=0), True), (two, False)):
        raw = collected(ships)
        parts = {"train": raw.train, "test": raw.test}
        near = suites.near_duplicates(parts, SETTINGS, "pets").within(0.15)
        assert bool(validate.one_group(raw, suites.image_table(parts, near))) is named


def test_a_class_of_one_person_is_named_by_the_group(tmp_path: Path) -> None:
    raw = collected(photographs(72, 9), ("anna",) * 72)
    table_of = suites.image_table({"train": raw.train, "test": raw.test})
    [text] = validate.one_group(raw, table_of)
    assert text.startswith("all 60 pictures of 'ship' in train are of the group 'anna' (train/ship/120.png, ")


def test_prepare_advises_what_works(tmp_path: Path) -> None:
    raw = collected(photographs(72, 9), ("anna",) * 72)
    settings = prepare.PrepareSettings(val_fraction=0.1, seed=0)
    with pytest.raises(DataError, match=r"class ship cannot be split.*in groups: 1; next: add images that are no near"):
        prepare.run(raw, settings)
    small = Labelled(photographs(46, 11), np.repeat([0, 1], [43, 3]))
    with pytest.raises(DataError, match=r"next: set prepare.val_fraction to 0.17 or more, or add images"):
        prepare.run(RawImages(small, raw.test, ("cat", "dog")), settings)
    advised = prepare.PrepareSettings(val_fraction=0.17, seed=0)
    assert np.bincount(prepare.run(RawImages(small, raw.test, ("cat", "dog")), advised).splits.val.labels)[1] == 1


def test_sections_without_groups_are_valid() -> None:
    section = {
        **SECTION,
        "path": "pets",
        "files": [{"name": "a", "bytes": 1, "sha256": "0" * 64}],
        "classes": ["a", "b"],
    }
    assert folder.Settings.model_validate(section).group is None
