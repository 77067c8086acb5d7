"""Generators really train, on real digits; both networks get their own loss and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from pipeline.backend import configure
from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Labelled, Splits, load_splits
from pipeline.evaluation import feature_network
from pipeline.models import loading
from pipeline.models.base import Span, Spec
from pipeline.models.families.gan import networks
from pipeline.models.families.gan.family import Family, generate
from pipeline.models.training.task import TrainingTask, run

R19 = next(preset for preset in Family.presets if preset.name == "R19")
POINT: dict[str, Any] = {
    "architecture": "dcgan", "width": 16, "latent": 32, "conditional": True, "loss": "non_saturating", "penalty": 0.5,
    "average": 0.9, "learning_rate": 1e-3, "beta_1": 0.5, "beta_2": 0.99, "batch_size": 32,
}  # fmt: skip
DENSE = {**R19.hyperparameters, "conditional": True, "loss": "hinge", "penalty": 0.5}


@pytest.fixture(scope="module", autouse=True)
def keras_backend() -> None:
    configure.configure("tensorflow", threads=1)


@pytest.fixture(scope="module")
def data(prepared_digits: Path) -> Splits:
    return load_splits(prepared_digits)


@pytest.fixture(scope="module")
def features(data: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "digits"
    feature_network.train(data, folder, steps=60, seed=0)
    return folder


def test_the_preset_has_the_counts_of_the_reference() -> None:
    spec = Spec(R19.image_shape, R19.classes)
    assert networks.generator(R19.hyperparameters, spec).count_params() == 227_344
    assert networks.discriminator(R19.hyperparameters, spec).count_params() == 100_609
    family = loading.load("gan", {"presets": ["R19"]})
    assert family.presets_for("anything") == {"R19": R19.hyperparameters}
    assert family.trainable_parameters(R19.hyperparameters, spec) == 227_344 + 100_609
    assert not [key for key, value in R19.hyperparameters.items() if not family.space[key].holds(value)]


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (30, 21, 2)])
@pytest.mark.parametrize("conditional", [False, True])
def test_networks_fit_images_of_any_size(shape: tuple[int, int, int], conditional: bool) -> None:
    from keras import ops

    hyperparameters, spec = {**POINT, "conditional": conditional}, Spec(shape, 7)
    generator, judge = networks.generator(hyperparameters, spec), networks.discriminator(hyperparameters, spec)
    noise, labels = ops.zeros((3, 32)), ops.arange(3, dtype="int32")
    images = generator([noise, labels] if conditional else noise)
    assert images.shape == (3, *shape)
    assert judge([images, labels] if conditional else images).shape == (3, 1)


def test_every_point_of_the_searched_space_builds() -> None:
    family = loading.load("gan", {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    for _ in range(3):
        hyperparameters = family.suggest(study.ask())
        assert all(family.space[key].holds(value) for key, value in hyperparameters.items())
        assert family.trainable_parameters(hyperparameters, Spec((28, 28, 1), 10)) > 0


@pytest.mark.slow  # 30 s
def test_generated_digits_come_nearer_to_real_ones_and_the_label_decides_which(data: Splits, features: Path) -> None:
    family = loading.load("gan", {})
    family.feature_network = feature_network.load(features)
    seen: list[float] = []
    eager = {**POINT, "penalty": 0.1, "learning_rate": 2e-3}
    fitted = family.fit(
        eager, data, Span(0, 40, 40), seed=1, state=None, on_epoch=lambda epoch: seen.append(epoch["val_fid"])
    )
    first, last = fitted.history[0], fitted.history[-1]
    assert seen == [epoch["val_fid"] for epoch in fitted.history]
    assert last["val_score"] == -last["val_fid"]
    assert last["floor_fid"] < last["val_fid"] < first["val_fid"] / 2
    assert last["val_coverage"] > 0.5
    labels = np.repeat(np.arange(10), 8)
    drawn = family.feature_network.embed(generate(fitted.network, labels, 0)).classes
    assert (drawn == labels).mean() > 0.3  # chance is 0.1


@pytest.mark.parametrize(
    "hyperparameters", [pytest.param(POINT, marks=pytest.mark.slow), DENSE], ids=["dcgan", "dense"]
)
def test_a_training_cut_into_rungs_gives_the_same_weights_as_one_run_through(
    hyperparameters: dict[str, Any], few_digits: Path, features: Path, tmp_path: Path
) -> None:
    def rung(folder: str, start: int, stop: int) -> TrainingTask:
        return TrainingTask("gan", {}, hyperparameters, few_digits, 5, Span(start, stop, 2), tmp_path / folder,
                    tmp_path / "epochs.log", features=features)  # fmt: skip

    begun = run(rung("cut", 0, 1), emit=lambda _: None)
    whole = run(rung("whole", 0, 2), emit=lambda _: None)  # in between: the other goes on from its checkpoint
    cut = [*begun.epochs, *run(rung("cut", 1, 2), emit=lambda _: None).epochs]
    assert [epoch["val_fid"] for epoch in cut] == [epoch["val_fid"] for epoch in whole.epochs]
    arrays = [np.load(tmp_path / folder / "epoch-0002" / "state.npz") for folder in ("whole", "cut")]
    assert arrays[0].files == arrays[1].files
    for key in arrays[0].files:
        np.testing.assert_array_equal(arrays[0][key], arrays[1][key])
    (picture,) = whole.pictures
    assert (tmp_path / "whole" / picture).read_bytes().startswith(b"\x89PNG")


def adversaries(hyperparameters: dict[str, Any], shape: tuple[int, int, int] = (28, 28, 1)) -> Any:
    """Return both networks in one model, as training begins with them; the same seed draws the same noise."""
    from pipeline.models.families.gan.adversaries import Adversaries

    generator, average = (networks.generator(hyperparameters, Spec(shape, 10)) for _ in range(2))
    return Adversaries(generator, average, networks.discriminator(hyperparameters, Spec(shape, 10)), hyperparameters, 0)


def shown(data: Splits, count: int) -> dict[str, np.ndarray]:
    """Return the first images with their labels, as a step of training takes them."""
    return {"images": data.train.images[:count], "labels": data.train.labels[:count].astype(np.int32)}


LOSSES = {  # of logits 0.5 for a real image and -0.2 for a generated one, which the generator sees at -0.3
    "non_saturating": (1.072216, 0.854355),  # ln(1 + e^-0.5) + ln(1 + e^-0.2), ln(1 + e^0.3)
    "hinge": (1.3, 0.3),  # 0.5 + 0.8, 0.3
    "relativistic": (0.403186, 1.171101),  # ln(1 + e^-0.7), ln(1 + e^0.8)
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_has_the_value_of_its_formula(loss: str) -> None:
    model = adversaries({**POINT, "loss": loss, "penalty": 0.0})
    logits = {"real": [[0.5]], "fake": [[-0.2]], "judged": [[-0.3]]}
    logits = {name: np.array(value, np.float32) for name, value in logits.items()}
    assert float(model.compute_loss(y_pred=logits)) == pytest.approx(sum(LOSSES[loss]), rel=1e-5)
    reported = {metric.name: float(metric.result()) for metric in model.metrics}
    assert reported["discriminator_loss"] == pytest.approx(LOSSES[loss][0], rel=1e-5)
    assert reported["generator_loss"] == pytest.approx(LOSSES[loss][1], rel=1e-5)


@pytest.mark.parametrize(
    "loss", [pytest.param(loss, marks=pytest.mark.slow if place else ()) for place, loss in enumerate(LOSSES)]
)
def test_each_network_is_taught_by_its_own_loss_alone(loss: str, data: Splits) -> None:
    """Along the gradient that a weight gets, the loss that is reported for its network has that slope."""
    import tensorflow as tf

    hyperparameters = {**POINT, "loss": loss, "penalty": 0.0}
    model, seen = adversaries(hyperparameters), shown(data, 16)
    with tf.GradientTape() as tape:
        together = model.compute_loss(y_pred=model(seen, training=True), training=True)
    sides = {"generator_loss": model.generator, "discriminator_loss": model.discriminator}
    weights = {name: network.trainable_variables for name, network in sides.items()}
    gradients = tape.gradient(together, weights)

    def reported(name: str) -> float:
        """Return a loss for the same noise, whatever the weights are by now."""
        again = type(model)(model.generator, model.average, model.discriminator, hyperparameters, 0)
        again.compute_loss(y_pred=again(seen, training=True), training=True)
        return next(float(metric.result()) for metric in again.metrics if metric.name == name)

    for name, variables in weights.items():
        slopes = [float(tf.norm(tf.convert_to_tensor(gradient))) for gradient in gradients[name]]
        assert max(slopes) > 0.01, "nothing is taught"
        for variable, gradient, slope in zip(variables, gradients[name], slopes, strict=True):
            start, step = variable.numpy(), 0.01 * tf.convert_to_tensor(gradient).numpy() / max(slope, 1e-9)
            values = []
            for sign in (1, -1):
                variable.assign(start + sign * step)
                values.append(reported(name))
            variable.assign(start)
            assert (values[0] - values[1]) / 0.02 == pytest.approx(slope, rel=0.05, abs=1e-3), variable.path


def test_the_penalty_is_the_squared_slope_of_the_discriminator() -> None:
    """Of a linear one the finite difference is exact: its mean over noise is the squared norm of its weights."""
    from keras import ops

    model = adversaries({**R19.hyperparameters, "penalty": 2.0})
    first, last = model.discriminator.layers[-2:]
    first.set_weights([np.eye(784, 128, dtype=np.float32), np.full(128, 10.0, np.float32)])  # relu stays open
    slopes = np.linspace(-1, 1, 128, dtype=np.float32)[:, None]
    last.set_weights([slopes, np.zeros(1, np.float32)])
    count = 2048
    black = {"images": np.zeros((4 * count, 28, 28, 1), np.uint8), "labels": np.zeros(4 * count, np.int32)}
    logits = model(black, training=True)
    with_penalty = float(ops.convert_to_numpy(model.compute_loss(y_pred=logits, training=True)))
    without = float(ops.convert_to_numpy(model.compute_loss(y_pred=logits, training=False)))
    assert logits["shifted"].shape == (count, 1)
    assert with_penalty - without == pytest.approx(float((slopes**2).sum()), rel=0.1)


def test_what_is_kept_is_the_running_average_of_the_generator(data: Splits) -> None:
    """At first it is of the latest tenth of the steps, and never of more than `average` allows."""
    import keras

    model = adversaries({**POINT, "average": 0.2})
    model.compile(optimizer=keras.optimizers.SGD(0.1), run_eagerly=True)
    average = [weight.numpy() for weight in model.generator.trainable_variables]
    for kept in (1 / 11, 2 / 12, 0.2):  # the last would be 3 / 13
        before = [weight.numpy() for weight in model.generator.trainable_variables]
        model.fit(shown(data, 16), batch_size=16, verbose=0)
        average = [kept * old + (1 - kept) * new for old, new in zip(average, before, strict=True)]
        after = [weight.numpy() for weight in model.generator.trainable_variables]
        assert any((new != old).any() for new, old in zip(after, before, strict=True)), "it trains"
    found = [weight.numpy() for weight in model.average.weights if "moving" not in weight.path]
    for ours, theirs in zip(average, found, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-7)
    assert not model.average.trainable_variables


def test_without_a_feature_network_the_error_names_the_missing_stage(data: Splits) -> None:
    with pytest.raises(DataError, match="dvc repro features"):
        loading.load("gan", {}).fit(POINT, data, Span(0, 1, 1), seed=0, state=None, on_epoch=lambda _: None)


class TestFeatureNetwork:
    @pytest.mark.slow
    def test_it_is_the_reference_network_and_the_seed_decides_all_of_it(self, data: Splits, tmp_path: Path) -> None:
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            feature_network.train(data, tmp_path / name, steps=2, seed=seed)
        files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b", "c")]
        assert files[0] == files[1]  # to the byte: DVC sees no change where there is none
        assert files[0]["network.npz"] != files[2]["network.npz"]
        assert feature_network.load(tmp_path / "a").network.count_params() == 225_034  # R11

    def test_colour_images_get_the_reference_network_of_their_size(self, tmp_path: Path) -> None:
        images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
        part = Labelled(images, np.arange(64) % 10)
        feature_network.train(Splits(part, part, tuple("0123456789"), "colour"), tmp_path, steps=1, seed=0)
        assert feature_network.load(tmp_path).network.count_params() == 282_250  # R5

    def test_a_folder_for_another_family_is_refused(self, tmp_path: Path) -> None:
        feature_network.not_needed(tmp_path / "none")
        with pytest.raises(DataError, match="holds no feature network"):
            feature_network.load(tmp_path / "none")
