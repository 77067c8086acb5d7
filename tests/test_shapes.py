"""The drawn dataset: the same bytes everywhere, balanced, and not distinguishable by colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from pipeline.core import params
from pipeline.core.errors import DataError
from pipeline.datasets.download.sources import Environment
from pipeline.datasets.formats import shapes
from pipeline.stages import download

ROOT = Path(__file__).resolve().parents[1]


def settings(**changed: object) -> shapes.Settings:
    return params.load("download.shapes", shapes.Settings, ROOT / "params.yaml").model_copy(update=changed)


def test_the_seed_draws_the_same_bytes_on_every_machine() -> None:
    drawn = shapes.draw(settings().classes, 40, [0, 0])
    # Recorded once from this code: another value means that the dataset, and every figure taken on it, has changed.
    assert drawn.digest() == "4ac800ac522cb95e8db8ae0b9a60d2694a4bb88de4dcac007b7ded73cf2a7584"
    assert drawn.images.shape == (40, 32, 32, 3)
    assert np.bincount(drawn.labels).tolist() == [4] * 10
    assert not np.array_equal(drawn.images, shapes.draw(settings().classes, 40, [1, 0]).images)


def test_train_and_test_are_different_pictures() -> None:
    raw = shapes.read(Path("nowhere"), settings(train=300, test=100))
    assert not {image.tobytes() for image in raw.train.images} & {image.tobytes() for image in raw.test.images}


def test_colour_and_place_do_not_reveal_the_class() -> None:
    raw = shapes.read(Path("nowhere"), settings(train=3000, test=1000))

    def right(features: object) -> float:
        centroids = NearestCentroid().fit(features(raw.train.images), raw.train.labels)  # type: ignore[operator]
        return float(centroids.score(features(raw.test.images), raw.test.labels))  # type: ignore[operator]

    assert right(lambda images: images.mean(axis=(1, 2))) < 0.2  # chance is 0.1
    assert right(lambda images: images.reshape(len(images), -1)) < 0.3


def test_an_unknown_shape_is_an_error_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"expected 'triangle'\?.*found 'trangle'"):
        shapes.read(Path("nowhere"), settings(classes=("disc", "trangle")))


def test_there_is_nothing_to_download(tmp_path: Path) -> None:
    section = params.load("download.shapes", download.DownloadSettings, ROOT / "params.yaml")
    result = download.run("shapes", section, tmp_path / "partial", tmp_path / "raw", Environment(None, None))
    assert result.folder == tmp_path / "raw"
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["README.txt"]
