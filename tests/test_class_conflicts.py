"""One picture in two classes is refused with both names, in a dataset and in a batch; look-alikes are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core import params
from pipeline.datasets import batches
from pipeline.datasets.arrays import Labelled, RawImages, concatenated
from pipeline.datasets.formats import folder
from pipeline.stages import validate
from pipeline.validation import batch_checks, class_conflicts, reference, suites
from tests.test_packing import pinned

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("cat", "dog")
SETTINGS = params.load("validate", suites.ValidateSettings, ROOT / "params.yaml")
DISTANCE = 0.15


def photographs(count: int, seed: int) -> np.ndarray:
    """Colour images of 16×16 with patterns of their own."""
    random = np.random.default_rng(seed)
    coarse = random.integers(20, 180, (count, 4, 4, 3), dtype=np.uint8)
    fine = np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)
    return (fine + random.integers(0, 20, fine.shape, dtype=np.uint8)).astype(np.uint8)


def labelled(per_class: int, seed: int, split: str = "") -> Labelled:
    images, labels = photographs(2 * per_class, seed), np.repeat(np.arange(2), per_class)
    files = tuple(f"{split}{NAMES[label]}/{index}.png" for index, label in enumerate(labels))
    return Labelled(images, labels, files)


RAW = RawImages(labelled(40, 1, "train/"), labelled(20, 2, "test/"), NAMES)
SCALE = reference.learn(suites.image_table({"train": RAW.train}))


def with_images(part: Labelled, *images: np.ndarray, at: int = 0) -> Labelled:
    changed = part.images.copy()
    changed[at : at + len(images)] = images
    return replace(part, images=changed)


def found(parts: dict[str, Labelled]) -> dict[str, list[str]]:
    near = suites.near_duplicates(parts, SETTINGS, "pets").within(DISTANCE)
    return class_conflicts.texts(parts, NAMES, class_conflicts.find(parts, near, DISTANCE))


def test_pictures_that_lie_in_two_class_folders_are_refused_by_both_names(tmp_path: Path) -> None:
    images = photographs(60, 3)
    for name, chosen in (("cat", images[:30]), ("dog", np.concatenate([images[30:58], images[:2]]))):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index, image in enumerate(chosen):
            Image.fromarray(image).save(tmp_path / f"pets/{name}/{index}.png")
    settings = folder.Settings.model_validate(pinned(tmp_path))
    raw = folder.read(tmp_path / "data/own/pets", settings)
    error = str(validate.refusal(validate.run("pets", raw, SETTINGS, tmp_path / "docs"), tmp_path / "docs"))
    assert "two-classes: expected no image in two classes, found 2: " in error
    for index in (0, 1):
        assert (
            f"cat/{index}.png and dog/{28 + index}.png" in error or f"dog/{28 + index}.png and cat/{index}.png" in error
        )


def judged(batch: Labelled, known: RawImages = RAW) -> batch_checks.BatchDecision:
    settings = SETTINGS.model_copy(update={"max_outliers": 0.5, "max_shift": 5})
    return batch_checks.judge("pets", batch, known, SCALE, settings)


def test_a_picture_of_a_batch_that_the_dataset_has_in_another_class_is_refused_by_both_names(tmp_path: Path) -> None:
    for index, image in enumerate(photographs(20, 4)):
        (tmp_path / "monday/dog").mkdir(parents=True, exist_ok=True)
        Image.fromarray(RAW.train.images[3] if index == 7 else image).save(tmp_path / f"monday/dog/{index:02}.png")
    [reason] = judged(batches.read(tmp_path / "monday", (16, 16, 3), NAMES)).reasons
    assert "(two-classes): expected no image in two classes, found 1: train/cat/3.png and monday/dog/07.png" in reason


def test_every_place_where_a_batch_may_meet_its_picture_is_searched(tmp_path: Path) -> None:
    earlier = replace(labelled(10, 5), files=tuple(f"sunday.npz[{index}]" for index in range(20)))
    known = replace(RAW, train=concatenated([RAW.train, earlier]))
    fresh = photographs(20, 6)
    fresh[0], fresh[1], fresh[2], fresh[3] = RAW.test.images[2], earlier.images[4], fresh[9], RAW.train.images[50]
    labels = np.array([1, 1, 1, 1] + [0] * 16)
    np.savez(tmp_path / "monday.npz", images=fresh, labels=labels)
    reasons = judged(batches.read(tmp_path / "monday.npz", (16, 16, 3), NAMES), known).reasons
    [reason] = [reason for reason in reasons if "(two-classes)" in reason]
    pairs = reason.partition("found 3: ")[2].split(", ")
    assert pairs == [
        "test/cat/2.png and monday.npz[0] ('dog')",
        "sunday.npz[4] ('cat') and monday.npz[1] ('dog')",
        "monday.npz[2] ('dog') and monday.npz[9] ('cat')",
    ]


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda image: image[:, ::-1], " look the same when mirrored"),
        (lambda image: image[::-1], " look the same when mirrored"),
        (lambda image: (image + 40).astype(np.uint8), " look the same"),
        (lambda image: (image * 0.8 + 5).astype(np.uint8)[:, ::-1], " look the same when mirrored"),
    ],
    ids=["left to right", "upside down", "brighter", "mirrored and darker"],
)
def test_a_look_alike_in_another_class_is_a_warning_that_names_both(change, how: str) -> None:
    parts = {"train": RAW.train, "test": with_images(RAW.test, change(RAW.train.images[5]), at=30)}
    assert found(parts) == {"two-classes": [], "two-classes-near": [f"train/cat/5.png and test/dog/30.png{how}"]}
    mine = {"train": RAW.train, "test": with_images(RAW.test, change(RAW.train.images[5]), at=3)}
    assert found(mine) == {"two-classes": [], "two-classes-near": []}


def test_look_alikes_of_a_batch_are_warned_of_and_stop_nothing() -> None:
    batch = labelled(10, 8, "monday/")
    decision = judged(with_images(batch, RAW.train.images[45][:, ::-1]))
    assert decision.reasons == ()
    assert decision.warnings == ("two-classes-near",)
    [outcome] = [outcome for outcome in decision.outcomes if not outcome.passed]
    assert outcome.found == "1: train/dog/45.png and monday/cat/0.png look the same when mirrored"


def test_a_picture_in_three_classes_is_named_once_for_each_further_one() -> None:
    same = np.repeat(photographs(1, 9), 4, axis=0)
    parts = {"train": Labelled(same, np.array([0, 2, 1, 0])), "test": RAW.test}
    conflicts = class_conflicts.find(parts, suites.near_duplicates(parts, SETTINGS, "pets"), DISTANCE)
    texts = class_conflicts.texts(parts, ("a", "b", "c"), conflicts)["two-classes"]
    assert texts[0] == "train[0] ('a') and train[1] ('c')"
    assert len(texts) == 3
