"""Stage search: find a family's best hyperparameters on a dataset's validation split.

One process, this one, owns the study and writes to MLflow. Workers only train rungs. A run that is killed is finished
by the next: what the study and the checkpoints hold is enough to go on, and MLflow is brought in line with the study.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts import base as artifacts
from pipeline.artifacts import search
from pipeline.backend import configure
from pipeline.core import params, process
from pipeline.core.files import new_folder, write_text
from pipeline.datasets.arrays import load_splits
from pipeline.executors.base import Executor, Work
from pipeline.executors.local import LocalExecutor
from pipeline.models import base as models
from pipeline.models import loading
from pipeline.models.training import task
from pipeline.models.training.task import TrainingTask
from pipeline.registry.versions import Registry
from pipeline.search import cost_estimate, plots, study_store
from pipeline.search.mlflow_mirror import MlflowMirror
from pipeline.search.progress import Expected, SearchProgress
from pipeline.search.scheduler import TrialScheduler
from pipeline.search.settings import SearchSettings
from pipeline.search.study import Best, Study, begun
from pipeline.search.study_definition import Definition
from pipeline.search.trials import hyperparameters
from pipeline.tracking.provenance import code_tags
from pipeline.tracking.runs import Tracker

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class SearchResult:
    """What a search found and what it cost, over all runs that worked on it."""

    study: str
    best: Best
    counts: Mapping[str, int]
    epochs: int
    seconds: float
    parent_run: str


def run(
    definition: Definition,
    settings: SearchSettings,
    family: models.BaseFamily,
    data: Path,
    features: Path,
    studies: Path,
    environments: list[dict[str, str]],
) -> tuple[SearchResult, Study, MlflowMirror]:
    """Search until the budget is met; go on where an earlier run of the same study ended.

    Raises:
        EngineError: Another process is at work on this study, or every trial failed.
    """
    budget = settings.budget_for(definition.dataset, definition.family)
    folder = studies / definition.name
    with study_store.locked(folder), _engine(settings, task.work(definition.backend), environments) as executor:
        if not begun(folder):
            executor.warm_up()  # while this process imports Optuna: a new study has work for all
        study = Study(folder, definition, settings, family)
        expected = _expected(definition, settings, study, studies, executor.slots)
        rung = _rungs(
            definition, data, features, folder, study.seed, latency=settings.constraints.latency_ms is not None
        )

        def discard(number: int) -> None:
            shutil.rmtree(_checkpoints(folder, number), ignore_errors=True)

        label = f"{definition.dataset} {definition.family}"
        with SearchProgress(label, expected) as progress:
            loop = TrialScheduler(study, budget, executor, lambda: _record(definition), rung, discard, progress)
            with _ending_runs(loop):
                record = loop.run()
                best = study.require_best()
            if progress.measured:
                cost_estimate.remember(folder, progress.measured)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # every trial has ended
        end = study.standing()
        result = SearchResult(definition.name, best, end.counts, end.epochs, study.elapsed_s, record.parent.run_id)
        return result, study, record


def _expected(definition: Definition, settings: SearchSettings, study: Study, studies: Path, slots: int) -> Expected:
    """Return what is known of a search's cost before it begins, from this study or the latest other of its family."""
    siblings = study_store.idle_siblings(studies, definition.dataset, definition.family, definition.name)
    budget = settings.budget_for(definition.dataset, definition.family)
    if study.points is not None:
        budget = budget.model_copy(update={"trials": min(budget.trials, study.points)})
    epochs = cost_estimate.expected_epochs(budget, settings, study.rungs)
    return Expected(budget, epochs, slots, cost_estimate.remembered([study.folder, *siblings]))


@contextmanager
def _ending_runs(loop: TrialScheduler) -> Iterator[None]:
    """Leave no run RUNNING when a search is interrupted or fails."""
    try:
        yield
    except KeyboardInterrupt:
        loop.interrupt("KILLED")
        raise
    except BaseException:
        with suppress(Exception):  # the first failure is the one to report: the disk may be full
            loop.interrupt("FAILED")
        raise


def _engine(settings: SearchSettings, work: Work, environments: list[dict[str, str]]) -> Executor:
    silence_s = settings.epoch_minutes * 60
    if settings.engine == "ray":
        from pipeline.executors.ray import RayExecutor

        return RayExecutor(work, settings.ray, silence_s=silence_s)
    return LocalExecutor(work, environments, silence_s=silence_s)


