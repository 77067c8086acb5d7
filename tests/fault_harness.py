"""Run by test_faults.py in a process of its own: kills commands before each of their writes, and runs them again.

    python -m tests.fault_harness light <folder>       prepare, features and packing, without heavy libraries
    python -m tests.fault_harness all <folder>         every command
    python -m tests.fault_harness all <folder> search  kills only commands whose names begin so

Prints every site, "kill" before those at which a command is killed, then a summary of each command, and writes
``outcomes.json`` into the folder. This process imports the libraries once, and never uses them: commands run in
forks of it, one after the other, and their workers are forks of one fork server.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests import fault_commands as commands
from tests import fault_state
from tests.fault_commands import Command
from tests.fault_injection import Hooks, Plan

HANGS_S = 300  # far beyond what any command takes
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans become children of this process, where they are seen
END = "the end, after the last write"
LIGHT_MODULES = (
    "PIL.PngImagePlugin", "pipeline.executors.local", "pipeline.models.families.knn.family",
    "pipeline.registry.pretrained", "pipeline.stages.download", "pipeline.stages.evaluate", "pipeline.stages.features",
    "pipeline.stages.prepare", "pipeline.stages.register", "pipeline.stages.search", "pipeline.stages.train",
    "pipeline.stages.validate", "scipy.sparse.csgraph",
)  # fmt: skip
HEAVY_MODULES = (
    "great_expectations", "keras", "matplotlib.pyplot", "mlflow.data", "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store", "optuna.importance", "pandas", "pipeline.retraining.ingest",
    "sklearn.neighbors",
)  # fmt: skip


@dataclass
class Outcome:
    """What the kills of a command have shown.

    Attributes:
        sites: Its sites, in the order in which it reaches them.
        kills: How often it was killed.
        missed: Sites that were not reached by the run that was to be killed there.
        faults: What differed after the run that followed, by site.
    """

    sites: list[str] = field(default_factory=list)
    kills: int = 0
    missed: list[str] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)


class Harness:
    """Runs commands in one folder, which it resets to what each finds undisturbed."""

    def __init__(self, folder: Path) -> None:
        self._root, self._saved = folder / "work", folder / "saved"
        self._log, self._record, self._answer = folder / "log.txt", folder / "sites.txt", folder / "state.json"
        commands.new_project(self._root)
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)

    def undisturbed(self, command: Command, record: Path | None = None) -> None:
        """Run a command to its end."""
        plan = Plan(str(self._root), str(record or ""))
        code = self._fork(lambda: _run(command, self._root, self._log, plan))
        assert code == 0, f"{command.name} ended with {code}: {self._log.read_text()[-3000:]}"

    def explore(self, command: Command, chosen: Callable[[list[str]], list[str]]) -> Outcome:
        """Kill a command before each of its sites, and compare what the next run leaves with an undisturbed one.

        Args:
            command: What to run; the folder is as it finds it, and afterwards as it leaves it.
            chosen: Selects of all sites those before which to kill.
        """
        command.before(self._root)
        self._save()
        self._record.unlink(missing_ok=True)
        self.undisturbed(command, self._record)
        lines = self._record.read_text().splitlines()
        outcome = Outcome(list(dict.fromkeys(lines)))
        expected = self._state()
        left = expected["temporary"] + _unfinished(expected)
        if left:
            outcome.faults["undisturbed"] = left
        shutil.rmtree(self._saved.with_name("after"), ignore_errors=True)
        shutil.copytree(self._root, self._saved.with_name("after"), symlinks=True)
        for site in chosen(outcome.sites):
            self._disturb(command, site, expected, outcome)
        self._put_back(self._saved.with_name("after"))
        return outcome

    def _disturb(self, command: Command, site: str, expected: dict[str, Any], outcome: Outcome) -> None:
        self._put_back(self._saved)
        code = self._fork(lambda: _run(command, self._root, self._log, Plan(str(self._root), kill=site)))
        if code != -signal.SIGKILL and site != END:
            outcome.missed.append(f"{site} (exit code {code})")
            return
        outcome.kills += 1
        orphans = self._orphans()
        again = self._fork(lambda: _run(command, self._root, self._log, Plan(str(self._root))))
        orphans += self._orphans()
        faults = [f"orphans: {orphans}"] if orphans else []
        if again != 0:
            faults.append(f"the next run ended with {again}: {' '.join(self._log.read_text()[-600:].split())}")
        else:
            found = self._state()
            faults += fault_state.differences(found, expected)
        if faults:
            outcome.faults[site] = faults

    def _state(self) -> dict[str, Any]:
        def write() -> None:
            self._answer.write_text(json.dumps(fault_state.state(self._root)))

        assert self._fork(write) == 0
        found: dict[str, Any] = json.loads(self._answer.read_text())
        return found

    def _save(self) -> None:
        shutil.rmtree(self._saved, ignore_errors=True)
        shutil.copytree(self._root, self._saved, symlinks=True)

    def _put_back(self, saved: Path) -> None:
        shutil.rmtree(self._root)
        shutil.copytree(saved, self._root, symlinks=True)

    def _fork(self, function: Callable[[], None]) -> int:
        """Run a function in a fork of this process; return its exit code, negative where a signal ended it."""
        sys.stdout.flush()
        if child := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        code = 70
        try:
            signal.alarm(HANGS_S)
            function()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(bool(error.code))
        except BaseException:  # noqa: BLE001 - a fork ends here, whatever happens
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _orphans(self) -> list[str]:
        """Return the processes that still run some time after their command was killed."""
        deadline = time.monotonic() + 60
        while running := _workers():
            if time.monotonic() > deadline:
                return running
            time.sleep(0.02)
        return []


def _run(command: Command, root: Path, log: Path, plan: Plan) -> None:
    """Run a command in this process, which is a fork."""
    os.chdir(root)
    os.environ["TMPDIR"] = str(root / "tmp")
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    secrets.token_hex = lambda size: "0" * (2 * size)  # ids that two runs can be compared by
    tempfile.tempdir = None  # known already where a library has asked
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from pipeline.executors import local

    local._serve = functools.partial(_serve, plan, os.getpid())
    Hooks(plan).install()
    code = 0
    try:
        command.run()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    if plan.kill == END and code == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(code)


def _serve(plan: Plan, command: int, *arguments: Any) -> None:
    """Run a worker of a command, with hooks."""
    from pipeline.executors import local

    Hooks(plan, command).install()
    local._serve(*arguments)


def _workers() -> list[str]:
    """Return what runs below this process, the fork server and Python's tracker of resources aside."""
    from multiprocessing import forkserver, resource_tracker

    known = {forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid}
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() == psutil.STATUS_ZOMBIE:
                if child.ppid() == os.getpid() and child.pid not in known:
                    os.waitpid(child.pid, 0)
            elif child.pid not in known:
                found.append(f"{child.pid} {' '.join(child.cmdline())[:80]}")
    return found


