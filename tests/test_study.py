"""Studies without training: what is proposed, in which order, and what a reopened study still knows."""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import optuna
import pytest

from pipeline.core import params
from pipeline.core.errors import EngineError, ParamsError
from pipeline.models.base import BaseFamily, FamilySettings
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.space import Choice, Hyperparameters, Range, Space, Trial
from pipeline.search import enqueued, study_store
from pipeline.search.settings import Budget, SearchSettings
from pipeline.search.study import Study
from pipeline.search.study_definition import Definition
from pipeline.search.trials import hyperparameters

BUDGET = {"default": {"trials": 9, "epochs": 99, "trial_epochs": 3}}


class Family(BaseFamily):
    """A family with a conditional dimension that trains nothing."""

    space: ClassVar[Space] = {
        "rate": Range(low=1e-4, high=1e-2, log=True),
        "layers": Range(low=1, high=3),
        "norm": Choice(choices=(True, False)),
        "momentum": Range(low=0.5, high=1.0),
    }
    known: ClassVar[dict[str, Hyperparameters]] = {}

    def suggest(self, trial: Trial) -> Hyperparameters:
        point = {name: self.space[name].sample(trial, name) for name in ("rate", "layers", "norm")}
        if point["norm"]:
            point["momentum"] = self.space["momentum"].sample(trial, "momentum")
        return point

    def presets_for(self, dataset: str) -> dict[str, Hyperparameters]:
        return self.known if dataset == "digits" else {}

    def build(self, hyperparameters: Hyperparameters, spec: Any) -> Any:
        raise NotImplementedError

    def fit(self, *arguments: Any, **named: Any) -> Any:
        raise NotImplementedError


def searched(**search: Any) -> SearchSettings:
    """Return the settings of params.yaml, some of them changed."""
    section = params.section("search", Path(__file__).parents[1] / "params.yaml")
    return params.parse("search", {**section, **search}, SearchSettings)


def opened(folder: Path, trial_epochs: int = 3, *, presets: bool = True, **search: Any) -> Study:
    """Return a study without trials."""
    settings = searched(budget=BUDGET, presets=presets, **search)
    definition = Definition("digits", "fake", "d", "c", {}, settings.defining(), trial_epochs, "tensorflow")
    return Study(folder, definition, settings, Family("fake", FamilySettings()), steps=1000)


def epoch(number: int, value: float, seconds: float = 1.0, *, stopped: bool = False) -> EpochMetrics:
    return EpochMetrics(number, {"val_accuracy": value}, seconds, at=0.0, stopped=stopped)


def end(study: Study, trial: optuna.Trial, value: float | None = None) -> Hyperparameters:
    """Train a trial to its end, and return its hyperparameters."""
    found = hyperparameters(trial)
    value = 1 - abs(float(found["rate"]) - 3e-3) if value is None else value
    study.record(trial, [epoch(number, value) for number in (1, 2, 3)], {})
    study.tell(trial, "complete")
    return found


def ask(study: Study) -> optuna.Trial:
    trial = study.ask()
    assert trial is not None
    return trial


