"""The search, for real: real workers, real studies, real kills. The next run finishes what a kill left."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.project import dvc, params_edit, workspace
from pipeline.search.study import rungs

TRIALS, TRIAL_EPOCHS = 4, 3
ENDLESS = "search.budget.digits={trials: 100_000, epochs: 1_000_000, trial_epochs: 3}"
LONG_S = 240  # for what takes seconds on a quiet machine
SETTINGS = [
    "datasets=[digits]",
    "families=[mlp]",
    "runtime.workers=2",
    f"search.budget.digits={{trials: {TRIALS}, epochs: 100, trial_epochs: {TRIAL_EPOCHS}}}",
]
COMMAND = (
    "-m pipeline.stages.search --dataset digits --family {family} --data {data} --features data/features"
    " --studies data/studies --output reports/search --finalist data/finalist"
)


@dataclass
class Project:
    """A workspace in which the search stage is run as DVC would run it."""

    folder: Path
    data: Path
    reports: str = "reports/search"
    budget: int = TRIALS
    family: str = "mlp"

    def start(self) -> subprocess.Popen[str]:
        """Start the stage in a process group of its own."""
        env = {**dvc.environment(self.folder), "CUDA_VISIBLE_DEVICES": ""}
        env.pop("MLFLOW_TRACKING_URI", None)
        command = [sys.executable, *COMMAND.format(data=self.data, family=self.family).split()]
        return subprocess.Popen(
            command, cwd=self.folder, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def set(self, *settings: str) -> None:
        """Change settings in params.yaml."""
        path = self.folder / "params.yaml"
        path.write_text(params_edit.override(path.read_text(), settings))

    def finish(self) -> None:
        """Run the stage to its end."""
        process = self.start()
        _, errors = process.communicate(timeout=LONG_S)
        assert process.returncode == 0, errors

    @property
    def study_folder(self) -> Path:
        """The folder of the one study."""
        [folder] = (self.folder / "data" / "studies").iterdir()
        return folder

    def ledger(self) -> list[str]:
        """Every epoch that was computed, by whatever run of the search, as ``trial epoch``."""
        files = list((self.folder / "data").glob("studies/*/epochs.log"))
        return files[0].read_text().splitlines() if files else []

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """The trials of the study, read from its storage."""
        storage = f"sqlite:///{self.study_folder / 'study.db'}"
        [name] = optuna.study.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage).trials

    def end_after_the_trials_begun(self) -> str:
        """Set the budget of an endless search to the trials that there are; return the setting."""
        self.budget = max(TRIALS, len(list(self.study_folder.glob("results/trial-*"))))
        setting = ENDLESS.replace("100_000", str(self.budget), 1)
        self.set(setting)
        return setting

    def running(self) -> int:
        """Return how many MLflow runs are RUNNING, without making the database."""
        try:
            database = sqlite3.connect(f"file:{self.folder / 'mlflow.db'}?mode=ro", uri=True)
            with contextlib.closing(database):
                found: int = database.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()[0]
        except sqlite3.OperationalError:  # no file yet, no table yet, or locked
            return 0
        return found

    def runs(self) -> list[Run]:
        """Every MLflow run."""
        client = MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments))

    def metric_steps(self, run: Run, name: str) -> list[int]:
        """The steps at which a run has a metric, in order, doubles included."""
        client = MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        return sorted(metric.step for metric in client.get_metric_history(run.info.run_id, name))


@pytest.fixture
def project(tmp_path: Path, prepared_digits: Path) -> Project:
    workspace.prepare(tmp_path / "workspace", SETTINGS)
    return Project(tmp_path / "workspace", prepared_digits)


def assert_complete(project: Project, *, lost_epochs: int) -> None:
    """Assert that a study met its budget, and that study, MLflow and reports agree.

    Args:
        project: Where.
        lost_epochs: The most epochs that kills may have cost: epochs that were computed and not kept.
    """
    trials = project.trials()
    assert len(trials) == project.budget
    ends = {trial.number: len(trial.intermediate_values) for trial in trials}
    for trial in trials:
        assert trial.state.name in ("COMPLETE", "PRUNED")
        assert sorted(trial.intermediate_values) == list(range(1, ends[trial.number] + 1))
        assert ends[trial.number] in rungs(TRIAL_EPOCHS, 3)
        assert (trial.state.name == "COMPLETE") == (ends[trial.number] == TRIAL_EPOCHS)
    computed = Counter(project.ledger())
    reported = {f"trial-{number:05d} {epoch}" for number, end in ends.items() for epoch in range(1, end + 1)}
    assert reported == set(computed)
    assert sum(computed.values()) - len(reported) <= lost_epochs

    runs = [run for run in project.runs() if run.data.tags["stage"] == "search"]
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert [run.info.status for run in runs] == ["FINISHED"] * (project.budget + 1)
    assert len(parents) == 1
    by_number = {int(run.data.tags["pipeline.key"].rpartition("-")[2]): run for run in children}
    assert set(by_number) == set(ends)
    for number, run in by_number.items():
        assert project.metric_steps(run, "val_accuracy") == list(range(1, ends[number] + 1))
        assert run.data.params == {name: str(value) for name, value in trials[number].params.items()}
        assert run.data.tags["trial.state"] == trials[number].state.name.lower()

    best = json.loads((project.folder / project.reports / "best.json").read_text())
    finished = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert best["value"] == max(trial.value for trial in finished if trial.value is not None)
    assert parents[0].data.metrics["best_value"] == best["value"]
    table = pd.read_csv(project.folder / project.reports / "trials.csv")
    assert table["epochs"].tolist() == list(ends.values())
    kept = {int(path.name.removeprefix("trial-")) for path in (project.study_folder / "checkpoints").glob("*")}
    pruned = {trial.number for trial in trials if trial.state.name == "PRUNED"}  # a larger budget goes on there
    summary = json.loads((project.folder / project.reports / "summary.json").read_text())
    assert kept <= pruned | {summary["best_trial"]}  # whose model is handed on


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until a condition holds or the process has ended."""
    deadline = time.monotonic() + LONG_S
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the worker processes of a search that runs: what its fork server has forked, or those it has spawned."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        lines = {child.pid: " ".join(child.cmdline()) for child in children}
        servers = {pid for pid, line in lines.items() if "multiprocessing.forkserver" in line}  # and what they forked
        return [child for child in children if child.ppid() in servers or "spawn_main" in lines[child.pid]]
    except psutil.Error:
        return []


