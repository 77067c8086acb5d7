"""Print the leaderboard: every family's figures on a dataset."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "the leaderboard: every family's figures on a dataset"


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("dataset", nargs="?", help="one dataset; all of params.yaml if left out")


def main(arguments: argparse.Namespace) -> int:
    """Print the figures of every family on a dataset."""
    from rich.console import Console

    from pipeline.core import names, params
    from pipeline.core.errors import ParamsError, nearest
    from pipeline.project import check
    from pipeline.reporting import leaderboard

    check.check_names(params.read())
    datasets = params.section("datasets")
    if arguments.dataset is not None:
        names.checked(arguments.dataset, "models")
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
    return 0
