"""Registered generators and completers, as MLflow runs them, and the tasks that score what they answer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.backend import configure
from pipeline.datasets.arrays import Labelled, Splits, TestSplit, load_splits
from pipeline.evaluation import base as scores
from pipeline.evaluation import feature_network
from pipeline.models import loading
from pipeline.models.base import Spec
from pipeline.models.families.knn.family import Neighbours
from pipeline.registry import packaging
from pipeline.tracking.runs import load_mlflow
from tests.test_models import POINTS

NAMES = tuple("0123456789")
POINT = {"architecture": "dcgan", "width": 16, "latent": 32, "conditional": True}
COMPLETER = {"cell": "gru", "layers": 1, "units": 32, "dropout": 0.0}


@pytest.fixture(scope="module", autouse=True)
def keras_backend() -> None:
    configure.configure("tensorflow", threads=1)


@pytest.fixture(scope="module")
def data(prepared_digits: Path) -> Splits:
    return load_splits(prepared_digits)


def served(family: str, hyperparameters: dict[str, Any], folder: Path) -> Any:
    """Return what asks a new model of a family as MLflow does: it is saved, and loaded by the serving code."""
    from pipeline.serving.completer import Completer
    from pipeline.serving.generator import Generator

    model = loading.load(family, {}).build(hyperparameters, Spec((28, 28, 1), 10))  # type: ignore[attr-defined]
    model.save(folder / "model.keras")
    wrapped = {"gan": Generator, "seq2seq": Completer}[family]()
    config = {"class_names": list(NAMES), "backend": "tensorflow"}
    wrapped.load_context(SimpleNamespace(artifacts={"model": str(folder / "model.keras")}, model_config=config))
    return SimpleNamespace(predict=lambda inputs: wrapped.predict(None, inputs))


def wish(*rows: tuple[int, int, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["n", "seed", "label"])


def test_a_generator_draws_what_each_row_asks_for_whatever_the_others_ask(tmp_path: Path) -> None:
    model = served("gan", POINT, tmp_path)
    both = model.predict(wish((3, 1, 7), (2, 2, -1)))
    assert (both.shape, both.dtype) == ((5, 28, 28, 1), np.uint8)
    np.testing.assert_array_equal(both[:3], model.predict(wish((3, 1, 7))))
    np.testing.assert_array_equal(both[3:], model.predict(wish((2, 2, -1)).drop(columns="label")))
    assert (model.predict(wish((3, 1, 4))) != both[:3]).any(), "another label"
    assert (model.predict(wish((3, 5, 7))) != both[:3]).any(), "another seed"
    assert model.predict(wish((0, 1, 7))).shape == (0, 28, 28, 1)
    for wrong, message in (
        ((1, 1, 10), "expected 0 to 9"),
        ((-1, 1, 0), "expected 0 to"),
        ((10**6, 1, 0), "images in all"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict(wish(wrong))


def test_a_generator_without_labels_leaves_them_aside(tmp_path: Path) -> None:
    model = served("gan", {**POINT, "conditional": False}, tmp_path)
    np.testing.assert_array_equal(model.predict(wish((3, 1, 4))), model.predict(wish((3, 1, 7))))


def test_a_completer_keeps_the_half_that_it_was_given(tmp_path: Path, data: Splits) -> None:
    model = served("seq2seq", COMPLETER, tmp_path)
    images = np.asarray(data.val.images[:5])
    whole = model.predict(images[:, :14])
    assert (whole.shape, whole.dtype) == (images.shape, np.uint8)
    np.testing.assert_array_equal(whole[:, :14], images[:, :14])
    with pytest.raises(ValueError, match=r"expected uint8 of shape \(N, \(14, 28, 1\)\)"):
        model.predict(images)


def test_models_take_what_their_signature_declares(tmp_path: Path, data: Splits) -> None:
    images = np.asarray(data.val.images[:4])
    for task, family, point in (("generate", "gan", POINT), ("complete", "seq2seq", COMPLETER)):
        interface = scores.load(task).interface(images)
        answer = served(family, point, tmp_path).predict(interface.example)
        output = packaging.signature(interface).outputs.inputs[0]
        assert (answer.dtype, answer.shape[1:]) == (output.type, output.shape[1:])
        assert len(answer) == len(images)


def test_an_untrained_generator_scores_far_above_the_floor(tmp_path: Path, data: Splits) -> None:
    feature_network.train(data, tmp_path / "scale", steps=60, seed=0)
    split = TestSplit(data.val, data.class_names, "digest")
    scored = scores.load("generate").score(served("gan", POINT, tmp_path), split, tmp_path / "scale", 0.95)
    assert scored.figures["fid"] > 5 * scored.figures["floor_fid"]
    assert scored.figures["kid"] > scored.figures["floor_kid"]
    assert scored.figures["covered"] < 10
    assert scored.kept["features"].shape == scored.kept["real"].shape == (len(data.val), 128)
    assert scored.plots["samples.png"].startswith(b"\x89PNG")
    scale = json.loads((tmp_path / "scale" / "scale.json").read_text())
    assert scored.figures["features"] == scale["digest"]


def test_training_images_given_back_are_called_memorised(tmp_path: Path, data: Splits) -> None:
    feature_network.train(data, tmp_path / "scale", steps=60, seed=0)
    split = TestSplit(data.val, data.class_names, "digest")
    by_class = [data.train.images[data.train.labels == label] for label in range(10)]

    def copies(inputs: pd.DataFrame) -> np.ndarray:
        return np.concatenate([by_class[label][:n] for n, label in zip(inputs["n"], inputs["label"], strict=True)])

    scored = scores.load("generate").score(SimpleNamespace(predict=copies), split, tmp_path / "scale", 0.95)
    assert scored.figures["memorised"] == 1.0
    assert scored.figures["covered"] == 10
    assert scored.figures["nearest"] < 0.1 < scored.figures["nearest_real"]


def loaded(family: str, folder: Path, data: Splits) -> tuple[Any, Any]:
    """Return an untrained model as MLflow loads it, with its signature, and an input for it."""
    folder.mkdir()
    if family == "knn":
        known = Labelled(np.asarray(data.val.images[:9]), np.asarray(data.val.labels[:9]))
        file = folder / "model.npz"
        Neighbours([], 0, known, "l2", 3, 10).export(folder)
    else:
        file = folder / "model.keras"
        points = {"mlp": POINTS["mlp"], "gan": POINT, "seq2seq": COMPLETER}
        loading.load(family, {}).build(points[family], Spec((28, 28, 1), 10)).save(file)  # type: ignore[attr-defined]
    kind = loading.load(family, {})
    interface = scores.load(kind.task).interface(np.asarray(data.val.images[:4]))
    load_mlflow().pyfunc.save_model(
        folder / "saved",
        python_model=str(packaging.serving_code(kind)),
        artifacts={"model": str(file)},
        model_config={"class_names": list(NAMES), "backend": "tensorflow"},
        signature=packaging.signature(interface),
        pip_requirements=[],
    )
    return load_mlflow().pyfunc.load_model(str(folder / "saved")), interface.example


@pytest.mark.parametrize("family", ["mlp", "knn", "gan", "seq2seq"])
def test_a_model_that_gets_no_rows_returns_none_with_all_columns(family: str, tmp_path: Path, data: Splits) -> None:
    model, example = loaded(family, tmp_path / "model", data)
    some, none = model.predict(example), model.predict(example[:0])
    assert len(some) == 4
    assert len(none) == 0
    if isinstance(some, pd.DataFrame):
        assert list(none.columns) == ["label", "class_name", "probabilities"]
        assert list(none.dtypes) == list(some.dtypes)
    else:
        assert (none.dtype, none.shape[1:]) == (some.dtype, some.shape[1:])


def test_every_serving_module_is_tried_without_rows() -> None:
    modules = {path.stem for path in (Path(__file__).parents[1] / "pipeline" / "serving").glob("[a-z]*.py")}
    assert {loading.load(family, {}).serving for family in ("mlp", "knn", "gan", "seq2seq")} == modules
