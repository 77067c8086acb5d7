"""Layers compute what the reference says, and families train, on every backend that is installed.

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

from pipeline.datasets.arrays import Labelled, Splits, load_splits, save_splits

REQUIRED = os.environ.get("BACKENDS", "tensorflow").split()
INSTALLED = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]


@pytest.fixture(scope="module")
def few_digits(prepared_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = load_splits(prepared_digits)
    train = Labelled(data.train.images[:256], data.train.labels[:256])
    val = Labelled(data.val.images[:64], data.val.labels[:64])
    folder = tmp_path_factory.mktemp("few") / "digits"
    save_splits(folder, Splits(train, val, data.class_names, "few"))
    return folder


@pytest.fixture(scope="module", params=sorted({*REQUIRED, *INSTALLED}))
def computed(request: pytest.FixtureRequest, few_digits: Path) -> dict[str, Any]:
    """What one backend computes."""
    env = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    script = Path(__file__).with_name("on_backend.py")
    done = subprocess.run(
        [sys.executable, str(script), request.param, str(few_digits)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told["backend"] == request.param
    return told


def test_layers_reproduce_the_worked_example(computed: dict[str, Any]) -> None:
    assert computed["example"]["convolved"] == [[3, 3, 2], [2, 2, 1], [1, 1, 1]]
    assert computed["example"]["rectified"] == [[3, 3, 2], [2, 2, 1], [1, 1, 1]]
    assert computed["example"]["pooled"] == [[3, 2], [1, 1]]
    assert computed["example"]["weighed"] == pytest.approx([1.4, 4.2, 7.0])


def test_output_sizes_are_as_the_formula_says(computed: dict[str, Any]) -> None:
    assert len(computed["sizes"]) == 42
    for width, size, padding, strides, output in computed["sizes"]:
        assert output == (width - size + 2 * padding) // strides + 1


def test_every_family_trains_and_the_same_seed_gives_the_same_losses(computed: dict[str, Any]) -> None:
    assert computed["losses"]
    for name, losses in computed["losses"].items():
        assert all(math.isfinite(loss) for loss in losses), name
        assert losses[1] < losses[0], name
        assert losses[:2] == losses[2:], name


def test_a_generator_trains_and_the_same_seed_gives_the_same_images(computed: dict[str, Any]) -> None:
    found = computed["distances"]
    assert len(found) == 4
    assert all(math.isfinite(distance) for distance in found)
    assert found[:2] == found[2:]
    assert found[0] != found[1]