@pytest.mark.slow
def test_a_search_survives_kills_of_a_worker_and_of_itself(project: Project) -> None:
    project.set(ENDLESS)  # so that it is at work whenever it is killed, however fast the machine is
    first = project.start()
    wait_for(lambda: len(project.ledger()) >= 1, first)
    [victim, *_] = workers_of(first)
    victim.kill()
    wait_for(lambda: len(project.ledger()) >= 3, first)
    assert first.poll() is None, "the search should outlive its worker"
    family = workers_of(first)
    first.kill()
    first.communicate()
    _, alive = psutil.wait_procs(family, timeout=LONG_S)
    assert not alive, "workers outlived their parent"

    second = project.start()
    wait_for(lambda: len(project.ledger()) >= 5, second)
    second.send_signal(signal.SIGINT)
    _, errors = second.communicate(timeout=LONG_S)
    assert second.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert {run.info.status for run in project.runs()} <= {"KILLED", "FINISHED"}

    project.end_after_the_trials_begun()
    project.finish()
    longest = max(b - a for a, b in zip([0, *rungs(TRIAL_EPOCHS, 3)], rungs(TRIAL_EPOCHS, 3), strict=False))
    assert_complete(project, lost_epochs=(1 + 2 + 2) * longest)

    before = {path: path.read_bytes() for path in (project.folder / "reports/search").rglob("*.*")}
    epochs = project.ledger()
    project.finish()  # the budget is met: nothing is trained, and what is written is the same
    assert project.ledger() == epochs
    assert {path: path.read_bytes() for path in before} == before
    assert_complete(project, lost_epochs=(1 + 2 + 2) * longest)


