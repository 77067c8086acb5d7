"""Runs in MLflow: their metrics, inputs and files. With registry.py the only writer to MLflow.

Whatever is written here can be written again after a crash: a run is found by its key before one is created, and an
epoch that was logged is not logged twice. What opens a run does so inside of `ended_runs`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.core.errors import TrackingError
from pipeline.tracking import database, server
from pipeline.tracking.errors import release_session, translated
from pipeline.tracking.server import DEFAULT_URI, load_mlflow, shown_uri, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Metric

__all__ = [
    "DEFAULT_URI",
    "Connection",
    "Run",
    "Tracker",
    "ended_runs",
    "load_mlflow",
    "log_dataset",
    "shown_uri",
    "tracking_uri",
]

KEY = "pipeline.key"  # tag: what a run stands for, unique within its experiment
PARENT = "mlflow.parentRunId"
_METRICS_PER_CALL = 1000  # MLflow's limit for one batch
_OPEN = "RUNNING"
_SIGN_OF_LIFE_S = 3.0  # what a server may take to answer while a user who pressed Ctrl-C waits


@dataclass(frozen=True)
class Run:
    """A run as far as we wrote it.

    Attributes:
        run_id: Its id.
        status: MLflow's status: RUNNING, FINISHED, FAILED or KILLED.
        epoch: The last epoch whose metrics it has; 0 if none.
    """

    run_id: str
    status: str
    epoch: int


@dataclass
class _Opened:
    """A run that this process has set to RUNNING, or is about to.

    Attributes:
        tracker: The tracker that opened it.
        run_id: Its id; None until the server has answered.
        found_by: The MLflow filter that finds a run whose creation was answered by an error.
        ended: Whether it has ended.
    """

    tracker: Tracker
    run_id: str | None = None
    found_by: str = ""
    ended: bool = False

    def end(self, status: str) -> None:
        """Set the status of the run where it is RUNNING."""
        if self.ended:
            return
        if self.run_id is not None:
            self.tracker.finish(self.run_id, status)
            return
        for run in self.tracker.runs(f"{self.found_by} and attributes.status = '{_OPEN}'").values():
            self.tracker.finish(run.run_id, status)


_blocks: list[list[_Opened]] = []  # the runs opened in each `ended_runs` block of this process, the innermost last


@contextmanager
def ended_runs() -> Iterator[None]:
    """End every run that is opened in the block and still RUNNING at its end.

    Runs end FINISHED where the block ends, KILLED where it is interrupted, and FAILED where it raises. The first error
    is reported: one of MLflow at this point is not, and a server that is away is not waited for. The next call resumes
    runs that could not be ended.
    """
    opened: list[_Opened] = []
    _blocks.append(opened)
    try:
        yield
        for run in opened:
            run.end("FINISHED")
    except BaseException as error:
        release_session(error)
        _end_all([run for run in opened if not run.ended], interrupted=isinstance(error, KeyboardInterrupt))
        raise
    finally:
        _blocks.remove(opened)


def _end_all(opened: list[_Opened], *, interrupted: bool) -> None:
    """End some runs after an error, unless the server is away."""
    if opened and server.unavailable(_SIGN_OF_LIFE_S if interrupted else server.ANSWER_S) is None:
        for run in opened:
            with suppress(Exception):  # the disk may be full, or the database locked
                run.end("KILLED" if interrupted else "FAILED")


class LoggedEpoch(Protocol):
    """The part of an epoch's metrics that logging needs; `EpochMetrics` has it."""

    @property
    def epoch(self) -> int: ...

    @property
    def at(self) -> float: ...

    def flat(self) -> dict[str, float]: ...


def predictions_path(test_digest: str) -> str:
    """Return where a run keeps its model's predictions for a test split, among its artifacts."""
    return f"predictions/{test_digest[:16]}.npz"


class Client:
    """An `MlflowClient` whose errors are `TrackingError`s; see `pipeline.tracking.errors`."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return method

        @functools.wraps(method)
        def call(*arguments: Any, **keywords: Any) -> Any:
            with translated():
                return method(*arguments, **keywords)

        return call


@contextmanager
def _usable() -> Iterator[None]:
    """Raise a `TrackingError` where the address is wrong, or needs a package that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise server.unusable(f"no {error.name}, which connects to it: install that package") from None
    except ValueError as error:  # an address that cannot be parsed; the text may repeat a password
        raise server.unusable(type(error).__name__) from None


