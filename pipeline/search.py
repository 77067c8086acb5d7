"""Stage search: find a family's best hyperparameters on a dataset's validation split.

One process, this one, owns the study and writes to MLflow. Workers only train rungs. A run that is killed is finished
by the next: what the study and the checkpoints hold is enough to go on, and MLflow is brought in line with the study.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import entry, params, runtime
from pipeline.datasets.base import load_splits, write_json, write_text
from pipeline.engine.base import Done, Event, Executor, Failed, Progress, Work
from pipeline.engine.local import LocalExecutor
from pipeline.errors import EngineError
from pipeline.models import base as models
from pipeline.models.rung import Rung
from pipeline.progress import SearchProgress
from pipeline.provenance import code_tags
from pipeline.record import Record
from pipeline.study import Best, Budget, Definition, Settings, Study, history
from pipeline.tracking import Tracker

if TYPE_CHECKING:
    import optuna

_LOCK_S = 10  # a killed search takes a second to let go


@dataclass(frozen=True)
class Result:
    """What a search found and what it cost, over all runs that worked on it."""

    study: str
    best: Best
    counts: Mapping[str, int]
    epochs: int
    seconds: float
    parent_run: str


class Search:
    """The loop: ask for trials, train them rung by rung, prune between rungs, until the budget is met.

    Args:
        study: The study to work on.
        budget: When to end.
        family: Suggests hyperparameters.
        executor: Trains rungs.
        record: Is told of every trial that changes.
        rung: Makes the task for a trial, from and to an epoch.
        progress: Is told what happens.
    """

    def __init__(
        self,
        study: Study,
        budget: Budget,
        family: models.BaseFamily,
        executor: Executor,
        record: Record,
        rung: Callable[[optuna.Trial, int, int], Rung],
        progress: SearchProgress,
    ) -> None:
        self._study = study
        self._budget = budget
        self._family = family
        self._executor = executor
        self._record = record
        self._rung = rung
        self._progress = progress
        self._running: dict[int, optuna.Trial] = {}
        self._promised: dict[int, int] = {}  # epochs of the rungs that workers are training, by trial
        self._clock = time.monotonic()

    def run(self) -> None:
        """Work until the budget is met and every trial has ended."""
        left_behind = self._study.unfinished()
        for known in self._study.trials:
            self._record.mirror(known)
        for trial in left_behind:
            self._family.suggest(trial)  # a kill may have come between two suggestions
            self._study.report(trial)
            self._advance(trial)
        while True:
            while len(self._running) < self._executor.slots and self._may_start():
                trial = self._study.ask()
                self._family.suggest(trial)
                self._advance(trial)
            if not self._running:
                return
            for event in self._executor.wait(timeout_s=1.0):
                self._handle(event)
            self._tick()

    def _may_start(self) -> bool:
        """Tell whether the budget allows another trial; its first rung must fit, too."""
        return len(self._study.trials) < self._budget.trials and not self._spent(self._study.rungs[0])

    def _spent(self, epochs: int) -> bool:
        """Tell whether training more epochs would go over the budget."""
        over_time = self._study.elapsed_s >= self._budget.minutes * 60
        promised = self._study.epochs() + sum(self._promised.values())
        return over_time or promised + epochs > self._budget.epochs

    def _advance(self, trial: optuna.Trial) -> None:
        """End a trial that is trained or not good enough, or send its next rung to a worker."""
        rung = self._study.next_rung(trial)
        if rung is None:
            self._end(trial, "complete")
        elif history(trial) and trial.should_prune():
            self._end(trial, "pruned", f"not among the best after {len(history(trial))} epochs")
        elif history(trial) and self._spent(rung[1] - rung[0]):
            self._end(trial, "pruned", "the budget of the search was met")
        else:
            self._promised[trial.number] = rung[1] - rung[0]
            self._running[trial.number] = trial
            self._executor.submit(trial.number, self._rung(trial, *rung))
            self._mirror(trial.number)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._progress.epoch()
            return
        trial = self._running.pop(event.key)
        del self._promised[event.key]
        if isinstance(event, Done):
            trial.set_user_attr("worker", event.worker)
            trial.set_user_attr("parameters", event.result.parameters)
            self._study.record(trial, event.result.epochs)
            self._record.show(trial.number, len(history(trial)), event.result.pictures)
            self._tick()
            self._advance(trial)
        elif isinstance(event, Failed):
            self._end(trial, "failed", event.reason)
        self._progress.update(self._study, self._budget)

    def _end(self, trial: optuna.Trial, state: Any, reason: str = "") -> None:
        self._study.tell(trial, state, reason)
        self._mirror(trial.number)

    def _mirror(self, number: int) -> None:
        self._record.mirror(self._study.trials[number])

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._clock >= 1.0:  # the study's clock is written about once a second, not at every event
            self._study.spend(now - self._clock)
            self._clock = now
            self._progress.update(self._study, self._budget)


def run(
    definition: Definition,
    settings: Settings,
    family: models.BaseFamily,
    data: Path,
    features: Path,
    studies: Path,
    environments: list[dict[str, str]],
) -> tuple[Result, Study, Record]:
    """Search until the budget is met; go on where an earlier run of the same study ended.

    Raises:
        EngineError: Another process is at work on this study, or every trial failed.
    """
    budget = settings.budget_for(definition.dataset, definition.family)
    folder = studies / definition.name
    work = Work("pipeline.models.rung:run", "pipeline.runtime:configure", {"backend": definition.backend, "threads": 1})
    label = f"{definition.dataset} {definition.family}"
    with _locked(folder):
        study = Study(folder, definition, settings, family.objective)
        record = _record(definition)
        rung = _rungs(definition, data, features, folder, study.seed)
        with _told(record), LocalExecutor(work, environments) as executor, SearchProgress(label) as progress:
            Search(study, budget, family, executor, record, rung, progress).run()
            best = study.require_best()
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # every trial has ended
        result = Result(definition.name, best, study.counts(), study.epochs(), study.elapsed_s, record.parent.run_id)
        return result, study, record


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a study's lock: two processes that write to one study would each undo what the other did."""
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=_LOCK_S)
    except filelock.Timeout:
        raise EngineError(
            f"{folder.name}: another search is at work on this study",
            expected="one search at a time",
            found=f"{folder / 'lock'} is held",
            next_step="wait for it, or end it",
        ) from None
    with lock:
        yield


