"""Run the whole pipeline on a copy of the project in a folder of its own; the same command resumes a stopped run."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import process

if TYPE_CHECKING:
    from pipeline.reporting.leaderboard import Row

HELP = "run the whole pipeline on a copy of the project in a folder of its own"

# Seconds that the stages take beside training, on 2 cores (measured with `pipeline run` on digits).
_PER_DATASET_S = 30
_PER_FAMILY_S = 45
_BRIEF_S = 60.0  # what takes less, by a high estimate, is not worth timing
_ASK_S = 3600.0  # a run that takes longer is to be confirmed in a terminal


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--workspace", required=True, type=Path, metavar="DIR", help="the folder; new, or of an earlier run"
    )
    parser.add_argument(
        "-S", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="a setting: 'datasets=[mnist]'"
    )
    parser.add_argument(
        "--deadline",
        type=_minutes,
        metavar="MINUTES",
        help="end each search after so long, with its leader trained to the end: search.deadline_minutes of this run",
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask before a run of more than an hour")
    parser.add_argument(
        "--renumber", action="store_true", help="number own classes in the natural order of their names"
    )
    parser.add_argument("--skip-damaged", action="store_true", help="leave out own pictures that cannot be read")


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes <= 1_000_000:
        raise argparse.ArgumentTypeError(f"expected a number of minutes above 0, found {text!r}")
    return minutes


def main(arguments: argparse.Namespace) -> int:
    """Prepare the workspace, reproduce its stages and print the leaderboard, while no other command works there."""
    from pipeline.project import lock, machine, workspace

    folder = Path(arguments.workspace).resolve()
    settings = list(arguments.settings)
    if arguments.deadline is not None:
        settings.append(f"search.deadline_minutes={arguments.deadline:g}")
    workspace.require_usable(folder, settings)
    machine.require(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with lock.hold(folder, f"pipeline run --workspace {folder}"):
        return _run(folder, settings, arguments)


def _run(folder: Path, settings: list[str], arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from pipeline.core.errors import DataError
    from pipeline.project import dvc, preflight, workspace
    from pipeline.reporting import leaderboard

    console = Console()
    params = workspace.prepare(folder, settings, renumber=arguments.renumber, skip_damaged=arguments.skip_damaged)
    _announce(console, params, folder)
    if any((folder / "data" / "incoming").glob("*/*")):  # own images are pinned already
        from pipeline.retraining import ingest

        ingest.run(folder, print)
    preflight.check_tracking(params, folder, print)
    unprepared = [name for name in params["datasets"] if not (folder / "data" / "prepared" / name).is_dir()]
    code = dvc.reproduce(folder, targets=[f"prepare@{name}" for name in unprepared]) if unprepared else 0
    if code == 0:
        try:
            seconds = _forecast(console, folder, params)
        except DataError as error:  # damaged, or of an earlier release: the stages make it again
            console.print(f"no estimate: {error}", highlight=False, markup=False, soft_wrap=True)
            seconds = 0.0
        if seconds > _ASK_S and not arguments.yes and not _confirm(console):
            console.print(
                "stopped: the data is prepared, and nothing was trained; `--yes` continues without a question",
                soft_wrap=True,
            )
            return process.FAILED
        code = dvc.reproduce(folder)
    if code != 0:
        console.print(f"stopped (exit code {code}): finished stages are kept; the same command continues from there")
        return process.FAILED
    found = leaderboard.rows(folder / "reports", params["datasets"], params["families"])
    console.print()
    console.print(leaderboard.table(found))
    _print_cut(console, folder, params)
    _print_where_next(console, folder, found, params["register"].get("prefix", ""))
    return 0


def _announce(console: Any, params: dict[str, Any], folder: Path) -> None:
    """Print what a run does."""
    console.print(
        f"[bold]{' and '.join(params['datasets'])}[/bold]: download, validate, prepare; then for"
        f" {' and '.join(params['families'])}: search hyperparameters, train, evaluate; then register the best.\n"
        f"In {folder}. An estimate of the time follows when the data is prepared. Finished stages are not run again."
        " Ctrl-C is safe: the same command continues.",
        highlight=False,
    )


def _forecast(console: Any, folder: Path, params: dict[str, Any]) -> float:
    """Print what the searches and trainings that are left will take; return the seconds of the whole run.

    Raises:
        DataError: A prepared dataset is damaged.
    """
    from pipeline.backend import configure
    from pipeline.core import params as sections
    from pipeline.executors.local import LocalExecutor
    from pipeline.models import loading
    from pipeline.search import cost_estimate, forecast
    from pipeline.search.settings import SearchSettings

    left = _unfinished(folder, params)
    if not left:
        return 0.0
    with contextlib.chdir(folder):
        runtime, settings = configure.load_settings(), sections.load("search", SearchSettings)
        seeds = int(sections.section("train.seeds"))
        environments = configure.workers(runtime.workers).environments
        pairs = [forecast.Pair(loading.load(family, dataset=name), name, Path("data")) for name, family in left]
        known: dict[forecast.Pair, forecast.EpochTime | str] = {
            pair: before for pair in pairs if (before := pair.remembered()) is not None
        }
        for pair in [pair for pair in pairs if pair not in known]:
            high = pair.by_formula()
            if high and forecast.forecast(pair, high, settings, seeds, len(environments)).seconds < _BRIEF_S:
                known[pair] = high
        timed = [pair for pair in pairs if pair not in known]
        if timed and settings.engine == "ray":
            known |= dict.fromkeys(timed, "the search on the cluster measures it")
        elif timed:
            names = ", ".join(f"{pair.dataset} {pair.family.name}" for pair in timed)
            print(f"timing an epoch: {names}", file=sys.stderr, flush=True)
            silence_s = 60 * settings.epoch_minutes
            with LocalExecutor(forecast.work(runtime.backend), environments, silence_s=silence_s) as executor:
                known |= forecast.measure(timed, executor)
        found = [forecast.forecast(pair, known[pair], settings, seeds, len(environments)) for pair in pairs]
    seconds = sum(each.seconds for each in found) + _PER_FAMILY_S * len(found)
    seconds += _PER_DATASET_S * len({each.dataset for each in found})
    unknown = [each for each in found if each.time is None]
    for each in found:
        console.print(str(each), highlight=False, soft_wrap=True)
    workers = f"{len(environments)} worker{'' if len(environments) == 1 else 's'}"
    besides = f", besides {len(unknown)} that nobody knows yet" if unknown else ""
    deadline = f"; each search ends after {settings.deadline_minutes:g} min" if settings.deadline_minutes else ""
    console.print(
        f"In all about {cost_estimate.duration(seconds)} on {workers}{besides}{deadline}",
        highlight=False,
        soft_wrap=True,
    )
    return seconds


def _unfinished(folder: Path, params: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs of dataset and family that are still to be searched or trained."""
    from pipeline.core.errors import PipelineError
    from pipeline.project import dvc

    pairs = [(name, family) for name in params["datasets"] for family in params["families"]]
    trained = [pair for pair in pairs if folder.joinpath("reports/train", *pair, "summary.json").exists()]
    if not trained:
        return pairs
    try:
        changed = dvc.changed_stages(folder)
    except PipelineError:  # `dvc repro` follows, and reports it
        return pairs

    def again(name: str, family: str) -> bool:
        of_data = {f"{stage}@{name}" for stage in ("download", "validate", "prepare")}
        return bool(changed & {*of_data, *(f"{stage}@{name}-{family}" for stage in ("features", "search", "train"))})

    return [pair for pair in pairs if pair not in trained or again(*pair)]


