"""Every reference model is a preset, a point of its family's space, and as large as it was counted."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.backend import configure
from pipeline.core.errors import ParamsError
from pipeline.models import loading
from pipeline.models.base import Spec


@pytest.fixture(scope="module", autouse=True)
def keras_backend() -> None:
    configure.configure("tensorflow", threads=1)


# Trainable parameters of the reference models, as they were counted when these were written down.
COUNTS = {
    "R1": 54_410, "R2": 1_204_682, "R3": 1_629_472, "R4": 101_770, "R5": 282_250, "R6": 8_806, "R7": 106_510,
    "R8": 213_054, "R9": 101_770, "R10": 21_840, "R11": 225_034, "R14": 321,
    "R19": 227_344 + 100_609,
}  # fmt: skip
PRESETS = {preset.name: (name, preset) for name in loading.family_names() for preset in loading.load(name, {}).presets}


def test_every_reference_model_is_a_preset() -> None:
    assert set(PRESETS) == set(COUNTS)


@pytest.mark.parametrize("reference", sorted(PRESETS, key=lambda name: int(name[1:])))
def test_a_preset_is_a_point_of_its_space_and_has_its_count(reference: str) -> None:
    name, preset = PRESETS[reference]
    family = loading.load(name, {"presets": [reference]})
    assert family.presets_for("anything") == {reference: preset.hyperparameters}
    outside = [key for key, value in preset.hyperparameters.items() if not family.space[key].holds(value)]
    assert not outside
    spec = Spec(preset.image_shape, preset.classes)
    assert family.trainable_parameters(preset.hyperparameters, spec) == COUNTS[reference]


def test_a_study_begins_with_the_presets_of_its_dataset_or_with_those_named() -> None:
    assert set(loading.load("mlp", {}).presets_for("mnist")) == {"R4", "R9"}
    assert loading.load("mlp", {}).presets_for("digits") == {}
    assert loading.load("mlp", {"presets": []}).presets_for("mnist") == {}
    with pytest.raises(ParamsError, match=r"mlp.presets: unknown: expected .*found 'R44'"):
        loading.load("mlp", {"presets": ["R44"]})


@pytest.mark.slow
def test_r14_learns_its_regression() -> None:
    """Four sequences of one step and two features; the outputs are their sums, as good a line as any."""
    import keras

    keras.utils.set_random_seed(0)
    preset = PRESETS["R14"][1]
    model = loading.load("rnn", {}).build(preset.hyperparameters, Spec(preset.image_shape, preset.classes))
    steps = keras.Model(model.layers[2].output, model.output)  # behind what turns pixels into steps
    x = np.array([[[0.0, 0.1]], [[0.2, 0.3]], [[0.4, 0.5]], [[0.6, 0.7]]], np.float32)
    y = x.sum(axis=2)
    steps.compile("adam", "mse")
    losses = steps.fit(x, y, epochs=100, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 10
