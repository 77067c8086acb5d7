"""The only writer to MLflow: runs, their metrics and inputs, models, versions and aliases.

Whatever is written here can be written again after a crash: a run is found by its key before one is created, and an
epoch that was logged is not logged twice.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import TrackingError

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.entities.model_registry import ModelVersion

DEFAULT_URI = "sqlite:///mlflow.db"
KEY = "pipeline.key"  # tag: what a run stands for, unique within its experiment
PARENT = "mlflow.parentRunId"
CHAMPION = "champion"
CHALLENGER = "challenger"
_METRICS_PER_CALL = 1000  # MLflow's limit for one batch


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


@dataclass(frozen=True)
class Version:
    """A registered version of a model and the run that trained it."""

    name: str
    version: str
    run_id: str
    model_id: str
    tags: Mapping[str, str]


def registered_name(dataset: str) -> str:
    """Return the name of a dataset's registered model."""
    return f"{dataset}-classifier"


def predictions_path(test_digest: str) -> str:
    """Return where a run keeps its model's predictions for a test split, among its artifacts."""
    return f"predictions/{test_digest[:16]}.npz"


def tracking_uri() -> str:
    """Return where runs are logged: MLFLOW_TRACKING_URI, else a database in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def shown_uri() -> str:
    """Return the tracking URI without a password, for messages."""
    uri = tracking_uri()
    parts = urlsplit(uri)
    return uri.replace(parts.netloc, parts.netloc.rpartition("@")[2]) if "@" in parts.netloc else uri


def provenance() -> dict[str, str]:
    """Return tags that say which code ran: the git commit, and whether files differ from it.

    A workspace is a copy outside git; `pipeline run` tells it the commit that it was copied from.
    """
    told = os.environ.get("PIPELINE_GIT_COMMIT")
    if told:
        return {"git.commit": told}
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return {"git.commit": "none"}
    return {"git.commit": commit + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")}


def dvc_hash(path: Path) -> str:
    """Return the hash under which DVC knows an output, ``none`` where it knows none."""
    try:
        lock = YAML(typ="safe").load(Path("dvc.lock"))
    except (OSError, YAMLError):
        return "none"
    for stage in (lock or {}).get("stages", {}).values():
        for output in stage.get("outs", []):
            if Path(output["path"]) == path:
                return str(output.get("md5", "none"))
    return "none"


def _git(*arguments: str) -> str:
    """Return what git prints; nothing where there is no git or no repository."""
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


class Tracker:
    """Runs of one experiment, and the registry of the server that holds it.

    Args:
        experiment: Its name; created with artifacts beside the database where that is a local file.

    Raises:
        TrackingError: The server cannot be reached.
    """

    def __init__(self, experiment: str) -> None:
        mlflow = _mlflow()
        mlflow.set_tracking_uri(tracking_uri())
        self.experiment = experiment
        self.client = mlflow.MlflowClient()
        try:
            self.experiment_id = self._experiment(experiment)
        except mlflow.exceptions.MlflowException as error:
            raise TrackingError(
                "the tracking server cannot be used",
                expected=f"an MLflow server at {shown_uri()}",
                found=str(error).splitlines()[0][:300],
                next_step="check MLFLOW_TRACKING_URI; unset, runs go to mlflow.db here",
            ) from None

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(self.client.create_experiment(name, artifact_location=_artifacts_beside_database()))

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
            start_ms = None if started is None else int(started * 1000)
            run = self.client.create_run(
                self.experiment_id, start_time=start_ms, tags={**tags, KEY: key}, run_name=name
            )
            return Run(run.info.run_id, "RUNNING", 0)
        self.resume(known.run_id)
        return Run(known.run_id, "RUNNING", known.epoch)

    @contextmanager
    def running(self, key: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
        """Yield the id of the run with a key; it ends FINISHED, FAILED or KILLED as the block does."""
        run = self.start(key, name, tags=tags)
        try:
            yield run.run_id
        except KeyboardInterrupt:
            self.finish(run.run_id, "KILLED")
            raise
        except BaseException:
            self.finish(run.run_id, "FAILED")
            raise
        self.finish(run.run_id)

    def resume(self, run_id: str) -> None:
        """Say of a run that ended, or was interrupted, that it goes on."""
        self.client.update_run(run_id, status="RUNNING")

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters; the same ones again do no harm."""
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])

    def log_epochs(self, run_id: str, history: Iterable[Mapping[str, float]]) -> None:
        """Log the metrics of some epochs: dicts with ``epoch`` (from 1) and ``at`` (seconds since the epoch)."""
        metrics = [metric for epoch in history for metric in _epoch_metrics(epoch)]
        for first in range(0, len(metrics), _METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=metrics[first : first + _METRICS_PER_CALL])

    def log_metrics(self, run_id: str, values: Mapping[str, float]) -> None:
        """Log final metrics, which have no step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in values.items()])

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags on a run."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def finish(self, run_id: str, status: str = "FINISHED", ended: float | None = None) -> None:
        """End a run; `ended` in seconds since the epoch, None for now."""
        self.client.set_terminated(run_id, status, None if ended is None else int(ended * 1000))

    def log_artifacts(self, run_id: str, files: Sequence[Path], folder: str | None = None) -> None:
        """Store files with a run."""
        for file in files:
            self.client.log_artifact(run_id, str(file), folder)

    def has_artifact(self, run_id: str, path: str) -> bool:
        """Tell whether a run has an artifact."""
        return path in [entry.path for entry in self.client.list_artifacts(run_id, str(Path(path).parent))]

    def fetch_artifact(self, run_id: str, path: str, into: Path) -> Path | None:
        """Return a local copy of a run's artifact, None where the run has none of that path."""
        if not self.has_artifact(run_id, path):
            return None
        into.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(run_id, path, str(into)))

    def require_run(self, run_id: str) -> None:
        """Check that a run is here.

        Raises:
            TrackingError: It is not: DVC has kept outputs that were logged to another server.
        """
        try:
            self.client.get_run(run_id)
        except _mlflow().exceptions.MlflowException as error:
            raise TrackingError(
                f"run {run_id} is not on the tracking server",
                expected=f"the run that trained the model, at {shown_uri()}",
                found=str(error).splitlines()[0][:200],
                next_step="point MLFLOW_TRACKING_URI at the server it was trained with, or `dvc repro --force train`",
            ) from None

    def version(self, name: str, alias: str) -> Version | None:
        """Return the version that an alias of a registered model names, None where there is none."""
        try:
            return _version(self.client.get_model_version_by_alias(name, alias))
        except _mlflow().exceptions.MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise TrackingError("the registry cannot be read", found=str(error).splitlines()[0][:300]) from None

    def register(self, name: str, model_id: str, run_id: str, tags: Mapping[str, str]) -> Version:
        """Return the version of a registered model that holds a logged model; a new one where none does."""
        exceptions = _mlflow().exceptions
        try:
            self.client.create_registered_model(name)
        except exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise TrackingError("the registry cannot be written", found=str(error).splitlines()[0][:300]) from None
        for version in self.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
            if version.model_id == model_id:
                return _version(version)
        created = self.client.create_model_version(
            name, source=f"models:/{model_id}", run_id=run_id, tags=dict(tags), model_id=model_id
        )
        return _version(created)

    def set_alias(self, version: Version, alias: str) -> None:
        """Point an alias of a registered model at a version."""
        self.client.set_registered_model_alias(version.name, alias, version.version)

    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias where it exists."""
        if self.version(name, alias) is not None:
            self.client.delete_registered_model_alias(name, alias)

    def tag_version(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags on a version."""
        for key, value in tags.items():
            self.client.set_model_version_tag(version.name, version.version, key, value)


