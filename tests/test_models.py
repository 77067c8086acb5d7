"""Families really train, on real digits; their spaces obey params."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest

from pipeline.backend import configure
from pipeline.core.errors import DataError, ParamsError
from pipeline.datasets.arrays import Splits, load_splits
from pipeline.models import loading
from pipeline.models.base import Fitted, Span, Spec, TrainingError
from pipeline.models.families.cnn.family import architectures
from pipeline.models.space import Choice, Range, Space, override
from pipeline.models.training import checkpoint, recipe
from pipeline.models.training.augmentation import Augment
from pipeline.models.training.task import TrainingTask, run

# Augmentation and all that draws random numbers is on: what a checkpoint leaves out would show.
TRAINED: dict[str, Any] = {
    **recipe.PLAIN,
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "learning_rate": 3e-3,
    "weight_decay": 1e-4,
    "batch_size": 32,
    "label_smoothing": 0.05,
    "shift": 1,
    "average": 0.9,
}
POINTS: dict[str, dict[str, Any]] = {
    "mlp": {**TRAINED, "layers": 2, "units": 64, "batch_norm": True, "activation": "relu", "dropout": 0.1},
    "cnn": {
        **TRAINED, "architecture": "plain", "plain_blocks": 2, "plain_filters": 8, "plain_kernel": 3,
        "plain_padding": "same", "plain_batch_norm": True, "plain_bias": True, "plain_activation": "relu",
        "plain_units": 64, "plain_more_units": 0, "plain_dense_activation": "relu", "plain_dense_batch_norm": False,
        "plain_dropout": 0.1,
    },
    "rnn": {
        **TRAINED, "learning_rate": 1e-2, "cell": "lstm", "layers": 2, "units": 32, "bidirectional": True,
        "residual": True,
        "pooling": "max", "head_units": 64, "dropout": 0.1,
    },
    "knn": {"metric": "l2"},
    "transfer": {**TRAINED, "fine_tune": False, "units": 0, "dropout": 0.1},
}  # fmt: skip
NETWORKS = sorted(set(POINTS) - {"knn", "transfer"})


@pytest.fixture(scope="module", autouse=True)
def keras_backend() -> None:
    configure.configure("tensorflow", threads=1)


@pytest.fixture(scope="module")
def data(prepared_digits: Path) -> Splits:
    return load_splits(prepared_digits)


@pytest.fixture(scope="module")
def few(few_digits: Path) -> Splits:
    return load_splits(few_digits)


def test_every_family_is_tried_here() -> None:
    """Here, or in a test of its own."""
    own = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert loading.family_names() - own <= set(POINTS) <= loading.family_names()


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n == "rnn" else ()) for n in NETWORKS])
def test_the_loss_falls_and_unseen_digits_are_recognised(name: str, data: Splits) -> None:
    family = loading.load(name, {"space": {}})
    seen: list[float] = []
    fitted = family.fit(
        POINTS[name], data, Span(0, 4, 4), seed=1, state=None, on_epoch=lambda m: seen.append(m["loss"])
    )
    losses = [epoch["loss"] for epoch in fitted.history]
    assert seen == losses
    assert losses[-1] < losses[0] / 2
    assert fitted.history[-1][family.objective] > 0.6  # chance is 0.1
    assert [epoch.epoch for epoch in fitted.history] == [1, 2, 3, 4]


@pytest.mark.parametrize(  # rnn: 26 s, mlp: 8 s; cnn stands for both
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ("mlp", "rnn") else ()) for name in NETWORKS]
)
def test_a_training_cut_into_rungs_gives_the_same_weights_as_one_run_through(
    name: str, few_digits: Path, tmp_path: Path
) -> None:
    def rung(folder: str, start: int, stop: int) -> TrainingTask:
        span = Span(start, stop, 3)
        ledger = tmp_path / "epochs.log"
        return TrainingTask(name, {"space": {}}, POINTS[name], few_digits, 5, span, tmp_path / folder, ledger)

    def losses(folder: str, *ends: int) -> list[float]:
        rungs = [rung(folder, start, end) for start, end in zip((0, *ends), ends, strict=False)]
        return [epoch["loss"] for piece in rungs for epoch in run(piece, emit=lambda _: None).epochs]

    begun = losses("restored", 1)
    whole = losses("whole", 3)  # another training in between: the first goes on from its checkpoint
    assert [*begun, *[e["loss"] for e in run(rung("restored", 1, 3), emit=lambda _: None).epochs]] == whole
    assert losses("kept", 1, 3) == whole  # straight on: with the model in memory
    expected = np.load(tmp_path / "whole" / "epoch-0003" / "state.npz")
    for folder in ("restored", "kept"):
        found = np.load(tmp_path / folder / "epoch-0003" / "state.npz")
        assert found.files == expected.files
        for key in expected.files:
            np.testing.assert_array_equal(found[key], expected[key])
        assert [path.name for path in (tmp_path / folder).iterdir()] == ["epoch-0003"]  # older checkpoints are removed


@pytest.mark.slow
def test_a_rung_goes_on_with_the_model_in_memory_only_while_the_checkpoint_is_its_own(
    few: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = loading.load("mlp", {"space": {}})
    point = {**POINTS["mlp"], "average": 0.0}  # so that a training builds one network
    built: list[int] = []
    build = family.build
    monkeypatch.setattr(family, "build", lambda *arguments: built.append(1) or build(*arguments))

    def epoch(number: int, state: Path | None) -> Fitted:
        span = Span(number, number + 1, 3)
        return family.fit(point, few, span, seed=5, state=state, on_epoch=lambda _: None)

    epoch(0, None).save_state(tmp_path / "state.npz")
    assert len(built) == 1
    epoch(1, tmp_path / "state.npz")
    assert len(built) == 1
    epoch(1, tmp_path / "state.npz")  # the model in memory is an epoch further by now
    assert len(built) == 2
    epoch(0, None).save_state(tmp_path / "state.npz")
    shutil.copy(tmp_path / "state.npz", tmp_path / "other.npz")
    epoch(1, tmp_path / "other.npz")
    assert len(built) == 4


def test_a_finished_rung_is_never_computed_again(few_digits: Path, tmp_path: Path) -> None:
    rung = TrainingTask(
        "mlp", {"space": {}}, POINTS["mlp"], few_digits, 5, Span(0, 2, 2), tmp_path / "t", tmp_path / "log"
    )
    first = run(rung, emit=lambda _: None)
    assert run(rung, emit=lambda _: pytest.fail("trained again")) == first
    assert (tmp_path / "log").read_text().splitlines() == ["t 1", "t 2"]


@pytest.mark.slow
def test_the_seed_decides_everything_and_another_seed_something_else(few: Splits) -> None:
    family = loading.load("mlp", {"space": {}})

    def last_loss(seed: int) -> float:
        fitted = family.fit(POINTS["mlp"], few, Span(0, 1, 1), seed=seed, state=None, on_epoch=lambda _: None)
        return fitted.history[-1]["loss"]

    assert last_loss(1) == last_loss(1) != last_loss(2)


def test_a_diverging_loss_is_an_error(few: Splits) -> None:
    family = loading.load("mlp", {"space": {}})
    wild = {**POINTS["mlp"], "learning_rate": 1e38, "batch_norm": False}
    with pytest.raises(TrainingError, match="diverged in epoch 1"):
        family.fit(wild, few, Span(0, 1, 1), seed=1, state=None, on_epoch=lambda _: None)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    import keras

    def model(units: int) -> Any:
        built = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
        built.compile("adam", "mse")
        built.optimizer.build(built.trainable_variables)
        return built

    checkpoint.save(model(3), tmp_path / "state.npz")
    with pytest.raises(DataError, match="another model"):
        checkpoint.restore(model(4), tmp_path / "state.npz")
    (tmp_path / "state.npz").write_bytes(b"PK not really")
    with pytest.raises(DataError, match="no checkpoint"):
        checkpoint.restore(model(3), tmp_path / "state.npz")


@pytest.mark.parametrize("name", NETWORKS)
def test_models_take_raw_colour_images_of_any_size(name: str) -> None:
    model = loading.load(name, {"space": {}}).build(POINTS[name], Spec((32, 20, 3), 7))
    assert model(np.zeros((2, 32, 20, 3), np.uint8)).shape == (2, 7)


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "alexnet": {"width": 16, "units": 128, "dropout": 0.5},
    "fast": {"width": 16, "activation": "relu", "dropout": 0.0, "scale": 0.125},
    "googlenet": {"width": 8, "modules": 2, "dropout": 0.2},
    "lenet": {"activation": "tanh", "pooling": "average"},
    "plain": {key.removeprefix("plain_"): value for key, value in POINTS["cnn"].items() if key.startswith("plain_")},
    "resnet": {"width": 16, "blocks": 3},
    "vgg": {"width": 16, "stages": 3, "units": 128, "dropout": 0.2},
}


def test_every_architecture_is_tried_here() -> None:
    assert set(architectures()) == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_an_architecture_fits_both_sizes(architecture: str, shape: tuple[int, int, int]) -> None:
    own = {f"{architecture}_{key}": value for key, value in ARCHITECTURES[architecture].items()}
    model = loading.load("cnn", {}).build({"architecture": architecture, **own}, Spec(shape, 10))
    assert model(np.zeros((2, *shape), np.uint8)).shape == (2, 10)
    if architecture == "lenet" and shape == (28, 28, 1):
        assert model.count_params() == 61_706  # of the paper's layers, each reading all maps before
    if architecture == "resnet" and shape == (32, 32, 3):
        assert len([layer for layer in model.layers if "conv" in layer.name]) == 19 + 2  # 2 are shortcuts


def test_adding_an_architecture_changes_no_study_that_does_not_use_it() -> None:
    narrowed = {"space": {"architecture": ["plain"]}}
    used = {path.stem for path in loading.load("cnn", narrowed).sources()}
    assert {"plain", "family", "blocks", "presets"} <= used
    assert not used & (set(ARCHITECTURES) - {"plain"})


@pytest.mark.parametrize("name", NETWORKS)
def test_every_point_of_a_space_builds(name: str) -> None:
    family = loading.load(name, {"space": {}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    for _ in range(5):
        hyperparameters = family.suggest(study.ask())
        assert set(recipe.TRAINING) < set(hyperparameters)
        assert family.build(hyperparameters, Spec((28, 28, 1), 10)).count_params() > 0


def test_augmentation_moves_mirrors_and_blanks(data: Splits) -> None:
    import keras

    images = np.asarray(data.train.images[:64])

    def changed(**values: Any) -> Any:
        augment = Augment({**recipe.PLAIN, **values}, keras.random.SeedGenerator(3))
        return np.asarray(augment(images))

    np.testing.assert_array_equal(changed(), images)
    mirrored = changed(flip=True)
    same = [np.array_equal(a, b) for a, b in zip(mirrored, images, strict=True)]
    flipped = [np.array_equal(a, b[:, ::-1]) for a, b in zip(mirrored, images, strict=True)]
    assert all(a or b for a, b in zip(same, flipped, strict=True))
    assert 16 < sum(flipped) < 48
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    offsets = set()
    for moved, around in zip(changed(shift=2), padded, strict=True):
        windows = {(y, x): around[y : y + 28, x : x + 28] for y in range(5) for x in range(5)}
        offsets |= {offset for offset, window in windows.items() if np.array_equal(window, moved)}
        assert any(np.array_equal(window, moved) for window in windows.values())
    assert len(offsets) > 15
    blanked = changed(cutout=8)
    assert ((blanked == images) | (blanked == 0)).all()
    assert 0 < ((images > 0) & (blanked == 0)).any(axis=(1, 2, 3)).mean() < 1


def test_turns_and_zooms_keep_the_centre_and_repeat_the_border() -> None:
    import keras

    white = np.full((64, 21, 31, 1), 255, np.uint8)
    dots = white.copy()
    dots[:, 10, 22] = 0  # seven pixels to the right of the centre

    def places(**values: Any) -> Any:
        augment = Augment({**recipe.PLAIN, **values}, keras.random.SeedGenerator(3))
        np.testing.assert_allclose(augment(white), white, rtol=1e-5)
        ink = 255 - np.asarray(augment(dots))[..., 0]
        total = ink.sum(axis=(1, 2))
        return [(ink.sum(axis=a) * (np.arange(n) - n // 2)).sum(axis=1) / total for a, n in ((1, 31), (2, 21))]

    x, y = places(turn=40.0)
    np.testing.assert_allclose(np.hypot(x, y), 7, atol=0.3)
    angles = np.degrees(np.arctan2(y, x))
    assert angles.min() < -25
    assert angles.max() > 25
    assert abs(angles).max() < 43
    x, y = places(zoom=0.3)
    np.testing.assert_allclose(y, 0, atol=0.1)
    assert 4.6 < x.min() < 5.6
    assert 8.4 < x.max() < 9.4


class TestSpace:
    space: ClassVar[Space] = {"rate": Range(low=1e-4, high=1e-2, log=True), "units": Choice(choices=(64, 128))}

    def test_params_fix_narrow_and_widen(self) -> None:
        changed = override(self.space, {"units": 256, "rate": {"low": 1e-5, "high": 1e-3, "log": True}}, "mlp.space")
        assert changed == {"units": Choice(choices=(256,)), "rate": Range(low=1e-5, high=1e-3, log=True)}

    def test_an_unknown_dimension_is_an_error_with_the_nearest(self) -> None:
        with pytest.raises(ParamsError, match=r"mlp.space: unknown dimension: expected 'units'\?.*found 'unit'"):
            override(self.space, {"unit": 3}, "mlp.space")

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({"low": 2, "high": 1}, "low <= high"),
            ({"low": 0.0, "high": 1.0, "log": True}, "low > 0"),
            ([], "at least 1"),
        ],
    )
    def test_an_impossible_dimension_is_refused(self, value: Any, message: str) -> None:
        with pytest.raises(ParamsError, match=message):
            override(self.space, {"rate": value}, "mlp.space")


def test_an_unknown_family_is_an_error_with_the_nearest() -> None:
    with pytest.raises(ParamsError, match=r"unknown family: expected 'cnn'\?.*found 'cn'"):
        loading.load("cn", {"space": {}})