SAMPLERS = ["tpe", "random", "qmc", pytest.param("gp", marks=pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"))]  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_proposes_no_point_twice_and_a_replay_the_same_points(sampler: str, tmp_path: Path) -> None:
    study, again = opened(tmp_path, sampler=sampler), opened(tmp_path, sampler=sampler)
    found = [end(study, ask(study)) for _ in range(9)]
    assert len({point["rate"] for point in found}) == 9
    assert all(("momentum" in point) == point["norm"] for point in found)
    assert [end(again, ask(again)) for _ in range(9)] == found


def test_a_sampler_that_learns_begins_in_the_middle_and_another_does_not(tmp_path: Path) -> None:
    first = {name: hyperparameters(ask(opened(tmp_path / name, sampler=name))) for name in ("tpe", "random", "qmc")}
    assert first["tpe"] == {"rate": pytest.approx(1e-3), "layers": 2, "norm": True, "momentum": 0.75}
    assert first["random"] != first["tpe"] != first["qmc"]


def test_qmc_spreads_from_the_first_trial_on(tmp_path: Path) -> None:
    study = opened(tmp_path, sampler="qmc")
    whole = [end(study, ask(study)) for _ in range(8)]
    eighths = {int((float(point["rate"]) / 1e-4) ** (1 / 2) // 10 ** (1 / 8)) for point in whole}
    assert sorted(point["layers"] for point in whole).count(2) in (2, 3)  # a third of 8
    assert len(eighths) > 3


def test_a_grid_is_walked_once_conditions_included_and_then_the_study_has_nothing_more(tmp_path: Path) -> None:
    study = opened(tmp_path, sampler="grid", grid_points=2)
    found = []
    while (trial := study.ask()) is not None:
        found.append(end(study, trial))
    assert study.points == len(found)
    rates, layers = (1e-4, 1e-2), (1, 3)
    with_norm = [{"rate": r, "layers": n, "norm": True, "momentum": m}
                 for r in rates for n in layers for m in (0.5, 1.0)]  # fmt: skip
    without = [{"rate": r, "layers": n, "norm": False} for r in rates for n in layers]
    key = str
    assert sorted(found, key=key) == sorted(with_norm + without, key=key)


def test_a_grid_too_large_to_walk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"grid is too large.*search.grid_points=1000"):
        opened(tmp_path, sampler="grid", grid_points=1000)


def test_a_range_of_whole_numbers_has_whole_points_on_a_grid() -> None:
    found = enqueued.grid(lambda trial: {"n": trial.suggest_int("n", 1, 16, log=True)}, 3)
    assert found == [{"n": 1}, {"n": 4}, {"n": 16}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "tpa"}, r"search.sampler is wrong: expected 'tpe'\? \(one of gp, grid, qmc, random, tpe\)"),
        ({"pruner": "hyperbands"}, r"search.pruner is wrong: expected 'hyperband'\?"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=message):
        opened(tmp_path, **settings)


def test_gp_without_torch_is_an_error_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ParamsError, match=r"search.sampler is gp, which needs PyTorch.*pipeline doctor"):
        opened(tmp_path, sampler="gp")


@pytest.mark.parametrize("pruner", ["hyperband", "median"])
def test_a_pruner_ends_bad_trials_and_none_does_not(pruner: str, tmp_path: Path) -> None:
    def bad_ones_pruned(name: str) -> list[bool]:
        study = opened(tmp_path / name, pruner=name)
        judged = []
        for place in range(15):
            trial = ask(study)
            study.record(trial, [epoch(1, 0.9 if place < 9 else 0.1)], {})
            judged.append(trial.should_prune())
            study.record(trial, [epoch(2, 0.9), epoch(3, 0.9)], {})
            study.tell(trial, "complete")
        return judged[9:]  # hyperband puts some of them into brackets that judge later

    assert any(bad_ones_pruned(pruner))
    assert not any(bad_ones_pruned("none"))


def test_halving_lets_one_in_three_go_on_the_best_and_higher_rungs_first(tmp_path: Path) -> None:
    study = opened(tmp_path, trial_epochs=9)
    waiting: dict[int, optuna.Trial] = {}

    def come(value: float) -> int:
        trial = ask(study)
        study.record(trial, [epoch(1, value)], {})
        waiting[trial.number] = trial
        return trial.number

    def go_on(number: int, value: float) -> None:
        trial = waiting.pop(number)
        study.halving.promote(trial)
        assert not study.halving.waits(trial)
        start, stop = study.next_rung(trial) or (0, 0)
        study.record(trial, [epoch(n, value) for n in range(start + 1, stop + 1)], {})
        waiting[number] = trial

    def promotable(at_least: int = 0) -> int | None:
        return study.halving.promotable(study.contenders(), waiting, at_least=at_least)

    bad, good, better = come(0.5), come(0.8), None
    assert promotable() is None  # nobody goes far because it came first
    assert study.halving.waits(waiting[bad])
    better = come(0.9)
    assert promotable() == better
    go_on(better, 0.95)
    assert promotable() == better  # above the first rung the best goes on however few have come
    go_on(better, 0.99)
    study.tell(waiting.pop(better), "complete")
    assert promotable() is None
    assert promotable(at_least=2) == good  # one in three may, but nobody else will come
    for _ in range(3):
        come(0.1)
    assert promotable() == good
    go_on(good, 0.94)
    assert promotable() is None  # the second of two
    seventh = come(0.85)
    come(0.1)
    come(0.1)
    assert promotable() == seventh
    go_on(seventh, 0.97)
    assert promotable() == seventh  # the best of three
    assert study.halving.last(study.contenders(), waiting) not in (good, seventh)


@dataclass(frozen=True)
class Tried:
    """A trial that a study knows: its rate, a value for each of its epochs, and how it ended, if it has."""

    rate: float
    values: tuple[float, ...]
    state: Literal["complete", "failed"] | None = None


RATES = [1e-4 * 10 ** (place / 20) for place in range(0, 41, 2)]  # up to 1e-2


@pytest.fixture
def propose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Tried]], float]:
    """Return how TPE goes on after some trials: the middle of the rates that it proposes, as a power of ten."""
    monkeypatch.setattr(Family, "space", {"rate": Range(low=1e-4, high=1e-2, log=True)})
    monkeypatch.setattr(Family, "suggest", BaseFamily.suggest)

    def median(tried: list[Tried]) -> float:
        monkeypatch.setattr(Family, "known", {str(place): {"rate": one.rate} for place, one in enumerate(tried)})
        study = opened(tmp_path / str(len(list(tmp_path.iterdir()))), sampler="tpe")
        for one in tried:
            trial = study.ask_preset()
            assert trial is not None
            study.record(trial, [epoch(number, value) for number, value in enumerate(one.values, start=1)], {})
            if one.state:
                study.tell(trial, one.state)
        running = study.status().counts["running"]
        ask(study)  # the middle of the space, whatever is known
        rates = [math.log10(float(hyperparameters(ask(study))["rate"])) for _ in range(15)]
        assert study.status().counts["running"] == running + 16, "to learn from a trial does not end it"
        return statistics.median(rates)

    return median


