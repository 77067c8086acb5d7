"""Run the whole pipeline on a copy of the project in a folder of its own; the same command resumes a stopped run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import process

if TYPE_CHECKING:
    from pipeline.reporting.leaderboard import Row

HELP = "run the whole pipeline on a copy of the project in a folder of its own"

# Seconds that each stage takes beside the search itself, on 2 cores (measured with `pipeline run` on digits).
_PER_DATASET_S = 30
_PER_FAMILY_S = 45


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--workspace", required=True, type=Path, metavar="DIR", help="the folder; new, or of an earlier run"
    )
    parser.add_argument(
        "-S", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="a setting: 'datasets=[mnist]'"
    )
    parser.add_argument(
        "--renumber", action="store_true", help="number own classes in the natural order of their names"
    )
    parser.add_argument("--skip-damaged", action="store_true", help="leave out own pictures that cannot be read")


def main(arguments: argparse.Namespace) -> int:
    """Prepare the workspace, reproduce its stages and print the leaderboard, while no other command works there."""
    from pipeline.project import lock, machine, workspace

    folder = Path(arguments.workspace).resolve()
    workspace.require_usable(folder, arguments.settings)
    machine.require(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with lock.hold(folder, f"pipeline run --workspace {folder}"):
        return _run(folder, arguments)


def _run(folder: Path, arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from pipeline.project import dvc, preflight, workspace
    from pipeline.reporting import leaderboard

    console = Console()
    params = workspace.prepare(
        folder, arguments.settings, renumber=arguments.renumber, skip_damaged=arguments.skip_damaged
    )
    _announce(console, params, folder)
    if any((folder / "data" / "incoming").glob("*/*")):  # own images are pinned already
        from pipeline.retraining import ingest

        ingest.run(folder, print)
    preflight.check_tracking(params, folder, print)
    code = dvc.reproduce(folder)
    if code != 0:
        console.print(f"stopped (exit code {code}): finished stages are kept; the same command continues from there")
        return process.FAILED
    found = leaderboard.rows(folder / "reports", params["datasets"], params["families"])
    console.print()
    console.print(leaderboard.table(found))
    _print_where_next(console, folder, found, params["register"].get("prefix", ""))
    return 0


def _announce(console: Any, params: dict[str, Any], folder: Path) -> None:
    """Print what a run does, and how long its stages take without their searches, as measured."""
    pairs = len(params["datasets"]) * len(params["families"])
    seconds = _PER_DATASET_S * len(params["datasets"]) + _PER_FAMILY_S * pairs
    console.print(
        f"[bold]{' and '.join(params['datasets'])}[/bold]: download, validate, prepare; then for"
        f" {' and '.join(params['families'])}: search hyperparameters, train, evaluate; then register the best.\n"
        f"In {folder}, about {max(1, round(seconds / 60))} minutes plus the searches, each of which estimates its time"
        " after its first rung, and the training of the best. Finished stages are not run again. Ctrl-C is safe: the"
        " same command continues.",
        highlight=False,
    )


def _print_where_next(console: Any, folder: Path, found: list[Row], prefix: str) -> None:
    from pipeline.evaluation.base import load
    from pipeline.tracking import runs as tracking

    server = tracking.shown_uri()
    runs = f"make ui WORKSPACE={folder}" if server == tracking.DEFAULT_URI else server
    names = dict.fromkeys(load(row.task).registered_name(row.dataset, prefix) for row in found)
    champions = ", ".join(f"models:/{name}@champion" for name in names)
    console.print(
        f"\nModel:    {champions}\n"
        f"Report:   {folder / 'reports' / 'index.html'}\n"
        f"Runs:     {runs}\n"
        f"Again:    the same command; with -S search.seed=1 only what depends on it runs",
        highlight=False,
        soft_wrap=True,
    )