@pytest.mark.slow
def test_one_two_and_three_workers_write_the_same_files_whatever_is_killed(
    tmp_path: Path, prepared_digits: Path
) -> None:
    def searched(workers: int, kills: int) -> list[bytes]:
        folder = tmp_path / str(workers)
        workspace.prepare(folder, [*SETTINGS, f"runtime.workers={workers}"])
        project = Project(folder, prepared_digits)
        project.set("search.budget.digits={trials: 7, epochs: 150, trial_epochs: 18}")  # two rungs
        for kill in range(kills):
            process = project.start()
            wait_for(lambda known=10 * kill: len(project.ledger()) > known, process)  # type: ignore[misc]
            process.kill()
            process.communicate()
        project.finish()
        return [(folder / "reports/search" / name).read_bytes() for name in ("best.json", "trials.csv")]

    alone = searched(1, kills=0)
    assert len(alone[1].splitlines()) == 8
    assert searched(2, kills=0) == alone
    assert searched(3, kills=3) == alone


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_survives_ten_kills_after_counted_epochs(tmp_path: Path, prepared_digits: Path) -> None:
    """Kill -9 of a worker, or at once of the search, the DVC above it and the command above that."""
    seed = int(os.environ.get("KILL_SEED", "0"))
    chance = random.Random(seed)
    project = Project(tmp_path / "workspace", prepared_digits, "reports/search/digits/mlp")
    killed = 0
    while killed < 10:
        process = subprocess.Popen(
            run_command(project, ENDLESS), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
        )
        train(project, chance.randrange(8), process)
        family = psutil.Process(process.pid).children(recursive=True)
        if chance.random() < 0.3:
            chance.choice(workers_of(process)).kill()
            killed += 1
            train(project, chance.randrange(4), process)
            family += workers_of(process)
        killed += kill_from_the_top(process)
        _, alive = psutil.wait_procs(family, timeout=LONG_S)
        assert not alive, f"orphans after {killed} kills: KILL_SEED={seed}"
    enough = project.end_after_the_trials_begun()
    finished = subprocess.run(run_command(project, enough), capture_output=True, text=True, timeout=1200, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert_complete(project, lost_epochs=4 * killed)
    assert {run.info.status for run in project.runs()} == {"FINISHED"}
    print(f"kills: {killed}, in a search of {project.budget} trials; KILL_SEED={seed}")


def run_command(project: Project, *settings: str) -> list[str]:
    """Return the command line of a run in a project's workspace."""
    command = [sys.executable, "-m", "pipeline.cli.main", "run", "--workspace", str(project.folder)]
    return command + [part for setting in [*SETTINGS, "train.seeds=1", *settings] for part in ("-S", setting)]


def train(project: Project, epochs: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has workers, and its search has trained some more epochs."""
    known = len(project.ledger())
    wait_for(lambda: workers_of(process) != [] and len(project.ledger()) >= known + epochs, process)
    assert process.poll() is None, "the search has no end: it should be at work"


def kill_from_the_top(process: subprocess.Popen[str]) -> int:
    """Kill a command, the DVC below it and its stage, all at once; workers are left to notice. Return 1."""
    workers = workers_of(process)
    above = [child for child in psutil.Process(process.pid).children(recursive=True) if child not in workers]
    for started in (psutil.Process(process.pid), *above):
        with contextlib.suppress(psutil.NoSuchProcess):
            started.kill()
    process.wait()
    return 1


@pytest.mark.slow
def test_a_search_in_which_every_trial_fails_gives_the_reason(project: Project) -> None:
    space = (
        "mlp.space={learning_rate: 100.0, weight_decay: 1.0, batch_norm: false}"  # each step multiplies weights by -99
    )
    project.set(space, "search.budget.digits.trials=2")
    process = project.start()
    _, errors = process.communicate(timeout=LONG_S)
    assert process.returncode == 1
    found = r"error: digits-mlp-g1-\w+: every trial failed, and so did .*2 failed, most with: the loss diverged"
    assert re.search(found, errors)
    assert "Traceback" not in errors
    children = [run for run in project.runs() if "mlflow.parentRunId" in run.data.tags]
    assert [run.info.status for run in children] == ["FAILED", "FAILED"]
    assert not [run for run in project.runs() if run.info.status == "RUNNING"]
    assert not list(project.study_folder.glob("results/*/epoch-*"))  # it may be the machine: no failure was recorded


@pytest.mark.slow
def test_failures_and_limits_end_trials_and_each_run_gives_the_reason(project: Project) -> None:
    odd = project.folder / "pipeline/models/families/odd"
    odd.mkdir()
    (odd / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("odd_family.py"), odd / "family.py")
    project.family = "odd"
    project.set("odd={space: {}}", "search.budget.digits.trials=7", "search.pruner=none", "search.presets=true")
    project.set("search.budget.digits.epochs=200")  # a tenth is for reference models
    project.set("search.constraints={parameters: 200_000, latency_ms: 60_000}")
    project.finish()

    trials = project.trials()
    *sampled, good, diverging, impossible, enormous, large = trials
    assert [t.state.name for t in (*sampled, diverging, impossible, enormous)] == [*["COMPLETE"] * 2, *["FAIL"] * 3]
    assert "the loss diverged in epoch 1" in diverging.user_attrs["reason"]
    assert "cannot be built or trained: found ValueError" in impossible.user_attrs["reason"]
    assert "out of memory" in enormous.user_attrs["reason"]
    assert large.user_attrs["reason"] == "parameters 408,586 over the limit 200,000"
    assert large.state.name == "PRUNED"
    assert len(large.user_attrs["history"]) == TRIAL_EPOCHS  # its first rung, which is all of it on data so small
    assert good.state.name == "COMPLETE" or good.user_attrs["reason"].startswith("a preset that does not lead after 1 ")
    assert max(large.constraints.values()) > 0 >= max(good.constraints.values())
    assert set(good.constraints) == {"parameters", "latency_ms"}
    assert all(trial.params["batch_size"] in (64, 128) for trial in sampled)

    computed = Counter(project.ledger())  # nobody was killed: every epoch was computed once, and reported
    reported = {f"trial-{t.number:05d} {e['epoch']:.0f}" for t in trials for e in t.user_attrs.get("history", [])}
    assert computed == dict.fromkeys(reported, 1)

    runs = {run.data.tags["pipeline.key"].rpartition("-")[2]: run for run in project.runs()}
    for trial in (diverging, impossible, enormous, large):
        assert runs[str(trial.number)].data.tags["reason"] == trial.user_attrs["reason"]
        assert runs[str(trial.number)].info.status == ("FINISHED" if trial is large else "FAILED")
    assert runs["2"].info.run_name == "odd g1 trial 2 (good)"
    assert runs["2"].data.tags["preset"] == "good"
    assert runs["2"].data.params["batch_size"] == "50"
    assert float(runs["2"].data.tags["trial.latency_ms"]) > 0
    client = MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    [parent] = [run.info.run_id for run in runs.values() if "mlflow.parentRunId" not in run.data.tags]
    logged = {Path(file.path).stem for file in client.list_artifacts(parent, "plots")}
    assert logged == {"history", "curves", "parallel", "slices", "timeline"}  # too few trials for importances
    best = json.loads((project.folder / "reports/search/best.json").read_text())
    table = pd.read_csv(project.folder / "reports/search/trials.csv")
    row = table[
        table["trial"] == json.loads((project.folder / "reports/search/summary.json").read_text())["best_trial"]
    ]
    assert {name: row[name].item() for name in best["hyperparameters"]} == best["hyperparameters"]
    assert table["preset"].tolist()[2:] == ["good", "diverging", "impossible", "enormous", "large"]


@pytest.mark.slow
def test_a_study_left_behind_is_ended_in_mlflow_and_removed_beyond_the_limit(project: Project) -> None:
    project.set(ENDLESS)
    first = project.start()
    wait_for(lambda: len(project.ledger()) >= 1 and project.running() > 0, first)
    first.kill()
    first.communicate()
    left = project.study_folder.name
    project.set(SETTINGS[-1])
    assert "RUNNING" in {run.info.status for run in project.runs()}
    project.set("search.seed=1", "search.keep_studies=2")
    project.finish()
    assert {run.info.status for run in project.runs() if run.data.tags["pipeline.key"].startswith(left)} == {"KILLED"}
    assert "RUNNING" not in {run.info.status for run in project.runs()}
    assert len(list((project.folder / "data/studies").iterdir())) == 2
    project.set("search.seed=2")
    project.finish()
    names = {path.name for path in (project.folder / "data/studies").iterdir()}
    assert len(names) == 2
    assert left not in names


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for the code and little else; `grow` gives it more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def grow(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_full_disk_ends_the_search_with_one_line_and_more_room_lets_it_go_on(
    small_disk: Path, prepared_digits: Path
) -> None:
    """The room ends at four places: for the databases, for a checkpoint, for the study, or anywhere between."""
    workspace.prepare(small_disk / "workspace", SETTINGS)
    project = Project(small_disk / "workspace", prepared_digits)
    project.set("mlp.space={units: 256, layers: 1}")  # checkpoints of 2.4 MB
    for size in ("3m", "5m", "7m", "9m"):
        grow(small_disk, size)
        process = project.start()
        workers = wait_for_workers(process)
        _, errors = process.communicate(timeout=LONG_S)
        _, alive = psutil.wait_procs(workers, timeout=LONG_S)
        assert not alive
        if process.returncode == 0:
            break
        assert re.search(r"error: .*(no space left|No space left)", errors), errors
        assert "Traceback" not in errors
    else:
        grow(small_disk, "300m")
        project.finish()
    assert size != "3m", "the disk should have been too small"
    assert_complete(project, lost_epochs=4 * 2 * TRIAL_EPOCHS)  # four times, of two workers


def wait_for_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the workers of a search as soon as there are some; none where it ends before."""
    wait_for(lambda: workers_of(process) != [], process)
    return workers_of(process)


@pytest.mark.slow
def test_two_searches_of_one_study_do_not_mix(project: Project) -> None:
    project.set(ENDLESS)
    first = project.start()
    try:
        wait_for(lambda: len(project.ledger()) >= 1, first)
        second = project.start()
        _, errors = second.communicate(timeout=LONG_S)
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 1
    assert "another search uses this study" in errors