@contextmanager
def _told(record: Record) -> Iterator[None]:
    """Leave no run RUNNING when a search is interrupted or fails."""
    try:
        yield
    except KeyboardInterrupt:
        record.interrupt("KILLED")
        raise
    except EngineError:
        record.interrupt("FAILED")
        raise


def _rungs(
    definition: Definition, data: Path, features: Path, folder: Path, seed: int
) -> Callable[[optuna.Trial, int, int], Rung]:
    """Return what makes the task that trains a trial from one epoch to another."""

    def rung(trial: optuna.Trial, start: int, stop: int) -> Rung:
        return Rung(
            family=definition.family,
            settings=dict(definition.settings),
            hyperparameters=dict(trial.params),
            data=data,
            seed=seed + trial.number,
            span=models.Span(start, stop, definition.trial_epochs),
            folder=folder / "checkpoints" / f"trial-{trial.number:05d}",
            ledger=folder / "epochs.log",
            features=features,
        )

    return rung


def _record(definition: Definition) -> Record:
    tags = {
        "stage": "search",
        "dataset": definition.dataset,
        "family": definition.family,
        "generation": str(definition.search["generation"]),
        "backend": definition.backend,
        "data.digest": definition.data,
        **code_tags(),
    }
    label = f"{definition.family} g{definition.search['generation']}"
    return Record(Tracker(definition.dataset), definition.name, label, tags)


def save(result: Result, study: Study, definition: Definition, output: Path) -> list[Path]:
    """Write what train needs, the summary and the table of trials.

    All of it is what the study holds, so a rerun that finds the budget met writes the same bytes.
    """
    best = {
        "family": definition.family,
        "hyperparameters": result.best.hyperparameters,
        "epochs": definition.trial_epochs,
        "value": result.best.value,
    }
    summary = {
        "study": result.study,
        "run": result.parent_run,
        "value": result.best.value,
        "best_trial": result.best.number,
        "trials": {state: count for state, count in result.counts.items() if state != "running"},
        "epochs": result.epochs,
        "seconds": round(result.seconds, 1),
    }
    write_text(output / "trials.csv", study.table().to_csv(index=False))
    write_json(output / "summary.json", summary)
    write_json(output / "best.json", best)
    return [output / "trials.csv", output / "best.json"]


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.search", description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--family", required=True)
    parser.add_argument("--data", required=True, type=Path, help="folder written by prepare")
    parser.add_argument("--features", required=True, type=Path, help="folder written by features")
    parser.add_argument("--studies", required=True, type=Path, help="folder of all studies")
    parser.add_argument("--output", required=True, type=Path, help="folder for best.json, summary.json, trials.csv")
    arguments = parser.parse_args()
    backend = runtime.load_settings()
    settings = params.load("search", Settings)
    family = models.load(arguments.family, dataset=arguments.dataset)
    budget = settings.budget_for(arguments.dataset, arguments.family)
    definition = Definition(
        dataset=arguments.dataset,
        family=arguments.family,
        data=load_splits(arguments.data).digest,
        code=models.code_digest(family),
        settings=family.settings.model_dump(mode="json"),
        search=settings.model_dump(exclude={"budget"}),
        trial_epochs=budget.trial_epochs,
        backend=backend.backend,
    )
    environments = runtime.worker_environments(backend.workers)
    result, study, record = run(
        definition, settings, family, arguments.data, arguments.features, arguments.studies, environments
    )
    record.close(result.best, result.counts, result.epochs, save(result, study, definition, arguments.output))
    counts = ", ".join(f"{count} {state}" for state, count in result.counts.items() if count)
    print(
        f"{arguments.dataset} {arguments.family}: best {family.objective} {result.best.value:.4f} (trial"
        f" {result.best.number}); {counts}; {result.epochs} epochs in {result.seconds:.0f} s"
    )


if __name__ == "__main__":
    entry.stage(main)
