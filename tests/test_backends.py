"""Layers compute the values of the reference, and families train, on every backend that is installed.

All of it runs with a ``keras.json`` in the user's home that asks for something else.

`make test-backends` installs all of them and sets BACKENDS, so that a missing one is a failure there.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REQUIRED = os.environ.get("BACKENDS", "tensorflow").split()
INSTALLED = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]


BACKENDS = sorted({*REQUIRED, *INSTALLED})
HOSTILE = {"floatx": "float16", "epsilon": 0.5, "image_data_format": "channels_first", "backend": "jax"}


def compute(what: str, backend: str, data: Path) -> dict[str, Any]:
    """Return what one backend computes, in a process of its own."""
    home = data.with_name("keras-home")
    home.mkdir(exist_ok=True)
    (home / "keras.json").write_text(json.dumps(HOSTILE))
    env = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    env |= {"KERAS_HOME": str(home), "KERAS_MAX_STEPS_PER_EPOCH": "1"}
    env["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])  # the code beside this file, not what is installed
    command = [sys.executable, str(Path(__file__).with_name("on_backend.py")), what, backend, str(data)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    computed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert computed["backend"] == backend
    return computed


@pytest.fixture(scope="module", params=BACKENDS)
def layers(request: pytest.FixtureRequest, few_digits: Path) -> dict[str, Any]:
    return compute("layers", request.param, few_digits)


@pytest.fixture(scope="module", params=BACKENDS)
def trainings(request: pytest.FixtureRequest, few_digits: Path) -> dict[str, Any]:
    return compute("trainings", request.param, few_digits)


def test_layers_reproduce_the_worked_example(layers: dict[str, Any]) -> None:
    assert layers["example"]["convolved"] == [[3, 3, 2], [2, 2, 1], [1, 1, 1]]
    assert layers["example"]["rectified"] == [[3, 3, 2], [2, 2, 1], [1, 1, 1]]
    assert layers["example"]["pooled"] == [[3, 2], [1, 1]]
    assert layers["example"]["weighed"] == pytest.approx([1.4, 4.2, 7.0])


def test_settings_of_the_user_change_nothing(layers: dict[str, Any]) -> None:
    assert layers["settings"] == ["float32", 1e-7, "channels_last", "float32", None]


def test_output_sizes_are_those_of_the_formula(layers: dict[str, Any]) -> None:
    assert len(layers["sizes"]) == 42
    for width, size, padding, strides, output in layers["sizes"]:
        assert output == (width - size + 2 * padding) // strides + 1


@pytest.mark.slow
def test_every_family_trains_and_the_same_seed_gives_the_same_losses(trainings: dict[str, Any]) -> None:
    assert trainings["losses"]
    for name, losses in trainings["losses"].items():
        assert all(math.isfinite(loss) for loss in losses), name
        assert losses[1] < losses[0], name
        assert losses[:2] == losses[2:], name


@pytest.mark.slow
def test_a_generator_trains_and_the_same_seed_gives_the_same_images(trainings: dict[str, Any]) -> None:
    found = trainings["distances"]
    assert len(found) == 4
    assert all(math.isfinite(distance) for distance in found)
    assert found[:2] == found[2:]
    assert found[0] != found[1]
