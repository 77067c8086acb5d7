"""The promise of `pipeline check`: what it accepts can be built and trains its first step; all else is one line.

Settings come from a fixed seed: each case writes one to three hostile or extreme values into params.yaml. CHECK_CASES
sets how many the long form tries (default 500), CHECK_SEED the seed of both forms.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.backend import configure
from pipeline.core import params
from pipeline.core.errors import ParamsError
from pipeline.datasets.arrays import Labelled, TestSplit, load_splits
from pipeline.datasets.formats import shapes
from pipeline.evaluation.classify import figures
from pipeline.models import loading
from pipeline.models.base import BaseFamily, Span, TrainingError
from pipeline.models.space import Choice
from pipeline.models.training.task import TrainingTask, run
from pipeline.models.values import Hyperparameters, Value
from pipeline.project import check
from pipeline.stages import prepare

FILE = Path(__file__).parents[1] / "params.yaml"
SHORT, LONG = 50, int(os.environ.get("CHECK_CASES", "500"))
SEED = int(os.environ.get("CHECK_SEED", "0"))
# As text of YAML, so that each is read as a user's spelling is: quoted and plain words, edges, extremes, nested values.
WORDS = (
    "no",
    "off",
    "'no'",
    '"Off"',
    "yes",
    "On",
    "true",
    "'true'",
    "relu",
    "auto",
    "''",
    "é",
    "mnist",
    "x: y",
    "null",
)
NUMBERS = ("0", "1", "-1", "2", "3", "1.0", "2.5", "0.5", "-0.003", "1e-3", "'1e-3'", "'3'", "1e-300", "1e308", "-0.0")
EXTREMES = (
    ".inf",
    "-.inf",
    ".nan",
    "2147483648",
    "4294967295",
    "4294967296",
    "20261125155200",
    "1" + 40 * "0",
    "1e400",
)
NESTED = ("[]", "{}", "[[]]", "{low: 0, high: 1}", "{low: 1.0, high: 3.0}", "{low: 3, high: 1}", "{low: 0}", "[null]",
          "{a: {b: []}}", "[no, 3]", "[1, 1.0]", "2026-01-01", "{low: 0, high: .inf}", "{default: {}}")  # fmt: skip
SIZES = ("units", "width", "filters", "blocks", "layers", "stages", "modules", "latent", "batch_size")  # memory, time


def base(families: tuple[str, ...]) -> dict[str, Any]:
    """Return the project's own params for two datasets that need no download."""
    content = params.read(FILE)
    content["download"] = {name: content["download"][name] for name in ("digits", "shapes")}
    content["search"]["budget"] = {name: content["search"]["budget"][name] for name in ("default", "digits")}
    return {**content, "datasets": ["digits"], "families": list(families)}


