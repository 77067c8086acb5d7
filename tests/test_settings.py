"""Settings mean what they say: an override is read as the type that its dimension declares, or refused in one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import params
from pipeline.core.errors import ParamsError
from pipeline.core.seeds import fold
from pipeline.models import loading, values
from pipeline.models.space import Choice, Range
from pipeline.project import check, params_edit
from pipeline.search.study_definition import Definition

FILE = Path(__file__).parents[1] / "params.yaml"


def dimension(name: str, value: Any, family: str = "mlp") -> Choice | Range:
    return loading.load(family, {"space": {name: value}}).dimensions[name]


def checked(folder: Path, *settings: str) -> dict[str, Any]:
    """Return params.yaml with some settings as `-S` sets them, after `pipeline check`."""
    file = folder / "params.yaml"
    file.write_text(params_edit.override(FILE.read_text(encoding="utf-8"), settings), encoding="utf-8")
    return check.check(file)


@pytest.mark.parametrize("text", ["no", "No", "OFF", "off", "'off'", '"No"', "false", "FALSE", "0"])
def test_a_word_for_no_is_no_where_a_dimension_is_yes_or_no(text: str, tmp_path: Path) -> None:
    content = checked(tmp_path, f"mlp.space={{batch_norm: {text}, flip: [{text}]}}")
    found = loading.load("mlp", content["mlp"]).dimensions
    assert found["batch_norm"] == found["flip"] == Choice(choices=(False,))
    assert [type(value) for value in found["flip"].choices] == [bool]


@pytest.mark.parametrize("text", ["yes", "On", "TRUE", "'true'", "1"])
def test_a_word_for_yes_is_yes(text: str, tmp_path: Path) -> None:
    content = checked(tmp_path, f"cnn.space.plain_batch_norm={text}")
    found = loading.load("cnn", content["cnn"]).dimensions["plain_batch_norm"]
    assert found == Choice(choices=(True,))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("dropout", {"low": 0, "high": 1}, Range(low=0.0, high=1.0)),
        ("dropout", {"low": 0, "high": 0.5}, Range(low=0.0, high=0.5)),
        ("mixup", [0, 1], Choice(choices=(0.0, 1.0))),
        ("layers", {"low": 1.0, "high": 3.0}, Range(low=1, high=3)),
        ("units", [64.0, "128"], Choice(choices=(64, 128))),
        ("units", {"low": 32, "high": 256, "log": "yes"}, Range(low=32, high=256, log=True)),
        ("learning_rate", "1e-3", Choice(choices=(0.001,))),
    ],
)
def test_a_number_is_read_as_the_type_of_its_dimension(name: str, value: Any, expected: Choice | Range) -> None:
    found = dimension(name, value)
    assert found == expected
    numbers = found.choices if isinstance(found, Choice) else (found.low, found.high)
    wanted = expected.choices if isinstance(expected, Choice) else (expected.low, expected.high)
    assert [type(number) for number in numbers] == [type(number) for number in wanted]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning_rate: -0.003", r"mlp.space.learning_rate .*expected a number above 0 to 100, found -0.003"),
        ("learning_rate: {low: 0, high: 0.1}", r"learning_rate.low .*above 0 to 100, found 0"),
        ("label_smoothing: 30", r"label_smoothing .*expected a number from 0 to 1, found 30"),
        ("dropout: 1", r"dropout .*from 0 to below 1, found 1"),
        ("dropout: {low: 0.5, high: 1.5}", r"dropout.high .*found 1.5"),
        ("dropout: {low: 0, high: .inf}", r"dropout.high .*found inf"),
        ("weight_decay: .nan", r"weight_decay .*found nan"),
        ("activation: [relu, rellu]", r"activation .*expected 'relu'\? \(one of gelu.*found 'rellu'"),
        ("optimizer: Adam", r"optimizer .*expected 'adam'\?.*found 'Adam'"),
        ("optimizer: yes", r"optimizer .*found 'yes'"),
        ("batch_size: 0", r"batch_size .*expected a whole number from 1 to 65536, found 0"),
        ("batch_size: [64, true]", r"batch_size .*whole number .*found True"),
        ("layers: 2.5", r"layers .*whole number from 1 to 32, found 2.5"),
        ("layers: {low: 3, high: 1}", r"layers .*low <= high, not 3 > 1"),
        ("layers: {low: 1}", r"layers.high is missing"),
        ("layers: {low: 1, hihg: 2}", r"unknown key mlp.space.layers.hihg: expected 'high'\?"),
        ("l2: {low: 0, high: 1, log: true}", r"l2 .*low > 0 on a logarithmic scale"),
        ("units: []", r"units .*at least 1 value, a whole number"),
        ("units: [64, 64.0]", r"units .*every value once"),
        ("units: [[64]]", r"units .*found \[64\]"),
        ("units: null", r"units .*found None"),
        ("units: 1e400", r"units .*found inf"),
        ("flip: maybe", r"flip .*expected yes or no, found 'maybe'"),
        ("flip: {low: 0, high: 1}", r"flip .*expected a value or a list of values, yes or no"),
        ("shift: 100", r"mlp: shift .*at most 27, as images have 28 pixels .*found 100"),
        ("cutout: {low: 0, high: 28}", r"mlp: cutout .*at most 27, .*found 28"),
        ("shift: -1", r"shift .*from 0 to 1023, found -1"),
    ],
)
def test_what_a_dimension_cannot_mean_is_refused_in_one_line(setting: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=message) as error:
        checked(tmp_path, "datasets=[digits]", f"mlp.space={{{setting}}}")
    assert "\n" not in str(error.value)


def test_bounds_of_one_dataset_are_those_of_its_images(tmp_path: Path) -> None:
    wide = "mlp.space_for={shapes: {shift: 30}}"
    checked(tmp_path, "datasets=[shapes]", wide)  # 32 pixels
    with pytest.raises(ParamsError, match="plain is too deep for the images: expected at least 76 pixels"):
        checked(tmp_path, "datasets=[mnist]", "cnn.space_for={}",
                "cnn.space={plain_blocks: {low: 1, high: 4}, plain_padding: valid}")  # fmt: skip


def test_every_number_of_every_space_declares_bounds_that_hold_it() -> None:
    for name in sorted(loading.family_names()):
        family = loading.load(name, {})
        for key, declared in family.space.items():
            numbers = declared.choices if isinstance(declared, Choice) else (declared.low, declared.high)
            if declared.type.kind in ("whole", "real"):
                assert declared.bounds is not None, (name, key)
                assert all(declared.bounds.hold(float(number)) for number in numbers), (name, key)


def test_a_network_is_built_of_nothing_that_its_record_does_not_say() -> None:
    point = {"flip": "no", "layers": 2.64, "dropout": math.nan, "activation": True}
    for read, name in zip((values.yes, values.whole, values.real, values.word), point, strict=True):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            read(point, name)


def test_settings_that_mean_the_same_name_the_same_study_as_before() -> None:
    family = loading.load("mlp", params.read(FILE)["mlp"], "mnist")
    settings = family.settings.model_dump(mode="json")
    search = {"sampler": "tpe", "generation": 1, "seed": 0}
    named = Definition("mnist", "mlp", "data", "code", settings, search, 8, "tensorflow").name
    assert named == "mnist-mlp-g1-39f13bb73e"


def test_every_optimizer_takes_a_weight_decay_of_0() -> None:
    from pipeline.models.training.recipe import PLAIN, TRAINING, optimizer

    for name in TRAINING["optimizer"].choices:  # type: ignore[union-attr]
        assert optimizer({**PLAIN, "optimizer": name, "weight_decay": 0.0}, 10) is not None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("search.deadline_minutes=.inf", r"deadline_minutes is wrong: expected .*finite number, found inf"),
        ("search.budget.default.minutes=4", r"trials and epochs only; search.deadline_minutes limits the time"),
        ("search.epoch_minutes=.nan", r"epoch_minutes is wrong: .*finite number, found nan"),
        ("search.budget.default.trials=true", r"trials is wrong: expected a number, found True"),
        ("search.seed=-1", r"search.seed is wrong: .*greater than or equal to 0, found -1"),
        ("train.seed=-1", r"train.seed is wrong: .*found -1"),
        ("train.seeds=1000000", r"train.seeds is wrong: .*found 1000000"),
        ("evaluate.confidence=.nan", r"evaluate.confidence is wrong: .*found nan"),
        ("search.seed=2026-13-45", r"-S search.seed=2026-13-45: not a value"),
    ],
)
def test_a_setting_of_a_stage_is_a_number_that_it_can_use(setting: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=message) as error:
        checked(tmp_path, setting)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**32, 20261125155200, 2**100])
def test_a_seed_of_any_size_starts_a_search(seed: int, sampler: str, tmp_path: Path) -> None:
    from pipeline.search import samplers
    from pipeline.search.settings import SearchSettings

    content = checked(tmp_path, f"search.seed={seed}", f"search.sampler={sampler}", f"train.seed={seed}")
    settings = SearchSettings.model_validate(content["search"])
    family = loading.load("mlp", content["mlp"])
    assert samplers.Proposer(settings, settings.seed, family.suggest)([])


def test_a_seed_below_32_bits_stays_and_a_larger_one_is_hashed() -> None:
    assert [fold(seed) for seed in (0, 7, 2**32 - 1)] == [0, 7, 2**32 - 1]
    assert len({fold(seed) for seed in range(2**32, 2**32 + 100)}) == 100
    assert fold(20261125155200) == fold(20261125155200) < 2**32
