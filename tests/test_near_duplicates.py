"""Near duplicates: none missed, none invented, and the files that list them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import DataError
from pipeline.core.params import load
from pipeline.datasets.formats import idx
from pipeline.validation import duplicate_pairs, near_duplicates

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"


def brute_force(images: np.ndarray, limit: float) -> dict[tuple[int, int], float]:
    """Every pair within the limit, from the definition: float64, all pixels, no projection."""
    values = images.astype(np.float64)
    values -= values.mean(axis=(1, 2), keepdims=True)
    flat = values.reshape(len(images), -1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    apart = np.sqrt(np.maximum(0, 2 - 2 * flat @ flat.T))
    first, second = np.nonzero(np.tril(apart <= limit, -1))
    return {(int(a), int(b)): float(apart[a, b]) for a, b in zip(first, second, strict=True)}


def found(images: np.ndarray, limit: float, since: int = 0) -> dict[tuple[int, int], float]:
    near = near_duplicates.search(images, limit, since)
    return {(int(a), int(b)): float(d) for a, b, d in zip(near.first, near.second, near.distance, strict=True)}


def noise(count: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("limit", [0.15, 0.3, 0.5])
def test_on_real_digits_it_finds_what_comparing_all_with_all_finds(mirror: Path, limit: float) -> None:
    images = idx.read(mirror / "mnist", load("download.mnist", idx.Settings, PARAMS)).train.images[:4000]
    expected = brute_force(images, limit)
    assert len(expected) > (0 if limit > 0.2 else -1)
    assert found(images, limit).keys() == expected.keys()


def test_on_colour_images_of_odd_sizes_too() -> None:
    base = np.random.default_rng(1).normal(size=(600, 7, 9, 3)).cumsum(axis=1).cumsum(axis=2)
    dust = np.random.default_rng(2).normal(size=(300, 7, 9, 3))
    base[300:] = base[:300] + dust * np.linspace(0.2, 3, 300)[:, None, None, None]
    base = (base - base.min(axis=(1, 2, 3), keepdims=True)) / np.ptp(base, axis=(1, 2, 3), keepdims=True)
    images = np.repeat(np.repeat((base * 255).astype(np.uint8), 3, axis=1), 3, axis=2)
    expected = brute_force(images, 0.3)
    assert 50 < len(expected) < 5000
    assert found(images, 0.3) == pytest.approx(expected, abs=1e-3)


def test_neither_brightness_nor_contrast_nor_tint_hides_a_copy() -> None:
    images = noise(50, (8, 8, 3)) // 2
    images[10] = images[20] + 60
    images[11] = (images[21] * 1.5).astype(np.uint8)
    images[12] = images[22] + np.array([0, 50, 100], np.uint8)
    assert found(images, 0.05).keys() == {(20, 10), (21, 11), (22, 12)}


def test_a_faint_mark_on_a_plain_ground_is_not_lost_in_it() -> None:
    images = np.full((2, 16, 16, 1), 200, np.uint8)
    images[0, 3:5, 3:5] = 180
    images[1, 9:11, 9:11] = 180
    assert found(images, 1.0) == {}


def test_only_the_first_of_equal_images_and_no_constant_one_is_in_a_pair() -> None:
    images = noise(6, (8, 8, 1))
    images[1] = images[2] = images[0]
    images[3] = images[0]
    images[3, 0, 0] ^= 8
    images[4], images[5] = 0, 255
    assert found(images, 0.2).keys() == {(3, 0)}


def test_what_is_new_is_compared_with_all_and_what_is_known_with_nothing() -> None:
    images = np.concatenate([noise(40, (8, 8, 1))] * 2)
    images[40:, 0, 0] ^= 8
    images[1] = images[0]
    images[1, 3, 3] ^= 8
    everything = found(images, 0.2)
    assert (1, 0) in everything
    assert found(images, 0.2, since=40).keys() == {pair for pair in everything if pair[0] >= 40}
    assert found(images, 0.2, since=80) == {}


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_have_no_pairs(count: int) -> None:
    assert found(noise(count, (8, 8, 1)), 0.5) == {}


def test_pairs_come_nearest_first() -> None:
    near = near_duplicates.search(noise(300, (4, 4, 1)), 0.9)
    assert len(near) > 10
    assert (np.diff(near.distance) >= 0).all()
    assert len(near.within(float(near.distance[4]))) == 5


def test_more_pairs_than_a_flaw_could_make_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(near_duplicates, "_MOST", 5)
    with pytest.raises(DataError, match=r"too many.*next: lower validate\.near_duplicates\.distance"):
        near_duplicates.search(noise(300, (4, 4, 1)), 0.9)


def test_saved_pairs_come_back_by_split(tmp_path: Path) -> None:
    near = duplicate_pairs.Pairs(np.array([3, 12, 14]), np.array([1, 2, 11]), np.array([0.01, 0.02, 0.03]))
    duplicate_pairs.save(tmp_path / "near.csv", near, {"train": 10, "test": 5})
    assert (tmp_path / "near.csv").read_text().splitlines()[1:] == [
        "train,1,train,3,0.0100",
        "train,2,test,2,0.0200",
        "test,1,test,4,0.0300",
    ]
    train = duplicate_pairs.load(tmp_path / "near.csv", "train", 10)
    assert (train.first.tolist(), train.second.tolist(), train.distance.tolist()) == ([3], [1], [0.01])


HEADER = ",".join(duplicate_pairs.HEADER)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b\n",
        f"{HEADER}\ntrain,1,train\n",
        f"{HEADER}\ntrain,one,train,2,0.1\n",
        f"{HEADER}\ntrain,1,train,10,0.1\n",
        f"{HEADER}\ntrain,-1,train,3,0.1\n",
        f"{HEADER}\ntrain,3,train,3,0.1\n",
    ],
)
def test_damaged_pairs_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "near.csv").write_text(text)
    with pytest.raises(DataError, match=r"is not a table of pairs.*next: dvc repro validate"):
        duplicate_pairs.load(tmp_path / "near.csv", "train", 10)


def test_missing_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a table of pairs"):
        duplicate_pairs.load(tmp_path / "none.csv", "train", 10)


def test_a_chain_of_pairs_is_one_group() -> None:
    group = duplicate_pairs.groups(np.array([5, 9, 7]), np.array([3, 5, 1]), 10)
    assert group.tolist() == [0, 1, 2, 3, 4, 3, 6, 1, 8, 3]


@pytest.mark.parametrize("pairs", [0, 1, 30, 60, 400])
def test_groups_are_what_pairs_reach_step_by_step(pairs: int) -> None:
    """The definition itself: the lowest number spreads along every pair until nothing changes."""
    first, second = np.random.default_rng(pairs).integers(0, 80, (2, pairs))
    lowest = np.arange(80)
    for _ in range(80):
        for one, other in zip(first, second, strict=True):
            lowest[[one, other]] = min(lowest[one], lowest[other])
    group = duplicate_pairs.groups(first, second, 80)
    assert group.tolist() == lowest.tolist()
    assert group.dtype == np.int64
