"""Runs a search: opens the study, schedules its trials on an executor, and writes the result.

If a search is killed, the next run replays the recorded results, continues from the checkpoints, and brings MLflow up
to date.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.artifacts import search as artifacts
from pipeline.artifacts.base import write
from pipeline.core.errors import EngineError
from pipeline.core.files import new_folder, write_text
from pipeline.datasets.arrays import load_splits
from pipeline.executors.base import Broken, Done, Executor, Failed, Work
from pipeline.executors.local import LocalExecutor
from pipeline.models import base as models
from pipeline.models.training import task
from pipeline.models.training.seeds import TrainSettings, further, further_folder, write_finished
from pipeline.models.training.task import TaskResult, TrainingTask, exported_model
from pipeline.models.values import Hyperparameters
from pipeline.registry.versions import Registry
from pipeline.search import cost_estimate, lengths, plots, study_store
from pipeline.search.further_seeds import FurtherSeeds
from pipeline.search.mlflow_mirror import MlflowMirror
from pipeline.search.progress import Expected, SearchProgress
from pipeline.search.rung_results import RungResults
from pipeline.search.scheduler import MakeTask, TrialScheduler
from pipeline.search.settings import Budget, SearchSettings
from pipeline.search.study import Best, Study
from pipeline.search.study_definition import Definition
from pipeline.search.trials import history
from pipeline.tracking.errors import release_session
from pipeline.tracking.identity import WORKSPACE, workspace_id
from pipeline.tracking.provenance import code_tags
from pipeline.tracking.runs import Tracker


@dataclass(frozen=True)
class SearchResult:
    """Result and cost of a search, summed over all processes that worked on it."""

    study: str
    best: Best
    counts: Mapping[str, int]
    epochs: int
    seconds: float
    parent_run: str
    cut_by_deadline: bool = False
    disturbed: bool = False


@dataclass(frozen=True)
class Folders:
    """Folders that a search reads and writes.

    Attributes:
        data: Folder written by prepare.
        features: Folder written by features.
        studies: Folder of all studies.
    """

    data: Path
    features: Path
    studies: Path

    @property
    def data_root(self) -> Path:
        """Folder of all data of the workspace."""
        return self.studies.parent


@dataclass(frozen=True)
class FinishedSearch:
    """A search that has used its budget: its result, its study, its runs in MLflow, and the best trial's last task."""

    result: SearchResult
    study: Study
    mirror: MlflowMirror
    finalist: TrainingTask


def run(
    definition: Definition,
    settings: SearchSettings,
    training: TrainSettings,
    family: models.BaseFamily,
    folders: Folders,
    environments: list[dict[str, str]],
) -> FinishedSearch:
    """Search until the budget is used; resume an earlier run of the same study.

    Raises:
        EngineError: Another process is searching this study, or every trial failed.
    """
    folder = folders.studies / definition.name
    with study_store.locked(folder), _executor(settings, task.work(definition.backend), environments) as executor:
        key = study_store.identify(folder)
        if not study_store.begun(folder):
            executor.warm_up()  # while this process imports Optuna: a new study has work for every worker
        data = load_splits(folders.data)
        steps = lengths.steps_per_epoch(family, len(data.train))
        budget = settings.budget_for(definition.dataset, definition.family, steps)
        spec = models.Spec.of(data)
        study = Study(folder, definition, settings, family, steps)
        results = RungResults(folder)
        expected = _expected(definition, budget, settings, study, executor.slots)
        make_task = _task_maker(definition, settings, folders, study, results)
        local = settings.engine == "local"  # a cluster is paid by use, and the stage train runs here
        spare = FurtherSeeds(_further(definition, training, make_task, study), family.objective) if local else None
        with SearchProgress(f"{definition.dataset} {definition.family}", expected) as progress:
            scheduler = TrialScheduler(
                study,
                budget,
                settings.slots,
                lambda point: family.epoch_cost(point, spec),
                results,
                executor,
                lambda: _mirror(definition, key, workspace_id(folders.data_root)),
                make_task,
                lambda number: shutil.rmtree(results.checkpoints(number), ignore_errors=True),
                progress,
                spare,
                60 * settings.deadline_minutes or None,
            )
            with _ending_runs(scheduler):
                mirror = scheduler.run()
                best = study.require_best()
                finalist = _finalist(study, best, make_task, executor)
                mirror.catch_up()
            if progress.measured:
                cost_estimate.remember(folder, progress.measured)
        study.save_database()
        end = study.status()
        result = SearchResult(
            definition.name,
            best,
            end.counts,
            end.epochs,
            results.elapsed_s,
            mirror.parent.run_id,
            scheduler.cut,
            scheduler.disturbed or settings.constraints.latency_ms is not None,
        )
        return FinishedSearch(result, study, mirror, finalist)