def _unfinished(state: dict[str, Any]) -> list[str]:
    runs = state["mlflow"].get("runs", [])
    return [f"{run['key']} is {run['status']}" for run in runs if run["status"] == "RUNNING"]


def warm_up() -> None:
    """Import what commands need, and start the fork server of their workers."""
    from multiprocessing import forkserver

    from pipeline.backend import configure
    from pipeline.executors.fork_server import WorkerFactory
    from pipeline.models.training import task
    from pipeline.tracking.provenance import code_tags
    from pipeline.tracking.runs import load_mlflow

    WorkerFactory(task.work("tensorflow"), [{}]).prepare()
    # Forks of this process use its fork server, which is no child of theirs.
    forkserver._forkserver.ensure_running = forkserver.ensure_running = lambda: None
    configure.configure("tensorflow", threads=1)
    code_tags()  # asks git, once: two runs are of the same code
    load_mlflow()
    for name in HEAVY_MODULES:
        importlib.import_module(name)
    threads = psutil.Process().num_threads()
    assert threads <= 2, f"{threads} threads: a fork would not be safe"  # jemalloc's, which handles forks


class Choice:
    """Selects the sites before which to kill: each line once, and once more before its last operation.

    Of the lines of `core.files`, which most files go through, every operation counts once for all commands, and the
    rename, before which the new file is whole and the old one in place, once for each file. What workers do is the same
    in search and train.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._general: set[str] = set()

    def of(self, sites: list[str], *, new_only: bool) -> list[str]:
        """Return the sites of a command to kill before, the end of the command last."""
        lines: dict[str, list[str]] = {}
        for site in sites:
            lines.setdefault(site.rpartition(" ")[0], []).append(site)
        chosen: list[str] = []
        for line, found in lines.items():
            if line in self._known and (new_only or line.startswith("worker")):
                continue
            self._known.add(line)
            inner, _, caller = line.partition(" < ")
            if caller and "core/files.py" in inner:
                chosen += [site for site in found if inner not in self._general or site.endswith(" os.rename")]
                self._general.add(inner)
            else:
                chosen += dict.fromkeys((found[0], found[-1]))
        return [*chosen, END]


def main() -> None:
    """Run the harness from the command line."""
    form, folder, *names = sys.argv[1:]
    for name in LIGHT_MODULES:
        importlib.import_module(name)
    if form == "all":
        warm_up()
    harness, choice, outcomes = Harness(Path(folder).resolve()), Choice(), {}
    for command in (*commands.LIGHT, *(commands.HEAVY if form == "all" else ())):
        chosen: list[str] = []
        killed = command.kills and (not names or command.name.startswith(tuple(names)))

        def choose(
            sites: list[str], killed: bool = killed, new_only: bool = command.new_only, chosen: list[str] = chosen
        ) -> list[str]:
            chosen += choice.of(sites, new_only=new_only) if killed else []
            return chosen

        started = time.monotonic()
        outcome = harness.explore(command, choose)
        outcomes[command.name] = asdict(outcome)
        if killed:
            show(command.name, outcome, chosen, time.monotonic() - started)
    (Path(folder) / "outcomes.json").write_text(json.dumps(outcomes, indent=2))
    totals = [sum(len(outcome[what]) for outcome in outcomes.values()) for what in ("sites", "faults", "missed")]
    print(f"kills: {sum(outcome['kills'] for outcome in outcomes.values())}, at {totals[0]} sites of {len(outcomes)}"
          f" commands; faults: {totals[1]}; not reached again: {totals[2]}")  # fmt: skip


def show(name: str, outcome: Outcome, chosen: list[str], seconds: float) -> None:
    """Print what was found of a command."""
    print(f"{name}: {len(outcome.sites)} sites, {outcome.kills} kills, {seconds:.0f} s")
    for site in outcome.sites:
        print(f"  {'kill' if site in chosen else '    '} {site}")
    for site in outcome.missed:
        print(f"  not reached again: {site}")
    for site, faults in outcome.faults.items():
        print(f"  fault, killed at {site}", *faults, sep="\n    ")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