def places(content: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every key below a mapping."""
    for key, value in content.items():
        yield (*path, key)
        if isinstance(value, Mapping):
            yield from places(value, (*path, key))


def replaced(content: Mapping[str, Any], changes: Iterable[str]) -> str:
    """Return a params file with some values replaced, each written as `-S` takes it: a key with dots, and YAML."""
    changed: dict[str, Any] = copy.deepcopy(dict(content))
    texts = []
    for number, change in enumerate(changes):
        key, _, text = change.partition("=")
        *above, last = key.split(".")
        inner = changed
        for part in above:
            inner[part] = inner[part] if isinstance(inner.get(part), dict) else {}
            inner = inner[part]
        inner[last] = f"@{number}@"
        texts.append(text)
    written = json.dumps(changed)
    for number, text in enumerate(texts):
        written = written.replace(f'"@{number}@"', text)
    return written


def hostile(content: Mapping[str, Any], chance: random.Random) -> list[str]:
    """Return one to three changes of a params file."""
    return [_change(content, chance) for _ in range(chance.choice((1, 1, 1, 2, 3)))]


def _change(content: Mapping[str, Any], chance: random.Random) -> str:
    if chance.random() < 0.5:
        return _dimension(chance.choice(content["families"]), chance)
    if chance.random() < 0.3:  # numbers of which libraries take some only
        numbers = ("seed", "deadline_minutes", "epoch_minutes")
        path = chance.choice([path for path in places(content) if path[-1] in numbers])
        return f"{'.'.join(path)}={chance.choice(NUMBERS + EXTREMES)}"
    section = chance.choice(sorted(content))
    path = chance.choice([path for path in places(content) if path[0] == section])
    if chance.random() < 0.1:
        path = (*path[:-1], f"{path[-1]}x")  # a key that nobody knows
    return f"{'.'.join(path)}={chance.choice(chance.choice((WORDS, NUMBERS, EXTREMES, NESTED)))}"


def _dimension(name: str, chance: random.Random) -> str:
    """Return a change of a dimension: to a value of any kind, or to an end of what the dimension declares."""
    space = loading.load(name, {}).space
    key = chance.choice(sorted(space))
    declared = space[key]
    values = declared.choices if isinstance(declared, Choice) else (declared.low, declared.high)
    ends = [json.dumps(value) for value in values]
    bounds = getattr(declared, "bounds", None)
    if bounds is not None and not key.endswith(SIZES):
        ends += [repr(bounds.low), repr(bounds.high), f"{{low: {bounds.low!r}, high: {bounds.high!r}}}"]
    where = "space" if chance.random() < 0.8 else "space_for.digits"
    return f"{name}.{where}.{key}={chance.choice(chance.choice((ends, ends, WORDS, NUMBERS, EXTREMES, NESTED)))}"


class Ends:
    """A trial that takes an end of each range, and any of some choices; again the same, when asked again."""

    def __init__(self, chance: random.Random) -> None:
        self._chance, self._taken = chance, dict[str, Any]()

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self._taken.setdefault(name, self._chance.choice((low, high)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self._taken.setdefault(name, self._chance.choice((low, high)))

    def suggest_categorical(self, name: str, choices: tuple[Value, ...]) -> Any:
        return self._taken.setdefault(name, self._chance.choice(choices))


def declared_type(family: BaseFamily, name: str) -> type:
    """Return the type of the values that a family declares for a dimension."""
    declared = family.space[name]
    values = declared.choices if isinstance(declared, Choice) else (declared.low, declared.high)
    kinds = {type(value) for value in values}
    return float if kinds == {int, float} else kinds.pop()


def numbers(value: Any) -> Iterator[float]:
    """Yield every number of a nested value."""
    if isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from numbers(inner)
    elif isinstance(value, int | float):
        yield value


def use(content: dict[str, Any], sections: set[str], chance: random.Random, data: Path, folder: Path) -> None:
    """Use what `check` has accepted, as the stages will."""
    settings = {name: params.parse(name, content[name], model) for name, model in check._owners().items()}
    assert all(math.isfinite(number) for one in settings.values() for number in numbers(one.model_dump()))
    if "prepare" in sections:
        images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
        part = Labelled(images, np.arange(64) % 2)
        prepare.choose_val(np.arange(64), part.labels, content["prepare"]["val_fraction"], settings["prepare"].seed)
    if "evaluate" in sections:
        splits = load_splits(data)
        labels = np.asarray(splits.val.labels)
        split = TestSplit(splits.val, splits.class_names, "digest")
        found = figures(labels, np.eye(10)[labels], split, settings["evaluate"].confidence)
        assert all(math.isfinite(number) for number in numbers(found))
    if "download" in sections and "shapes" in content["download"]:
        section = shapes.Settings.model_validate(content["download"]["shapes"])
        shapes.draw(tuple(shapes.SHAPES)[:2], 2, [section.seed, 0])
    if "search" in sections:
        _search(content)
    trained = [name for name in content["families"] if sections & {name, "train"}]
    if trained:
        _train(content, chance.choice(trained), settings["train"].seed, chance, data, folder)


def _search(content: dict[str, Any]) -> None:
    from pipeline.search import samplers
    from pipeline.search.settings import SearchSettings

    settings = SearchSettings.model_validate(content["search"])
    for name in content["families"]:
        assert settings.budget_for("digits", name).trials
    family = loading.load(content["families"][0], content[content["families"][0]], "digits")
    assert samplers.Proposer(settings, settings.seed, family.suggest)([]) is not None


def _train(content: dict[str, Any], name: str, seed: int, chance: random.Random, data: Path, folder: Path) -> None:
    """Train a family for an epoch at some ends of its search space, as a worker of the stage train does."""
    family = loading.load(name, content[name], "digits")
    point: Hyperparameters = family.suggest(Ends(chance))
    assert {key: type(value) for key, value in point.items()} == {key: declared_type(family, key) for key in point}
    settings = family.settings.model_dump(mode="json")
    task = TrainingTask(name, settings, point, data, seed, Span(0, 1, 1), folder / "task", folder / "log")
    try:
        trained = run(task, lambda _: None)
    except TrainingError as error:
        assert "diverged" in str(error), error  # noqa: PT017 - built and trained, if to no good end
    else:
        assert len(trained.epochs) == 1


def attempt(number: int, content: Mapping[str, Any], data: Path, folder: Path) -> bool:
    """Check a case and use what is accepted; return whether it was."""
    chance = random.Random(f"{SEED}-{number}")
    changes = hostile(content, chance)
    sections = {change.partition("=")[0].partition(".")[0] for change in changes}
    file = folder / "params.yaml"
    file.write_text(replaced(content, changes), encoding="utf-8")
    try:
        try:
            accepted = check.check(file)
        except ParamsError as error:
            message = str(error)
            assert "\n" not in message
            assert len(message) < 3000
            assert "expected" in message
            assert "found" in message
            assert any(section in message for section in sections)
            return False
        use(accepted, sections, chance, data, folder / str(number))
    except BaseException as error:
        error.add_note(f"case {number} of seed {SEED}: {' '.join(changes)}")
        raise
    return True


@pytest.fixture(scope="module", autouse=True)
def keras_backend() -> None:
    configure.configure("tensorflow", threads=1)


def checked(folder: Path, *changes: str) -> dict[str, Any]:
    file = folder / "params.yaml"
    file.write_text(replaced(params.read(FILE), changes), encoding="utf-8")
    return check.check(file)


TRANSFER = ("families=[transfer]", "search.budget={default: {trials: 1, epochs: 1, trial_epochs: 1}}")
PIN = f"{{name: pets.npz, bytes: 1, sha256: '{64 * '0'}'}}"
PETS = f"{{pets: {{format: folder, path: pets, size: [8, 20], channels: 1, classes: [cat, dog], files: [{PIN}]}}}}"
SMALL = ("datasets=[pets]", "families=[cnn]", f"download={PETS}")


@pytest.mark.parametrize(
    ("settings", "message", "instead"),
    [
        (["search.sampler=gp"], "search.sampler is gp: expected an installed torch, found none; .*to tpe",
         "search.sampler=tpe"),
        (["search.engine=ray"], "search.engine is ray: expected an installed ray, found none; .*to local",
         "search.engine=local"),
        (["runtime.backend=jax"], "runtime.backend is jax, .*expected an installed backend, found none", None),
        (["search.sampler=grid", "search.grid_points=40"], "grid is too large: .*10,000 points, .*grid_points=40",
         "search.sampler=qmc"),
        (["search.sampler=grid", "families=[mlp]", "mlp.space={l2: {low: 0, high: 1}}", "search.grid_points=20"],
         "grid is too large: .*search.grid_points=20", "search.grid_points=2"),
        ([*TRANSFER, "transfer.init_from=models:/a@b", "search.sampler=grid", "search.grid_points=40"],
         "grid is too large", "search.sampler=qmc"),
        (["search.budget.mnits={trials: 1, epochs: 1, trial_epochs: 1}"],
         "search.budget: unknown dataset: expected 'mnist'.*found 'mnits'", None),
        (["search.budget.mnist-cmn={trials: 1, epochs: 1, trial_epochs: 1}"], "expected 'mnist-cnn'", None),
        (["mlp.space_for.cifar-10={flip: true}"], "mlp.space_for: unknown dataset: expected 'cifar10'", None),
        (["search.budget={}"], "search.budget: expected an entry mnist-mlp, mnist or default, found no entry",
         "search.budget={mnist: {trials: 1, epochs: 1, trial_epochs: 1}}"),
        (["search.budget={shapes: {trials: 1, epochs: 1, trial_epochs: 1}}"],
         "search.budget: expected .* or default, found shapes", None),
        (["validate.near_duplicates.distance={shapes: 0.1}"], "expected mnist or default, found shapes", None),
        (["families=[transfer]"], "transfer.init_from: expected models:/<name>@<alias> .*, found ''",
         "transfer.init_from=models:/mnist-classifier@champion"),
        (["families=[transfer]", "transfer.init_from=mnist@champion"], "init_from: .*, found 'mnist@champion'", None),
        (["mlp=null"], "mlp is wrong: expected a mapping of settings, .*, found None", "mlp={space: {}}"),
        (["gan=[]"], r"gan is wrong: .*, found \[\]", "gan={}"),  # it does not compete, and may later
        (["gan.space={width: -1}"], "gan.space.width is wrong: .*, found -1", "gan.space={width: 16}"),
        ([*SMALL, "search.presets=true", "cnn.presets=[R5, R2]"],
         "cnn.presets: R2 cannot be built for pets: .*at least 10 pixels.*found 8",
         "cnn.presets=[]"),
        (["knn.images={l3: 5}"], "knn.images.l3.* is wrong: expected .*'l1' or 'l2', found 'l3'", "knn.images={l2: 5}"),
        (["knn.neighbours=[1000000000000]"], "knn.neighbours.0 is wrong: expected .*1000000", None),
        (["runtime.workers=1000000000"], "runtime.workers is wrong: expected .*1024, found 1000000000", None),
        (["evaluate.confidence=0.9999999999999999"], "evaluate.confidence is wrong: expected .*0.999999", None),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_on_this_machine_is_refused_and_what_is_advised_passes(
    settings: list[str], message: str, instead: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("torch", "ray", "jax") else found(name)
    )
    with pytest.raises(ParamsError, match=message) as error:
        checked(tmp_path, *settings)
    assert "\n" not in str(error.value)
    if instead:
        checked(tmp_path, *settings, instead)


@pytest.mark.usefixtures("eager")  # the long form has graphs
@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # with a dropout of 1
def test_what_check_accepts_can_be_built_and_all_else_is_one_line(tiny_digits: Path, tmp_path: Path) -> None:
    content = base(("mlp", "knn"))
    accepted = sum(attempt(number, content, tiny_digits, tmp_path) for number in range(SHORT))
    assert SHORT // 10 < accepted < SHORT


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_many_settings_that_check_accepts_can_be_built(tiny_digits: Path, tmp_path: Path) -> None:
    content = base(("mlp", "cnn", "rnn", "knn", "seq2seq"))
    accepted = sum(attempt(number, content, tiny_digits, tmp_path) for number in range(LONG))
    print(f"{LONG:,} settings, {accepted:,} accepted")
    assert accepted > LONG // 10
