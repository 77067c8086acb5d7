"""Retrain if anything changed: what a scheduler calls.

Runs `dvc repro` under a lock and prints one line of JSON on standard output. Exit codes: 0 promoted, 10 not promoted,
11 nothing to do, 12 locked, 1 failed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.retraining.retrain import RetrainSummary

HELP = "what a scheduler calls: retrain if anything changed"


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--force", action="store_true", help="search anew on the same data: a new generation, until it is registered"
    )
    parser.add_argument(
        "--require-persistent", action="store_true", help="refuse without a tracking server and a DVC remote"
    )


def main(arguments: argparse.Namespace) -> int:
    """Retrain, print a table for people and a JSON line for machines, and return the exit code."""
    from pipeline.core.errors import PipelineError
    from pipeline.project import machine
    from pipeline.retraining import retrain

    if arguments.require_persistent:
        retrain.require_persistent()
    if not Path("dvc.yaml").exists():
        raise PipelineError("nothing to retrain here", expected="dvc.yaml", found=Path.cwd(), next_step="cd to it")
    machine.require(Path())
    return retrain.run(force=arguments.force, announce=_print).code


def _print(summary: RetrainSummary) -> None:
    from rich.console import Console

    from pipeline.project import check
    from pipeline.reporting import leaderboard

    console = Console(stderr=True)
    if summary.outcome != "locked":
        content = check.check()
        console.print(leaderboard.table(leaderboard.rows(Path("reports"), content["datasets"], content["families"])))
    console.print(f"retrain: {summary.outcome}")
    for decision in (decided for of_tasks in summary.decisions.values() for decided in of_tasks.values()):
        console.print(f"{decision['model']}: {decision['decision']}, because {decision['reason']}", highlight=False)
    print(json.dumps(asdict(summary)), flush=True)