def like(power: float, rate: float) -> float:
    """Return a value that is the higher, the nearer a rate is to a power of ten."""
    return 1 - abs(math.log10(rate) - power) / 4


def test_a_sampler_learns_from_trials_that_wait_and_not_from_those_that_failed(
    propose: Callable[[list[Tried]], float],
) -> None:
    failed = [Tried(1e-3, (1.0,), "failed")] * 5
    assert propose([*failed, *(Tried(rate, (like(-4, rate),)) for rate in RATES)]) < -3.5
    assert propose([*failed, *(Tried(rate, (like(-2, rate),)) for rate in RATES)]) > -2.5


def test_a_sampler_compares_trials_after_epochs_that_enough_of_them_have_trained(
    propose: Callable[[list[Tried]], float],
) -> None:
    ended = [Tried(1e-2, (0.2, 0.8, 0.9), "complete")] * 4
    others = [Tried(rate, (like(-4, rate),)) for rate in RATES]
    assert propose([*ended, *others]) < -3.5  # those that have ended are the worst after one epoch
    ended_too = [Tried(1e-4, (0.9, 0.7, 0.7), "complete")] * 4
    short = [Tried(1e-3, (0.99,))] * 9  # worth less than what was trained to its end
    assert propose([*ended, *ended_too, *short]) > -2.5


INSIDE: Hyperparameters = {"rate": 2e-3, "layers": 2, "norm": False}
OUTSIDE: Hyperparameters = {"rate": 0.1, "layers": 3, "norm": True, "momentum": 0.9, "extra": "kept"}


@pytest.fixture
def presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Family, "known", {"R1": INSIDE, "R2": OUTSIDE})


@pytest.mark.usefixtures("presets")
@pytest.mark.parametrize("sampler", ["grid", *SAMPLERS])
def test_presets_are_trials_of_their_own_and_stay_what_they_are(sampler: Any, tmp_path: Path) -> None:
    study = opened(tmp_path, sampler=sampler)
    sampled = [end(study, ask(study)) for _ in range(6)]
    assert all(1e-4 <= float(point["rate"]) <= 1e-2 for point in sampled)
    first, second = study.ask_preset(), study.ask_preset()
    assert first is not None
    assert second is not None
    assert (hyperparameters(first), hyperparameters(second)) == (INSIDE, OUTSIDE)
    end(study, first)
    assert end(study, second, 0.99999) == OUTSIDE
    assert study.ask_preset() is None
    best = study.require_best()
    assert (best.number, best.hyperparameters) == (7, OUTSIDE)
    known = [trial.params for trial in study.trials[6:]]
    assert known == [INSIDE, {"layers": 3, "norm": True, "momentum": 0.9}]  # the sampler knows what it can hold
    assert 1e-4 <= float(end(study, ask(study))["rate"]) <= 1e-2
    table = study.table()
    assert table["preset"].tolist()[5:] == ["", "R1", "R2", ""]
    assert table["rate"].tolist()[7] == 0.1
    assert table["extra"].tolist()[7] == "kept"


@pytest.mark.usefixtures("presets")
def test_presets_can_be_left_out_and_then_it_is_another_study(tmp_path: Path) -> None:
    assert opened(tmp_path, presets=False).ask_preset() is None
    settings = [searched(budget=BUDGET, presets=flag) for flag in (True, False)]
    names = {Definition("d", "f", "d", "c", {}, one.defining(), 3, "tensorflow").name for one in settings}
    assert len(names) == 2


def grown(study: Study, values: list[float], state: Any = "pruned") -> int:
    """Give a study a trial with some epochs; return its number."""
    trial = ask(study)
    study.record(trial, [epoch(number, value) for number, value in enumerate(values, start=1)], {})
    if state != "running":
        study.tell(trial, state)
    return trial.number