def _expected(definition: Definition, budget: Budget, settings: SearchSettings, study: Study, slots: int) -> Expected:
    """Return the expected cost of a search, as measured in this study or in the family's most recent other study."""
    siblings = study_store.idle_siblings(study.folder.parent, definition.dataset, definition.family, definition.name)
    if study.points is not None:
        budget = budget.model_copy(update={"trials": min(budget.trials, study.points)})
    epochs = cost_estimate.expected_epochs(budget, settings, study.rungs)
    return Expected(budget, epochs, slots, cost_estimate.remembered([study.folder, *siblings]))


@contextmanager
def _ending_runs(scheduler: TrialScheduler) -> Iterator[None]:
    """Leave no run RUNNING when a search is interrupted or fails."""
    try:
        yield
    except BaseException as error:
        release_session(error)
        # Report the first error, not a second one from MLflow: the disk may be full, or the database locked. A run that
        # stays RUNNING is ended by the next search.
        with suppress(Exception):
            scheduler.interrupt("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise


def _executor(settings: SearchSettings, work: Work, environments: list[dict[str, str]]) -> Executor:
    silence_s = settings.epoch_minutes * 60
    if settings.engine == "ray":
        from pipeline.executors.ray import RayExecutor

        return RayExecutor(work, settings.ray, silence_s=silence_s)
    return LocalExecutor(work, environments, silence_s=silence_s)


def _task_maker(
    definition: Definition, settings: SearchSettings, folders: Folders, study: Study, results: RungResults
) -> MakeTask:
    """Return a function that creates the task to train a trial from one epoch to another."""

    def make_task(number: int, point: Hyperparameters, start: int, stop: int) -> TrainingTask:
        return TrainingTask(
            family=definition.family,
            settings=dict(definition.settings),
            hyperparameters=point,
            data=folders.data,
            seed=study.seed_of(number),
            span=models.Span(start, stop, definition.trial_epochs),
            folder=results.checkpoints(number),
            ledger=study.folder / "epochs.log",
            export=True,
            latency=settings.constraints.latency_ms is not None,
            features=folders.features,
        )

    return make_task


def _further(
    definition: Definition, training: TrainSettings, make_task: MakeTask, study: Study
) -> Callable[[int, Hyperparameters], Mapping[int, TrainingTask]]:
    """Return a function that creates the trainings with further seeds that the stage train wants of a trial."""

    def tasks(number: int, point: Hyperparameters) -> Mapping[int, TrainingTask]:
        folder = further_folder(
            study.folder,
            point,
            definition.trial_epochs,
            definition.code,
            definition.settings,
            definition.data,
            definition.backend,
        )
        folder.mkdir(parents=True, exist_ok=True)
        whole = make_task(number, point, 0, definition.trial_epochs)
        return further(folder, training, replace(whole, latency=False))

    return tasks


def _finalist(study: Study, best: Best, make_task: MakeTask, executor: Executor) -> TrainingTask:
    """Return the last task of the best trial; train it again if its model is lost.

    Raises:
        EngineError: That was necessary, and failed.
    """
    epochs = len(history(study.trials[best.number]))
    stop = next(end for end in study.rungs if end >= epochs)
    task = make_task(best.number, best.hyperparameters, 0, stop)
    if exported_model(task).is_dir():
        return task
    shutil.rmtree(task.folder, ignore_errors=True)
    executor.submit(best.number, task)
    while True:
        for event in executor.wait(timeout_s=1.0):
            if isinstance(event, Done):
                return task
            if isinstance(event, Failed | Broken):
                raise EngineError(
                    f"{study.folder.name}: the model of the best trial was lost, and cannot be trained again",
                    found=event.reason,
                    next_step="fix the cause and run the same command again",
                )


def _mirror(definition: Definition, key: str, workspace: str) -> MlflowMirror:
    tags = {
        "stage": "search",
        "study": definition.name,
        WORKSPACE: workspace,
        "dataset": definition.dataset,
        "family": definition.family,
        "generation": str(definition.search["generation"]),
        "backend": definition.backend,
        "data.digest": definition.data,
        **code_tags(),
    }
    label = f"{definition.family} g{definition.search['generation']}"
    return MlflowMirror(Tracker(definition.dataset), key, label, tags)


def save_finalist(finished: FinishedSearch, output: Path) -> None:
    """Write the training of the best trial, with its model, for the stage train."""
    checkpoint = exported_model(finished.finalist).parent
    last = TaskResult.read(checkpoint / "trained.json")
    epochs = list(history(finished.study.trials[finished.result.best.number]))
    with new_folder(output) as folder:
        write_finished(folder, checkpoint, replace(last, epochs=epochs), finished.study.total)


def save(result: SearchResult, study: Study, definition: Definition, output: Path) -> list[Path]:
    """Write the best hyperparameters, the summary, the table of trials and the plots; return the files to log.

    All values come from the recorded results, so a rerun after the budget is used writes the same bytes. `best.json`
    and `trials.csv` have no times: on one class of device they are the same on every machine.
    """
    best = artifacts.Best(
        family=definition.family,
        hyperparameters=result.best.hyperparameters,
        epochs=definition.trial_epochs,
        value=result.best.value,
        seed=study.seed_of(result.best.number),
        study=definition.name,
    )
    summary = artifacts.Summary(
        study=result.study,
        run=result.parent_run,
        value=result.best.value,
        best_trial=result.best.number,
        trials={state: count for state, count in result.counts.items() if state != "running"},
        epochs=result.epochs,
        seconds=round(result.seconds, 1),
        cut_by_deadline=result.cut_by_deadline,
        disturbed=result.disturbed,
    )
    write_text(output / "trials.csv", study.table().to_csv(index=False))
    write_text(output / "timings.csv", study.timings().to_csv(index=False))
    pictures = plots.draw(study.trials, study.objective, result.best.number, study.importances())
    with new_folder(output / "plots") as folder:
        for name, content in pictures.items():
            (folder / f"{name}.png").write_bytes(content)
    write(output / "summary.json", summary)
    write(output / "best.json", best)
    return [output / "trials.csv", output / "timings.csv", output / "best.json", *sorted((output / "plots").iterdir())]


def tidy(definition: Definition, studies: Path, keep: int, tracker: Tracker) -> None:
    """End the runs that a killed search left RUNNING, and remove old studies.

    Affected are the idle studies in this folder, and the studies of this workspace that are lost. Other searches may
    use the same MLflow server.
    """
    siblings = study_store.idle_siblings(studies, definition.dataset, definition.family, definition.name)
    idle, present = {study_store.key(path) for path in siblings}, study_store.keys(studies)
    running = "tags.stage = 'search' and attributes.status = 'RUNNING'"
    own = tracker.runs(f"{running} and tags.`{WORKSPACE}` = '{workspace_id(studies.parent)}'")
    lost = {key for key in own if not any(study_store.owns(study, key) for study in present)}
    for key, run in tracker.runs(running).items():
        if key in lost or any(study_store.owns(study, key) for study in idle):
            tracker.finish(run.run_id, "KILLED")
    protected = Registry(tracker).studies(definition.dataset)
    for name in study_store.sweep(siblings, keep, protected):
        print(f"removed the old study {name}: search.keep_studies is {keep}")
