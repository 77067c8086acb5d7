"""The cost of an epoch by a family's formula follows the multiply-adds of the network that Keras builds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.backend import configure
from pipeline.models import loading
from pipeline.models.base import BaseFamily, Spec
from pipeline.models.families.gan import networks
from pipeline.models.training.recipe import TRAINING
from pipeline.models.values import Hyperparameters
from tests.test_gan import POINT as GAN
from tests.test_models import ARCHITECTURES, POINTS
from tests.test_seq2seq import POINT as SEQ2SEQ
from tests.test_space_ends import ENDS

SPEC = Spec((33, 20, 3), 7)  # sides that do not halve, and differ
# Of each network a point, and what another has instead.
PAIRS: dict[str, tuple[Hyperparameters, Hyperparameters]] = {
    "mlp": (POINTS["mlp"], {"layers": 4, "units": 256}),
    "rnn": (POINTS["rnn"], {"cell": "gru", "layers": 1, "units": 96, "bidirectional": False, "head_units": 0}),
    "seq2seq": (SEQ2SEQ, {"cell": "lstm", "layers": 3, "units": 128}),
    "gan": (GAN, {"width": 64, "latent": 100, "conditional": False, "penalty": 0.0}),
    "gan dense": ({**GAN, "architecture": "dense"}, {"width": 96}),
    "cnn alexnet": ({}, {"width": 32, "units": 256}),
    "cnn fast": ({}, {"width": 48}),
    "cnn googlenet": ({}, {"width": 7, "modules": 1}),
    "cnn lenet": ({}, {"pooling": "max"}),
    "cnn plain": ({}, {"blocks": 3, "filters": 24, "kernel": 2, "padding": "valid", "units": 0, "more_units": 84}),
    "cnn resnet": ({}, {"width": 32, "blocks": 1}),
    "cnn vgg": ({}, {"width": 8, "stages": 4, "units": 512}),
}


@pytest.fixture(scope="module", autouse=True)
def keras_backend() -> None:
    configure.configure("tensorflow", threads=1)


def counted(layers: Sequence[Any]) -> float:
    """Return the multiply-adds of layers of Keras as they are built; frozen ones compute no gradients."""
    return sum(_counted(layer) for layer in layers)


def _counted(layer: Any) -> float:
    kind = type(layer).__name__
    if kind == "Functional":
        return counted(layer.layers)
    kernels = sum(math.prod(weight.shape) for weight in layer.weights if "kernel" in weight.name)
    if not kernels:
        return 0.0
    read, given = (of[0] if isinstance(of, list) else of for of in (layer.input, layer.output))
    places = {"Conv2D": given.shape[1:3], "Conv2DTranspose": read.shape[1:3], "Dense": read.shape[1:-1]}
    recurrent = dict.fromkeys(("GRU", "LSTM", "SimpleRNN", "Bidirectional"), read.shape[1:2])
    return kernels * math.prod({**places, **recurrent}[kind]) * (1 if layer.trainable else 1 / 3)


def built(name: str, family: BaseFamily, point: Hyperparameters, spec: Spec) -> float:
    """Return the multiply-adds of a training image, of the networks that Keras builds."""
    if name != "gan":
        return counted(family.build(point, spec).layers)  # type: ignore[attr-defined]
    judged = 2 + 2 / 3 + (1 / networks.PENALISED if point["penalty"] else 0)
    drawn = counted(networks.generator(point, spec).layers)
    return drawn + judged * counted(networks.discriminator(point, spec).layers)


def pair(network: str) -> tuple[str, Hyperparameters, Hyperparameters]:
    """Return the family of a network, and both of its points."""
    (name, *kind), (point, other) = network.split(), PAIRS[network]
    if name == "cnn":
        own = ARCHITECTURES[kind[0]]
        point, other = ({f"{kind[0]}_{key}": value for key, value in of.items()} for of in (own, {**own, **other}))
        return name, {"architecture": kind[0], **point}, {"architecture": kind[0], **other}
    return name, point, {**point, **other}


def test_every_network_is_tried_here() -> None:
    architectures = {f"cnn {name}" for name in ARCHITECTURES}
    assert {network.split()[0] for network in PAIRS} == loading.family_names() - {"knn", "transfer"}
    assert architectures <= set(PAIRS)


@pytest.mark.parametrize("network", PAIRS)
def test_the_formula_gives_the_ratio_that_is_counted_from_the_layers(network: str) -> None:
    name, *points = pair(network)
    family = loading.load(name, {})
    formula = [family.epoch_cost(point, SPEC) for point in points]
    layers = [built(name, family, point, SPEC) for point in points]
    assert formula[1] / formula[0] == pytest.approx(layers[1] / layers[0], rel=1e-6)
    assert network == "cnn lenet" or layers[1] != layers[0]


def test_architectures_of_a_family_compare_with_each_other() -> None:
    family = loading.load("cnn", {})
    points = [pair(f"cnn {name}")[1] for name in ("vgg", "lenet", "googlenet")]
    formula = [family.epoch_cost(point, SPEC) for point in points]
    layers = [built("cnn", family, point, SPEC) for point in points]
    assert [cost / formula[0] for cost in formula] == pytest.approx([cost / layers[0] for cost in layers])


@pytest.mark.parametrize("body", ["cnn fast", "rnn", "mlp"])
def test_what_is_transferred_costs_a_third_while_it_is_frozen(body: str, tmp_path: Path) -> None:
    named, file = "models:/m@champion", tmp_path / "model.keras"
    name, point, _ = pair(body)
    loading.load(name, {}).build(point, SPEC).save(file)  # type: ignore[attr-defined]
    for again in (False, True):  # a model that was transferred before is nested in the next
        pin = {"init_from": named, "version": "1", "file": str(file)}
        pin |= {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        family = loading.load("transfer", {"init_from": named, "pin": pin})
        plain = POINTS["transfer"]
        points = [plain, {**plain, "units": 64}, {**plain, "fine_tune": True}]
        formula = [family.epoch_cost(point, SPEC) for point in points]
        layers = [built("transfer", family, point, SPEC) for point in points]
        assert [cost / formula[0] for cost in formula] == pytest.approx([cost / layers[0] for cost in layers])
        if not again:
            file = tmp_path / "transferred.keras"
            family.build(points[1], SPEC).save(file)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(28, 28, 1), (45, 32, 3)])
def test_the_formula_is_right_at_every_end_and_at_every_preset(shape: tuple[int, int, int]) -> None:
    spec = Spec(shape, 10)
    presets = [(name, preset.hyperparameters) for name in sorted(loading.family_names())
               for preset in loading.load(name, {}).presets]  # fmt: skip
    ends = [of for end, of in ENDS.items() if end.split()[-1].partition("=")[0] not in TRAINING]
    points = [(name, point) for name, point in [*ends, *presets] if name not in ("knn", "transfer")]
    compared = 0
    for name, point in points:
        family = loading.load(name, {})
        try:
            layers = built(name, family, point, spec)
        except ValueError:  # too deep for images of this size
            continue
        assert family.epoch_cost(point, spec) == pytest.approx(layers), (name, point)
        compared += 1
    assert compared > 0.9 * len(points)


def test_sizes_that_cannot_be_built_have_a_cost_all_the_same() -> None:
    family, point = loading.load("cnn", {}), pair("cnn plain")[1]
    deep = {**point, "plain_blocks": 10, "plain_padding": "valid", "plain_kernel": 5}
    assert family.epoch_cost(deep, SPEC) > 0
    assert family.epoch_cost({**point, "plain_units": 2**60}, SPEC) > 2**60