def _rungs(
    definition: Definition, data: Path, features: Path, folder: Path, seed: int, *, latency: bool
) -> Callable[[optuna.Trial, int, int], TrainingTask]:
    """Return what makes the task that trains a trial from one epoch to another."""

    def rung(trial: optuna.Trial, start: int, stop: int) -> TrainingTask:
        return TrainingTask(
            family=definition.family,
            settings=dict(definition.settings),
            hyperparameters=hyperparameters(trial),
            data=data,
            seed=seed + trial.number,
            span=models.Span(start, stop, definition.trial_epochs),
            folder=_checkpoints(folder, trial.number),
            ledger=folder / "epochs.log",
            latency=latency,
            features=features,
        )

    return rung


def _checkpoints(folder: Path, number: int) -> Path:
    """Return where the checkpoints of a trial lie."""
    return folder / "checkpoints" / f"trial-{number:05d}"


def _record(definition: Definition) -> MlflowMirror:
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
    return MlflowMirror(Tracker(definition.dataset), definition.name, label, tags)


def save(result: SearchResult, study: Study, definition: Definition, output: Path) -> list[Path]:
    """Write what train needs, the summary and the table of trials.

    All of it is what the study holds, so a rerun that finds the budget met writes the same bytes.
    """
    best = search.Best(
        family=definition.family,
        hyperparameters=result.best.hyperparameters,
        epochs=definition.trial_epochs,
        value=result.best.value,
        study=definition.name,
    )
    summary = search.Summary(
        study=result.study,
        run=result.parent_run,
        value=result.best.value,
        best_trial=result.best.number,
        trials={state: count for state, count in result.counts.items() if state != "running"},
        epochs=result.epochs,
        seconds=round(result.seconds, 1),
    )
    write_text(output / "trials.csv", study.table().to_csv(index=False))
    pictures = plots.draw(study.trials, study.objective, result.best.number, study.importances())
    with new_folder(output / "plots") as folder:
        for name, content in pictures.items():
            (folder / f"{name}.png").write_bytes(content)
    artifacts.write(output / "summary.json", summary)
    artifacts.write(output / "best.json", best)
    return [output / "trials.csv", output / "best.json", *sorted((output / "plots").iterdir())]


def tidy(definition: Definition, studies: Path, keep: int, tracker: Tracker) -> None:
    """Say of runs that a killed search has left behind that they ended, and remove old studies.

    Only what lies in this folder and nobody works on is touched: on a shared server, others search, too.
    """
    siblings = study_store.idle_siblings(studies, definition.dataset, definition.family, definition.name)
    running = tracker.runs("tags.stage = 'search' and attributes.status = 'RUNNING'")
    for key, run in running.items():
        if any(key == path.name or key.startswith(f"{path.name}-") for path in siblings):
            tracker.finish(run.run_id, "KILLED")
    protected = Registry(tracker).studies(definition.dataset)
    for name in study_store.sweep(siblings, keep, protected):
        print(f"removed the old study {name}: search.keep_studies is {keep}")


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.stages.search", description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--family", required=True)
    parser.add_argument("--data", required=True, type=Path, help="folder written by prepare")
    parser.add_argument("--features", required=True, type=Path, help="folder written by features")
    parser.add_argument("--studies", required=True, type=Path, help="folder of all studies")
    parser.add_argument("--output", required=True, type=Path, help="folder for best.json, summary.json, trials.csv")
    arguments = parser.parse_args()
    backend = configure.load_settings()
    settings = params.load("search", SearchSettings)
    family = loading.load(arguments.family, dataset=arguments.dataset)
    budget = settings.budget_for(arguments.dataset, arguments.family)
    definition = Definition(
        dataset=arguments.dataset,
        family=arguments.family,
        data=load_splits(arguments.data).digest,
        code=loading.training_digest(family),
        settings=family.settings.model_dump(mode="json"),
        search=settings.defining(),
        trial_epochs=budget.trial_epochs,
        backend=backend.backend,
    )
    environments = configure.worker_environments(backend.workers)
    result, study, record = run(
        definition, settings, family, arguments.data, arguments.features, arguments.studies, environments
    )
    tidy(definition, arguments.studies, settings.keep_studies, record.tracker)
    record.close(result.best, result.counts, result.epochs, save(result, study, definition, arguments.output))
    counts = ", ".join(f"{count} {state}" for state, count in result.counts.items() if count)
    print(
        f"{arguments.dataset} {arguments.family}: best {family.objective} {result.best.value:.4f} (trial"
        f" {result.best.number}); {counts}; {result.epochs} epochs in {result.seconds:.0f} s"
    )


if __name__ == "__main__":
    process.stage(main)