def _confirm(console: Any) -> bool:
    """Ask whether to continue; yes where nobody can be asked."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    console.print("That is more than an hour. Continue? [y/N] ", end="", markup=False, highlight=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print_cut(console: Any, folder: Path, params: dict[str, Any]) -> None:
    """Print which searches the deadline has ended."""
    from pipeline.artifacts import search
    from pipeline.artifacts.base import read_json

    pairs = [(name, family) for name in params["datasets"] for family in params["families"]]
    files = {pair: folder.joinpath("reports/search", *pair, "summary.json") for pair in pairs}
    cut = [
        " ".join(pair)
        for pair, file in files.items()
        if file.exists() and read_json(file, search.Summary, "search").cut_by_deadline
    ]
    if cut:
        console.print(
            f"\nThe deadline has ended the search of {', '.join(cut)} before its budget was used. The same command with"
            " a later deadline, or without one, continues it.",
            highlight=False,
            soft_wrap=True,
        )


def _print_where_next(console: Any, folder: Path, found: list[Row], prefix: str) -> None:
    from pipeline.evaluation.base import load
    from pipeline.tracking import runs as tracking

    server = tracking.shown_uri()
    runs = f"make ui WORKSPACE={folder}" if server == tracking.DEFAULT_URI else server
    names = dict.fromkeys(load(row.task).registered_name(row.dataset, prefix) for row in found)
    challenging = {load(row.task).registered_name(row.dataset, prefix) for row in found if row.without_champion}
    aliases = {name: "challenger" if name in challenging else "champion" for name in names}
    champions = ", ".join(f"models:/{name}@{alias}" for name, alias in aliases.items())
    console.print(
        f"\nModel:    {champions}\n"
        f"Report:   {folder / 'reports' / 'index.html'}\n"
        f"Runs:     {runs}\n"
        f"Again:    the same command; with -S search.seed=1 only what depends on it runs",
        highlight=False,
        soft_wrap=True,
    )
