"""Train the reference models of a dataset, to compare with those that searches find; the report page shows both.

They are the presets that `pipeline presets` lists. Each is trained once, as long as a whole trial of a search, and
logged to MLflow. The same command resumes a stopped call, and trains nothing twice.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.artifacts.references import References
    from pipeline.models.base import BaseFamily

HELP = "train the reference models of a dataset, to compare with"


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("dataset", help="one of `datasets` in params.yaml")
    parser.add_argument(
        "--family", dest="families", action="append", metavar="NAME", help="only of this family; may be repeated"
    )
    parser.add_argument("--workspace", type=Path, default=Path(), metavar="DIR", help="default: the working directory")


def main(arguments: argparse.Namespace) -> int:
    """Prepare the dataset where it is not, train, and print a table."""
    from rich.console import Console

    from pipeline.core.errors import PipelineError
    from pipeline.project import dvc, lock, machine, workspace

    root = arguments.workspace.resolve()
    if not (root / "dvc.yaml").exists():
        raise PipelineError("no references to train here", expected="dvc.yaml", found=root, next_step="cd to it")
    machine.require(root)
    with lock.hold(root, f"pipeline references {arguments.dataset}"):
        content = workspace.settle(root)
        families = _families(content, arguments.dataset, arguments.families)
        drawn = [f"features@{arguments.dataset}-{one.name}" for one in families if one.needs_feature_network]
        if dvc.reproduce(root, targets=[f"prepare@{arguments.dataset}", *drawn], quiet=True) != 0:
            raise PipelineError(
                f"{arguments.dataset} cannot be prepared",
                found="the error above",
                next_step="fix the cause and run the same command again",
            )
        with contextlib.chdir(root):
            report = _train(arguments.dataset, families)
            Console().print(table(report, _ours(arguments.dataset)))
            print(f"{report_file(arguments.dataset)} is written; the report page shows it after the next `dvc repro`")
    return 0


def report_file(dataset: str) -> Path:
    """Return the file that the command writes, in the workspace."""
    return Path("reports") / "references" / f"{dataset}.json"


def _families(content: Mapping[str, Any], dataset: str, names: Sequence[str] | None) -> list[BaseFamily]:
    """Return the families that have reference models for a dataset.

    Raises:
        ParamsError: A name is wrong, or there are no such models.
    """
    from pipeline.core.errors import ParamsError, nearest
    from pipeline.models import loading

    if dataset not in content["datasets"]:
        known = dataset in content["download"]
        raise ParamsError(
            f"references: {dataset} is not in `datasets`" if known else "references: unknown dataset",
            expected=nearest(dataset, content["datasets"]),
            found=repr(dataset),
            next_step=f"add {dataset} to `datasets` in params.yaml" if known else None,
        )
    chosen = list(dict.fromkeys(names or content["families"]))
    families = [loading.load(name, content.get(name, {}), dataset) for name in chosen]
    found = [family for family in families if family.presets_for(dataset)]
    if not found:
        others = {name: loading.load(name, content.get(name, {}), dataset) for name in sorted(loading.family_names())}
        having = [name for name, family in others.items() if family.presets_for(dataset)]
        raise ParamsError(
            f"references: no reference models of {', '.join(chosen)} for {dataset}",
            expected=f"a family that has some: {', '.join(having)}" if having else "a dataset that has some",
            found="none",
            next_step="name some of those that `pipeline presets` lists: `mlp: {presets: [R4]}` in params.yaml",
        )
    for family in found:
        if family.needs_feature_network and family.name not in content["families"]:
            raise ParamsError(
                f"references: {family.name} is scored with a network that the stage features trains",
                expected=f"{family.name} among `families`",
                found=", ".join(content["families"]),
                next_step=f"add {family.name} to `families` in params.yaml",
            )
    return found


def _train(dataset: str, families: Sequence[BaseFamily]) -> References:
    """Train in the working directory, on local workers."""
    from pipeline.backend import configure
    from pipeline.core import params
    from pipeline.datasets.arrays import load_splits
    from pipeline.executors.local import LocalExecutor
    from pipeline.models.training import task
    from pipeline.search import references
    from pipeline.search.settings import SearchSettings
    from pipeline.tracking.runs import ended_runs

    runtime, settings = configure.load_settings(), params.load("search", SearchSettings)
    data = load_splits(Path("data/prepared") / dataset)
    place = references.Place(dataset, data, runtime.backend, Path("data"), report_file(dataset))
    wanted = references.wanted(families, place, settings)
    print(f"{dataset}: {len(wanted)} reference models of {', '.join(family.name for family in families)}", flush=True)
    environments = configure.worker_environments(runtime.workers)
    silence_s = 60 * settings.epoch_minutes
    with LocalExecutor(task.work(runtime.backend), environments, silence_s=silence_s) as executor, ended_runs():
        return references.Trainings(wanted, place, lambda line: print(line, flush=True)).run(executor)


def _ours(dataset: str) -> dict[str, float]:
    """Return the validation values of the families that the stage train has trained."""
    from pipeline.artifacts import train
    from pipeline.artifacts.base import read_json

    files = Path("reports/train").glob(f"{dataset}/*/summary.json")
    return {file.parent.name: read_json(file, train.Summary, "train").value for file in files}


def table(report: References, ours: Mapping[str, float]) -> Table:
    """Return reference models as a table for a terminal.

    Args:
        report: The models.
        ours: Validation values of the models that searches found, by family.
    """
    from rich.table import Table

    from pipeline.evaluation import base as tasks

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "family"):
        shown.add_column(column, no_wrap=True)
    for column in ("validation", "ours", "parameters", "epochs"):
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_column("what")
    for model in report.models:
        text = tasks.load(model.task).value_text
        value = "failed" if model.value is None else text(model.value)
        own = text(ours[model.family]) if model.family in ours else "–"
        what = f"{model.title}: {model.failed}" if model.failed else model.title
        shown.add_row(model.name, model.family, value, own, f"{model.parameters:,}", str(model.epochs), what)
    return shown
