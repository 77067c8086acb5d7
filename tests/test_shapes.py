"""The drawn colour dataset: the same bytes everywhere, balanced, and colour that tells nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import download, params
from pipeline.datasets import shapes
from pipeline.datasets.base import RawImages
from pipeline.errors import DataError

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
DIGEST = "@@DIGEST@@"


@pytest.fixture(scope="module")
def settings() -> shapes.Settings:
    loaded = params.load("download.shapes", shapes.Settings, PARAMS)
    return loaded.model_copy(update={"train": 600, "test": 100})


@pytest.fixture(scope="module")
def raw(settings: shapes.Settings) -> RawImages:
    return shapes.read(Path("nowhere"), settings)


def test_a_seed_draws_the_same_bytes_on_every_machine(raw: RawImages) -> None:
    assert raw.train.digest() == DIGEST


def test_fewer_images_are_the_first_of_more(raw: RawImages, settings: shapes.Settings) -> None:
    again = shapes.read(Path(), settings.model_copy(update={"seed": 1}))
    assert again.train.digest() != raw.train.digest()
    assert raw.train.images.shape == (600, 32, 32, 3)
    assert np.bincount(raw.train.labels).tolist() == [60] * 10


def test_no_picture_occurs_twice(raw: RawImages) -> None:
    everything = np.concatenate([raw.train.images, raw.test.images])
    assert len(np.unique(everything, axis=0)) == 700


def test_mean_colours_do_not_tell_the_class(raw: RawImages) -> None:
    means = raw.train.images.mean(axis=(1, 2))
    centres = np.stack([means[raw.train.labels == label].mean(axis=0) for label in range(10)])
    nearest = ((raw.test.images.mean(axis=(1, 2))[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == raw.test.labels).mean() < 0.25
    assert (np.diff(means.mean(axis=0)) > 10).all(), "bluish, so that swapped channels are noticed"


def test_every_shape_lies_whole_in_its_picture() -> None:
    grid = np.linspace(-1.3, 1.3, 105)
    x, y = np.meshgrid(grid, grid)
    for name, distance in shapes.SHAPES.items():
        inside = distance(x, y) < 0
        assert 0.05 < inside.mean() < 0.5, name
        assert not inside[:2].any(), name
        assert not inside[:, :2].any(), name


def test_an_unknown_shape_is_told(settings: shapes.Settings) -> None:
    with pytest.raises(DataError, match=r"expected 'square'\?.*found 'sqare'"):
        shapes.read(Path(), settings.model_copy(update={"classes": ("disc", "sqare")}))


def test_download_has_nothing_to_fetch(tmp_path: Path) -> None:
    section = params.load("download.shapes", download.Settings, PARAMS)
    result = download.run("shapes", section, tmp_path / "partial", tmp_path / "raw")
    assert result.sources == {}
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["README.txt"]
    assert not (tmp_path / "partial").exists()
