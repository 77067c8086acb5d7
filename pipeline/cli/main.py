"""`pipeline …` for people. Imports nothing heavy until a command needs it, so that `--help` is instant."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import entry

if TYPE_CHECKING:
    from pipeline.reporting.leaderboard import Row

# Seconds that each stage takes beside the search itself, on 2 cores (measured with `pipeline run` on digits).
_PER_DATASET_S = 30
_PER_FAMILY_S = 45


def main() -> None:
    """Parse the command line, run the command, and exit with its code."""
    arguments = _parser().parse_args()
    command: Callable[[argparse.Namespace], int | None] = arguments.command
    entry.run(lambda: command(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pipeline",
        description="Data, searches, models and a registry for small vision models.",
        epilog="`dvc repro` runs the stages themselves; `make` lists what else there is.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the whole pipeline on a copy of the project in a folder of its own")
    run.add_argument("--workspace", required=True, type=Path, metavar="DIR", help="the folder; made, or gone on with")
    run.add_argument(
        "-S", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="a setting: 'datasets=[mnist]'"
    )
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="check params.yaml as the stages will read it")
    check.set_defaults(command=_check)

    models = commands.add_parser("models", help="the leaderboard: every family's figures on a dataset")
    models.add_argument("dataset", nargs="?", help="one dataset; all of params.yaml if left out")
    models.set_defaults(command=_models)

    presets = commands.add_parser("presets", help="the reference models that a search can try, and their size")
    presets.add_argument("--json", action="store_true", help="for machines")
    presets.set_defaults(command=_presets)

    ingest = commands.add_parser(
        "ingest",
        help="take in own images and incoming batches",
        description="Pins own images in params.yaml. Judges every batch in data/incoming/<dataset>/ and accepts it,"
        " or moves it to data/quarantine/ with a report. Can be killed and called again at any time.",
    )
    ingest.add_argument("--workspace", type=Path, default=Path(), metavar="DIR", help="whose; the working directory")
    ingest.set_defaults(command=_ingest)

    retrain = commands.add_parser(
        "retrain",
        help="what a scheduler calls: retrain if anything changed",
        description="Runs `dvc repro` under a lock. Exit codes: 0 promoted, 10 not promoted, 11 nothing to do,"
        " 12 locked, 1 failed. Prints one line of JSON on standard output.",
    )
    retrain.add_argument("--force", action="store_true", help="search anew on the same data: a new generation")
    retrain.add_argument(
        "--require-persistent", action="store_true", help="refuse without a tracking server and a DVC remote"
    )
    retrain.set_defaults(command=_retrain)

    doctor = commands.add_parser("doctor", help="what this machine has, and what to install")
    doctor.add_argument("--json", action="store_true", help="for machines")
    doctor.set_defaults(command=_doctor)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from pipeline.project import workspace
    from pipeline.reporting import leaderboard

    console = Console()
    params = workspace.prepare(arguments.workspace, arguments.settings)
    _announce(console, params, arguments.workspace)
    if any((arguments.workspace / "data" / "incoming").glob("*/*")):  # else nothing is left to do: prepare has pinned
        from pipeline.retraining import ingest

        ingest.run(arguments.workspace, print)
    code = workspace.reproduce(arguments.workspace)
    if code != 0:
        console.print(f"stopped (exit code {code}): what is finished is kept; the same command goes on from there")
        return entry.FAILED
    found = leaderboard.rows(arguments.workspace / "reports", params["datasets"], params["families"])
    console.print()
    console.print(leaderboard.table(found))
    _say_where_next(console, arguments.workspace, found)
    return 0


def _announce(console: Any, params: dict[str, Any], folder: Path) -> None:
    """Say what a run will do and how long it may take: the budgets of its searches, and what the rest has taken."""
    from pipeline.search.budget import Settings

    search = Settings.model_validate(params["search"])
    pairs = [(dataset, family) for dataset in params["datasets"] for family in params["families"]]
    seconds = _PER_DATASET_S * len(params["datasets"])
    for pair in pairs:
        seconds += _PER_FAMILY_S + round(search.budget_for(*pair).minutes * 60)
    console.print(
        f"[bold]{' and '.join(params['datasets'])}[/bold]: download, validate, prepare; then for"
        f" {' and '.join(params['families'])}: search hyperparameters, train, evaluate; then register the best.\n"
        f"In {folder}, at most about {max(1, round(seconds / 60))} minutes of search and stages plus the training of"
        " the best; finished stages are not run again. Ctrl-C is safe: the same command goes on.",
        highlight=False,
    )


def _say_where_next(console: Any, folder: Path, found: list[Row]) -> None:
    from pipeline.registry.versions import registered_name
    from pipeline.tracking import runs as tracking

    server = tracking.shown_uri()
    runs = f"make ui WORKSPACE={folder}" if server == tracking.DEFAULT_URI else server
    names = dict.fromkeys(registered_name(row.dataset, row.task) for row in found)
    champions = ", ".join(f"models:/{name}@champion" for name in names)
    console.print(
        f"\nModel:    {champions}\n"
        f"Report:   {folder / 'reports' / 'index.html'}\n"
        f"Runs:     {runs}\n"
        f"Again:    the same command; with -S search.seed=1 only what depends on it runs",
        highlight=False,
        soft_wrap=True,
    )


def _check(arguments: argparse.Namespace) -> None:
    from pipeline.project import check

    del arguments
    content = check.check()
    print(f"params.yaml is fine: datasets {', '.join(content['datasets'])}; families {', '.join(content['families'])}")


def _models(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from pipeline.core import params
    from pipeline.core.errors import ParamsError, nearest
    from pipeline.reporting import leaderboard

    datasets = params.section("datasets")
    if arguments.dataset is not None:
        known = params.section("download")
        if arguments.dataset not in known:
            expected = nearest(arguments.dataset, known)
            raise ParamsError("models: unknown dataset", expected=expected, found=repr(arguments.dataset))
        datasets = [arguments.dataset]
    found = leaderboard.rows(Path("reports"), datasets, params.section("families"))
    if not found:
        raise ParamsError(
            f"no model of {', '.join(datasets)} has been evaluated here", next_step="`dvc repro` or `make demo`"
        )
    Console().print(leaderboard.table(found))


def _presets(arguments: argparse.Namespace) -> int:
    from pipeline.cli import presets

    return presets.main(as_json=arguments.json)


def _ingest(arguments: argparse.Namespace) -> int:
    from pipeline.retraining import ingest

    return ingest.main(arguments.workspace)


def _retrain(arguments: argparse.Namespace) -> int:
    from pipeline.retraining import retrain

    return retrain.main(force=arguments.force, persistent=arguments.require_persistent)


def _doctor(arguments: argparse.Namespace) -> int:
    from pipeline.cli import doctor

    return doctor.main(as_json=arguments.json)


if __name__ == "__main__":
    main()
