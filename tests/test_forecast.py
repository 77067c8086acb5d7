"""What a run will take is estimated before anything trains, and confirmed in a terminal where it is long."""

from __future__ import annotations

import io
import os
import pty
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.artifacts import search as artifacts
from pipeline.artifacts.base import write
from pipeline.backend import configure
from pipeline.cli import main as cli
from pipeline.cli import run
from pipeline.core import params
from pipeline.datasets.arrays import Labelled, Splits, load_splits, save_splits
from pipeline.executors import local
from pipeline.executors.base import Done
from pipeline.models import loading
from pipeline.models.base import Span
from pipeline.project import dvc, machine, preflight, workspace
from pipeline.project.own_code import MARKER
from pipeline.search import cost_estimate, forecast
from pipeline.search.forecast import EpochTime, Pair
from pipeline.search.settings import SearchSettings

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = params.load("search", SearchSettings, ROOT / "params.yaml")


@pytest.fixture
def data(tmp_path: Path, prepared_digits: Path) -> Path:
    """A folder of data with prepared digits."""
    shutil.copytree(prepared_digits, tmp_path / "data/prepared/digits")
    return tmp_path / "data"


def pair(name: str, data: Path) -> Pair:
    return Pair(loading.load(name, {}), "digits", data)


@pytest.mark.slow
def test_an_epoch_is_timed_on_a_part_of_the_data_and_is_right_for_all_of_it(data: Path) -> None:
    configure.configure("tensorflow", threads=1)
    whole = load_splits(data / "prepared/digits")
    many = Labelled(*(getattr(whole.train, of).repeat(12, axis=0) for of in ("images", "labels")))
    shutil.rmtree(data / "prepared/digits")
    save_splits(data / "prepared/digits", Splits(many, whole.val, whole.class_names, "many"))
    task = pair("mlp", data).timing()
    found = forecast.time_epoch(task, lambda message: None)
    family, splits = loading.load("mlp", {}), load_splits(data / "prepared/digits")
    fitted = family.fit(task.hyperparameters, splits, Span(0, 2, 2), seed=0, state=None, on_epoch=lambda _: None)
    assert len(many) > forecast._BATCHES * int(task.hyperparameters["batch_size"]) * 3
    assert fitted.history[-1].seconds / 2 < found.epoch_s < 2 * fitted.history[-1].seconds
    assert found.start_s > 0
    neighbours = forecast.time_epoch(pair("knn", data).timing(), lambda message: None)
    assert neighbours.single
    assert neighbours.epoch_s > 0


def test_the_budget_and_the_seconds_of_an_epoch_give_the_time(data: Path) -> None:
    found = forecast.forecast(pair("mlp", data), EpochTime(2.0, 1.0), SETTINGS, seeds=2, workers=2)
    budget = SETTINGS.budget_for("digits", "mlp")
    assert (found.trials, found.trial_epochs, found.seeds) == (budget.trials, budget.trial_epochs, 1)
    epoch_s = found.time.epoch_s if found.time else 0.0
    assert 1.0 < epoch_s < 4.0  # the centre has the median of widths, and trials have all
    assert found.seconds == pytest.approx(((found.epochs + 8) * epoch_s + 7) / 2)
    assert f"about {found.epochs + 8} epochs of {epoch_s:.2g} s" in str(found)
    brief = SETTINGS.model_copy(update={"deadline_minutes": 0.1})
    cut = forecast.forecast(pair("mlp", data), EpochTime(2.0, 0.0), brief, seeds=1, workers=2)
    assert cut.seconds == pytest.approx(6.0)
    single = forecast.forecast(pair("knn", data), EpochTime(3.0, 0.0, single=True), SETTINGS, seeds=2, workers=1)
    assert single.seconds == pytest.approx((2 + 1) * 3.0)  # both metrics, one epoch each
    unknown = forecast.forecast(pair("gan", data), "no feature network", SETTINGS, seeds=1, workers=1)
    assert unknown.seconds == 0
    assert "not known: no feature network" in str(unknown)


def test_small_networks_are_not_timed(data: Path) -> None:
    high = pair("mlp", data).by_formula()
    assert high is not None
    assert 0 < high.epoch_s < 5
    wide = Pair(loading.load("cnn", {"space": {"architecture": "vgg", "vgg_width": 64}}), "digits", data).by_formula()
    assert wide is not None
    assert wide.epoch_s > 50 * high.epoch_s
    assert pair("knn", data).by_formula() is None


