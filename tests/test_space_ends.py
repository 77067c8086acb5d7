"""Every family trains its first step at every end of every dimension that it declares."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.backend import configure
from pipeline.datasets.arrays import Splits, load_splits
from pipeline.evaluation import feature_network
from pipeline.models import loading
from pipeline.models.base import Span, Spec
from pipeline.models.families.cnn.family import architectures
from pipeline.models.space import Choice
from pipeline.models.training.recipe import TRAINING
from pipeline.models.values import Hyperparameters, Value
from tests.test_models import POINTS

NAMED = "models:/digits-classifier@champion"
# Those whose models are the smallest, and those that have failed once.
SAMPLE = {"mlp weight_decay=0.0", "mlp shift=8", "knn metric=l1"}


class First:
    """A trial that takes the lower end of each range, and the first of some choices."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return low

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return low

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Any:
        return choices[0]


def settings(name: str, **space: Any) -> dict[str, Any]:
    """Return a section of params; that of `transfer` names a model that the tests make."""
    pin = {"init_from": NAMED, "version": "1", "file": "none", "sha256": "0"}
    return {"space": space, **({"init_from": NAMED, "pin": pin} if name == "transfer" else {})}


def starts() -> dict[str, tuple[str, Hyperparameters]]:
    """Return a point of what is searched by default: of every family, and of every architecture of the CNNs."""
    found = {}
    for name in sorted(loading.family_names() - {"cnn"}):
        found[name] = (name, loading.load(name, settings(name)).suggest(First()))
    for name in architectures():
        found[f"cnn {name}"] = ("cnn", loading.load("cnn", settings("cnn", architecture=name)).suggest(First()))
    return found


def ends() -> dict[str, tuple[str, Hyperparameters]]:
    """Return each of these points with one dimension at each end, or at each choice, that its family declares.

    The dimensions of the training recipe are the same for all CNNs: one architecture tries them.
    """
    found = {}
    for start, (name, point) in starts().items():
        space = loading.load(name, settings(name)).space
        shared = {"architecture", *(TRAINING if start != "cnn fast" else ())} if name == "cnn" else set()
        for key in sorted(set(point) - shared):
            declared = space[key]
            values = declared.choices if isinstance(declared, Choice) else (declared.low, declared.high)
            found |= {f"{start} {key}={value}": (name, {**point, key: value}) for value in values}
    return found


ENDS = ends()


@pytest.fixture(scope="module", autouse=True)
def keras_backend() -> None:
    configure.configure("tensorflow", threads=1)


@pytest.fixture(scope="module")
def tiny(tiny_digits: Path) -> Splits:
    return load_splits(tiny_digits)


@pytest.fixture(scope="module")
def features(tiny: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    feature_network.train(tiny, folder, steps=2, seed=0)
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of `transfer` with a model to begin with."""
    file = tmp_path_factory.mktemp("pretrained") / "model.keras"
    loading.load("mlp", {}).build(POINTS["mlp"], Spec((28, 28, 1), 10)).save(file)  # type: ignore[attr-defined]
    pin = {"version": "1", "file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    return {"init_from": NAMED, "pin": {"init_from": NAMED, **pin}}


@pytest.mark.parametrize("end", [pytest.param(end, marks=() if end in SAMPLE else pytest.mark.slow) for end in ENDS])
def test_a_step_is_trained_at_every_end_of_every_dimension(
    end: str, tiny: Splits, request: pytest.FixtureRequest
) -> None:
    name, point = ENDS[end]
    family = loading.load(name, request.getfixturevalue("pretrained") if name == "transfer" else {})
    if family.needs_feature_network:
        family.feature_network = feature_network.load(request.getfixturevalue("features"))
    fitted = family.fit(point, tiny, Span(0, 1, 1), seed=1, state=None, on_epoch=lambda _: None)
    assert all(math.isfinite(value) for value in fitted.history[0].values.values())


def test_the_sample_and_every_family_are_among_the_ends() -> None:
    assert set(ENDS) >= SAMPLE
    assert {name for name, _ in ENDS.values()} == loading.family_names()