def log_dataset(tracker: Tracker, run_id: str, name: str, digest: str, images: Any, labels: Any, context: str) -> None:
    """Record which data a run used: name, digest and shape, not the pixels."""
    from mlflow.data import from_numpy
    from mlflow.entities import DatasetInput, InputTag

    # A sample gives the schema and profile; the digest, ours, is of all pixels and labels.
    dataset = from_numpy(images[:1], targets=labels[:1], name=name, digest=digest[:36])
    entity = dataset._to_mlflow_entity()
    tracker.client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])


def log_model(
    run_id: str,
    *,
    code: Path,
    files: Mapping[str, Path],
    config: Mapping[str, Any],
    shape: Sequence[int],
    example: Any,
    requirements: Sequence[str],
) -> str:
    """Log a model as code that loads files, with a signature from raw uint8 images to answers; return its model id.

    Args:
        run_id: The run that trained it.
        code: Python file that calls `mlflow.models.set_model`.
        files: Artifacts by name; the code finds them in its context.
        config: What the code gets as ``context.model_config``.
        shape: Shape of one image, (H, W, C).
        example: A few images, uint8 (n, H, W, C).
        requirements: What the model needs, pinned; naming them saves MLflow the 11 s in which it would find out.
    """
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Array

    mlflow = _mlflow()
    images = TensorSpec(np.dtype("uint8"), (-1, *shape), name=None)
    answers = [
        ColSpec(DataType.long, "label"),
        ColSpec(DataType.string, "class_name"),
        ColSpec(Array(DataType.double), "probabilities"),
    ]
    mlflow.set_tracking_uri(tracking_uri())
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(code),
            artifacts={name: str(path) for name, path in files.items()},
            model_config=dict(config),
            signature=ModelSignature(inputs=Schema([images]), outputs=Schema(answers)),
            input_example=example,
            pip_requirements=list(requirements),
        )
    return str(logged.model_id)


def load_model(uri: str) -> Any:
    """Return a model as MLflow serves it: ``models:/<model id>`` or ``models:/<name>/<version>``."""
    mlflow = _mlflow()
    mlflow.set_tracking_uri(tracking_uri())
    return mlflow.pyfunc.load_model(uri)


def _mlflow() -> ModuleType:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import logging
    import warnings

    import mlflow
    import mlflow.exceptions
    import mlflow.pyfunc

    warnings.filterwarnings("ignore", message=".*[Tt]ype hints", module=r"mlflow\.pyfunc")  # serving.py says why
    for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # an environment by uv has no pip to pin
    module: ModuleType = mlflow
    return module


def _artifacts_beside_database() -> str | None:
    """Return where artifacts of a new experiment go: beside a local database; None leaves it to the server.

    The place is absolute, so that models load from any working directory.
    """
    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        return None
    database = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    return (database.resolve().parent / "mlartifacts").as_uri()


def _epoch_metrics(epoch: Mapping[str, float]) -> list[Metric]:
    from mlflow.entities import Metric

    step, at = int(epoch["epoch"]), int(epoch["at"] * 1000)
    return [Metric(name, float(value), at, step) for name, value in epoch.items() if name != "at"]


def _version(version: ModelVersion) -> Version:
    return Version(
        name=version.name,
        version=str(version.version),
        run_id=str(version.run_id),
        model_id=str(version.model_id),
        tags=dict(version.tags or {}),
    )