def test_data_that_cannot_be_read_gives_no_estimate(made: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    damaged = Path("w/data/prepared/digits/meta.json")
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    Path("w", MARKER).touch()
    assert call() == 0
    assert made[1:] == ["repro"]
    assert "no estimate: " in capsys.readouterr().out


def test_what_an_earlier_search_measured_is_used(data: Path) -> None:
    assert pair("mlp", data).remembered() is None
    for name, age in (("digits-mlp-g1-old", 100), ("digits-mlp-g2-new", 0), ("digits-mlpx-g1-other", -100)):
        (data / "studies" / name).mkdir(parents=True)
        cost_estimate.remember(data / "studies" / name, cost_estimate.Measured(float(age) + 1, 1))
        then = time.time() - age
        os.utime(data / "studies" / name, (then, then))
    assert pair("mlp", data).remembered() == EpochTime(1.0, 0.0)


class Timer:
    """An executor whose every epoch takes as long as `epoch_s` says."""

    epoch_s = 1.0

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.keys: list[int] = []

    def __enter__(self) -> Timer:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def submit(self, key: int, task: Any) -> None:
        self.keys.append(key)

    def wait(self, timeout_s: float) -> list[Done]:
        keys, self.keys = self.keys, []
        return [Done(key, EpochTime(self.epoch_s, 0.0), "timer") for key in keys]


@pytest.fixture
def made(tmp_path: Path, prepared_digits: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `pipeline run` does in a workspace with prepared digits, without DVC and workers: filled as it goes."""
    calls: list[str] = []

    def prepare(folder: Path, settings: list[str], **_: bool) -> dict[str, Any]:
        calls.append(" ".join(settings))
        folder.mkdir(exist_ok=True)
        (folder / MARKER).touch()
        shutil.copy(ROOT / "params.yaml", folder)
        text = (folder / "params.yaml").read_text()
        (folder / "params.yaml").write_text(text.replace("[mnist]", "[digits]", 1).replace("workers: 0", "workers: 2"))
        return params.read(folder / "params.yaml")

    def reproduce(folder: Path, targets: list[str] | None = None) -> int:
        calls.append(f"repro {' '.join(targets or [])}".strip())
        shutil.copytree(prepared_digits, folder / "data/prepared/digits", dirs_exist_ok=True)
        return 0

    monkeypatch.setattr(workspace, "prepare", prepare)
    monkeypatch.setattr(dvc, "reproduce", reproduce)
    monkeypatch.setattr(preflight, "check_tracking", lambda *arguments: None)
    monkeypatch.setattr(local, "LocalExecutor", Timer)
    monkeypatch.setattr(machine, "require", lambda folder: None)
    monkeypatch.chdir(tmp_path)
    return calls


def call(*words: str) -> int:
    return run.main(cli.parser().parse_args(["run", "--workspace", "w", *words]))


def answered(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let standard input be a terminal at which somebody types some text."""
    main_end, terminal = pty.openpty()
    os.write(main_end, text.encode())
    monkeypatch.setattr(sys, "stdin", os.fdopen(terminal, "r"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)


@pytest.mark.parametrize(
    ("epoch_s", "typed", "words", "goes_on"),
    [
        (1.0, None, (), True),  # minutes
        (1.0, "n\n", (), True),
        (500.0, None, (), True),  # hours, and nobody to ask
        (500.0, "y\n", (), True),
        (500.0, "yes\n", (), True),
        (500.0, "n\n", (), False),
        (500.0, "\n", (), False),
        (500.0, "\x04", (), False),  # the end of the input
        (500.0, "n\n", ("--yes",), True),
        (5000.0, "n\n", ("--deadline", "1"), False),  # the trainings alone take longer
    ],
)
def test_a_long_run_is_confirmed_in_a_terminal_before_anything_trains(
    epoch_s: float,
    typed: str | None,
    words: tuple[str, ...],
    goes_on: bool,
    made: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Timer, "epoch_s", epoch_s)
    if typed is not None:
        answered(monkeypatch, typed)
    assert call(*words) == (0 if goes_on else 1)
    assert made[1:] == ["repro prepare@digits", *(["repro"] if goes_on else [])]
    printed = capsys.readouterr().out
    assert "digits mlp: about" in printed
    assert "digits cnn: about" in printed
    assert "In all about" in printed
    assert ("more than an hour" in printed) == (epoch_s > 1 and typed is not None and "--yes" not in words)
    if not goes_on:
        assert "nothing was trained; `--yes` continues" in printed
        assert call("--yes") == 0  # what the message says
        assert made[-1] == "repro"


def test_the_deadline_is_a_setting_of_this_run(made: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("-S", "search.deadline_minutes=3", "--deadline", "7.5") == 0
    assert made[0] == "search.deadline_minutes=3 search.deadline_minutes=7.5"
    cut = SETTINGS.model_copy(update={"deadline_minutes": 7.5})
    assert cut.defining() == SETTINGS.defining()  # the same study continues without it
    for wrong in ("0", "-1", "soon", "inf", "nan"):
        with pytest.raises(SystemExit):
            call("--deadline", wrong)
        assert f"expected a number of minutes above 0, found '{wrong}'" in capsys.readouterr().err


def test_a_search_that_the_deadline_ended_is_named_at_the_end(tmp_path: Path) -> None:
    chosen = {"datasets": ["digits"], "families": ["mlp", "cnn", "rnn"]}
    summary = artifacts.Summary(study="s", run="r", value=1.0, best_trial=0, trials={}, epochs=1, seconds=1.0)
    text = io.StringIO()
    for family, cut in (("mlp", False), ("cnn", True)):
        path = tmp_path / "reports/search/digits" / family / "summary.json"
        write(path, summary.model_copy(update={"cut_by_deadline": cut}))
    run._print_cut(Console(file=text, width=200), tmp_path, chosen)
    assert "The deadline has ended the search of digits cnn before its budget was used" in text.getvalue()
    assert "mlp" not in text.getvalue()


def test_pairs_that_are_done_are_not_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"datasets": ["a", "b"], "families": ["mlp", "cnn"]}
    changed: set[str] = set()
    monkeypatch.setattr(dvc, "changed_stages", lambda folder: changed)
    assert len(run._unfinished(tmp_path, chosen)) == 4
    for name in ("a", "b"):
        (tmp_path / "reports/train" / name / "mlp").mkdir(parents=True)
        (tmp_path / "reports/train" / name / "mlp" / "summary.json").touch()
    changed |= {"register@a", "train@b-cnn"}
    assert run._unfinished(tmp_path, chosen) == [("a", "cnn"), ("b", "cnn")]
    changed |= {"prepare@b"}
    assert run._unfinished(tmp_path, chosen) == [("a", "cnn"), ("b", "mlp"), ("b", "cnn")]
    changed |= {"search@a-mlp"}
    assert len(run._unfinished(tmp_path, chosen)) == 4