class Connection:
    """The tracking server with its registry, without an experiment.

    Raises:
        TrackingError: The server cannot be reached.
    """

    def __init__(self) -> None:
        server.require()
        mlflow = load_mlflow()
        with _usable(), translated():
            mlflow.set_tracking_uri(tracking_uri())
            self.client = Client(mlflow.MlflowClient())


class Tracker(Connection):
    """Runs of one experiment, and the registry of the server that holds it.

    Args:
        experiment: Its name; created with artifacts beside the database where that is a local file.

    Raises:
        TrackingError: The server cannot be reached.
    """

    def __init__(self, experiment: str) -> None:
        super().__init__()
        self.experiment = experiment
        with _usable():
            self.experiment_id = self._experiment(experiment)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            tags = {"mlflow.experimentKind": "custom_model_development"}  # the UI shows what matters for training
            created = self.client.create_experiment(name, artifact_location=_artifacts_beside_database(), tags=tags)
            found = self.client.get_experiment(created)
        server.require_artifacts(found.artifact_location)
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"the experiment {name} was deleted",
                expected=f"an active experiment at {shown_uri()}",
                next_step=f"`mlflow experiments restore -x {found.experiment_id}`, or remove it for good: `mlflow gc`",
            )
        return str(found.experiment_id)

    def runs(self, filter_string: str) -> dict[str, Run]:
        """Return the runs that match an MLflow filter, by key."""
        runs: dict[str, Run] = {}
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], filter_string, max_results=1000, page_token=token)
            for run in page:
                epoch = int(run.data.metrics.get("epoch", 0))
                runs[run.data.tags.get(KEY, run.info.run_id)] = Run(run.info.run_id, run.info.status, epoch)
            token = page.token
            if not token:
                return runs

    def start(self, key: str, name: str, *, tags: Mapping[str, str], started: float | None = None) -> Run:
        """Return the run with a key, set to RUNNING; a new one where there is none.

        Args:
            key: What the run stands for.
            name: How the UI calls it.
            tags: Tags to set.
            started: Start time in seconds since the epoch; None for now.
        """
        known = self.runs(f"tags.`{KEY}` = '{key}'").get(key)
        if known is None:
            return Run(self.create(name, {**tags, KEY: key}, KEY, started), _OPEN, 0)
        self.resume(known.run_id)
        return Run(known.run_id, _OPEN, known.epoch)

    def create(self, name: str, tags: Mapping[str, str], known_by: str, started: float | None = None) -> str:
        """Create a run, which is RUNNING, and return its id.

        Args:
            name: How the UI calls it.
            tags: Its tags.
            known_by: The tag that identifies it.
            started: Start time in seconds since the epoch; None for now.
        """
        opened = _open(_Opened(self, found_by=f"tags.`{known_by}` = '{tags[known_by]}'"))
        start_ms = None if started is None else int(started * 1000)
        run = self.client.create_run(self.experiment_id, start_time=start_ms, tags=dict(tags), run_name=name)
        opened.run_id = str(run.info.run_id)
        return opened.run_id

    @contextmanager
    def running(self, key: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
        """Yield the id of the run with a key; it ends FINISHED, FAILED or KILLED as the block does."""
        with ended_runs():
            yield self.start(key, name, tags=tags).run_id

    def resume(self, run_id: str) -> None:
        """Set the run's status to RUNNING."""
        _open(_Opened(self, run_id))
        self.client.update_run(run_id, status=_OPEN)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters; the same ones again do no harm."""
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])

    def log_epochs(self, run_id: str, history: Iterable[LoggedEpoch]) -> None:
        """Log the metrics of some epochs, each with its number as the step; of an epoch, all or none."""
        metrics: list[Metric] = []
        for epoch in history:
            of_epoch = _epoch_metrics(epoch)
            if len(metrics) + len(of_epoch) > _METRICS_PER_CALL:
                self.client.log_batch(run_id, metrics=metrics)
                metrics = []
            metrics += of_epoch
        if metrics:
            self.client.log_batch(run_id, metrics=metrics)

    def log_metrics(self, run_id: str, values: Mapping[str, float]) -> None:
        """Log final metrics, which have no step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in values.items()])

    def tag_of(self, run_id: str, name: str) -> str:
        """Return a tag of a run; empty where it has none."""
        return str(self.client.get_run(run_id).data.tags.get(name, ""))

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags on a run."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def finish(self, run_id: str, status: str = "FINISHED", ended: float | None = None) -> None:
        """End a run; `ended` in seconds since the epoch, None for now."""
        self.client.set_terminated(run_id, status, None if ended is None else int(ended * 1000))
        for opened in _blocks:
            for run in opened:
                run.ended = run.ended or run.run_id == run_id

    def log_artifacts(self, run_id: str, files: Sequence[Path], folder: str | None = None) -> None:
        """Store files with a run."""
        for file in files:
            self.client.log_artifact(run_id, str(file), folder)

    def log_pictures(self, run_id: str, pictures: Iterable[str | Path], epoch: int) -> None:
        """Show pictures with a run, each under its file's name, as they are after an epoch."""
        from PIL import Image

        for picture in map(Path, pictures):
            with Image.open(picture) as image:
                self.client.log_image(run_id, image, key=picture.stem, step=epoch)

    def has_artifact(self, run_id: str, path: str) -> bool:
        """Return whether a run has an artifact."""
        return path in [entry.path for entry in self.client.list_artifacts(run_id, str(Path(path).parent))]

    def fetch_artifact(self, run_id: str, path: str, into: Path) -> Path | None:
        """Return a local copy of a run's artifact, None where the run has none of that path."""
        if not self.has_artifact(run_id, path):
            return None
        into.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(run_id, path, str(into)))

    def require_model(self, run_id: str, model_id: str, family: str) -> None:
        """Check that a trained model and its run are here, and that nobody has deleted them.

        Args:
            run_id: The run that trained the model.
            model_id: The logged model.
            family: The family of the model.

        Raises:
            TrackingError: They are not: they are in MLflow's trash, or DVC has kept outputs that were logged to another
                server. Or nobody answers.
        """
        retrain = f"`dvc repro --single-item --force train@{self.experiment}-{family}`, then `dvc repro`"
        deleted = self._deleted(run_id)
        if deleted:
            raise TrackingError(
                f"run {run_id} was deleted in MLflow",
                expected="the run that trained the model",
                found="it in the trash",
                next_step=f"`mlflow runs restore --run-id {run_id}`, or log the model again: {retrain}",
            )
        if deleted is None or not self.has_model(model_id):
            what = f"run {run_id}" if deleted is None else f"model {model_id} of run {run_id}"
            raise TrackingError(
                f"{what} is not on the tracking server",
                expected=f"the run that trained the model, and what it logged, at {shown_uri()}",
                found="none of that id",
                next_step=f"point MLFLOW_TRACKING_URI at the server it was trained with, or log it again: {retrain}",
            )

    def has_model(self, model_id: str) -> bool:
        """Return whether a logged model is here and was not deleted."""
        return self._found(lambda: self.client.get_logged_model(model_id)) is not None

    def _deleted(self, run_id: str) -> bool | None:
        """Return whether a run is in MLflow's trash; None where there is no such run."""
        run = self._found(lambda: self.client.get_run(run_id))
        return None if run is None else bool(run.info.lifecycle_stage != "active")

    def _found(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except TrackingError as error:
            if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None


def _open(run: _Opened) -> _Opened:
    """Note that a run is about to be RUNNING, for the innermost `ended_runs` block."""
    if _blocks:
        _blocks[-1].append(run)
    return run


def log_dataset(tracker: Tracker, run_id: str, name: str, digest: str, images: Any, labels: Any, context: str) -> None:
    """Record which data a run used: name, digest and shape, not the pixels."""
    from mlflow.data import from_numpy
    from mlflow.entities import DatasetInput, InputTag

    # A sample gives the schema and profile; the digest, ours, is of all pixels and labels.
    dataset = from_numpy(images[:1], targets=labels[:1], name=name, digest=digest[:36])
    entity = dataset._to_mlflow_entity()
    tracker.client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])


def _artifacts_beside_database() -> str | None:
    """Return where artifacts of a new experiment go: beside a local database; None leaves it to the server.

    The place is absolute, so that models load from any working directory.
    """
    file = database.sqlite_file(tracking_uri())
    return None if file is None else (file.resolve().parent / "mlartifacts").as_uri()


def _epoch_metrics(epoch: LoggedEpoch) -> list[Metric]:
    from mlflow.entities import Metric

    at = int(epoch.at * 1000)
    return [Metric(name, float(value), at, epoch.epoch) for name, value in epoch.flat().items() if name != "at"]