def test_the_winner_is_decided_after_the_most_epochs_that_contenders_share(tmp_path: Path) -> None:
    """A search of MNIST that lost its winner: the ends are what it reached, the ways there are made up."""
    study = opened(tmp_path, trial_epochs=12)
    short = [0.96, 0.97, 0.975]
    grown(study, [0.9750])
    assert grown(study, [0.978, 0.982, 0.985, *[0.987] * 5, 0.9898]) == 1  # R3
    grown(study, [0.9701])
    assert grown(study, [*short, *[0.984] * 8, 0.9870], "complete") == 3  # R7
    grown(study, [0.9652])
    grown(study, [0.9649])
    assert grown(study, [0.977, 0.981, 0.984, *[0.987] * 8, 0.9883], "complete") == 6  # R11, which was chosen
    assert grown(study, [0.9927, 0.9947, 0.9951, *[0.996] * 5, 0.9965]) == 7  # fast, the centre
    assert grown(study, [0.9921, 0.9941, 0.9950, *[0.995] * 5, 0.9957]) == 8  # fast
    assert study.require_best().number == 7
    assert study.require_best().value == 0.9965


def test_one_short_rung_does_not_beat_what_was_trained_further(tmp_path: Path) -> None:
    study = opened(tmp_path, trial_epochs=9)
    assert study.leader() is None
    first = grown(study, [0.90], "running")
    second = grown(study, [0.80, 0.85, 0.86], "running")
    assert study.require_best().number == second  # the first has only qualified
    third = grown(study, [0.70, 0.80, 0.87], "running")
    assert study.require_best().number == third
    complete = grown(study, [0.7, 0.7, 0.865, *[0.99] * 6], "complete")
    assert study.require_best().number == third  # after three epochs it was better
    grown(study, [0.7, 0.7, 0.88, *[0.98] * 6], "complete")
    assert study.require_best().number == complete  # what was better still after three epochs ended below
    stopped = [epoch(1, 0.7), epoch(2, 0.991, stopped=True)]
    trial = ask(study)
    study.record(trial, stopped, {})
    study.tell(trial, "complete")
    assert study.require_best().number == trial.number  # it stopped by itself: that is its end
    assert first != second


def test_the_best_meets_the_limits_and_a_study_without_such_a_trial_reports_the_nearest(tmp_path: Path) -> None:
    study = opened(tmp_path, constraints={"parameters": 1000})

    def judged(parameters: int, value: float) -> optuna.Trial:
        trial = ask(study)
        study.record(trial, [epoch(number, value) for number in (1, 2, 3)], {"parameters": parameters})
        study.tell(trial, "complete")
        return trial

    judged(3000, 0.9)
    judged(1500, 0.8)
    with pytest.raises(EngineError, match=r"no trial keeps to.*parameters at most 1,000.*found parameters 1,500 over"):
        study.require_best()
    within = judged(1000, 0.4)
    assert study.require_best().number == within.number


def test_a_budget_without_room_for_one_whole_trial_is_refused() -> None:
    with pytest.raises(ParamsError, match="epochs of at least trial_epochs, 8"):
        params.parse("b", {"trials": 9, "epochs": 7, "trial_epochs": 8}, Budget)


def test_old_studies_go_but_not_those_of_registered_versions_or_others(tmp_path: Path) -> None:
    names = [f"digits-mlp-g1-{place:010x}" for place in range(6)]
    others = ["digits-cnn-g1-0000000000", "digits-mlp-2-g1-0000000000", "notes"]
    for place, name in enumerate(names + others):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.db").touch()
        os.utime(tmp_path / name / "study.db", (place, place))
    with study_store.locked(tmp_path / names[1]):  # at work
        siblings = study_store.idle_siblings(tmp_path, "digits", "mlp", current=names[5])
        assert study_store.sweep(siblings, 2, protected={names[0]}) == [names[3], names[2]]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, names[0], names[1], *names[4:]])


def test_a_space_of_few_points_is_walked_whatever_the_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Family, "space", {"norm": Choice(choices=(True, False))})
    monkeypatch.setattr(Family, "suggest", BaseFamily.suggest)
    study = opened(tmp_path, sampler="tpe")
    assert {end(study, ask(study), 0.5)["norm"] for _ in range(2)} == {True, False}
    assert study.ask() is None


@pytest.mark.parametrize("high", [2, 40])
def test_no_point_of_a_finite_space_is_tried_twice(high: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Family, "space", {"layers": Range(low=1, high=high)})
    monkeypatch.setattr(Family, "suggest", BaseFamily.suggest)
    study = opened(tmp_path, sampler="tpe")
    found = []
    while (trial := study.ask()) is not None:
        found.append(end(study, trial, 0.5)["layers"])
    assert sorted(found) == list(range(1, high + 1))
