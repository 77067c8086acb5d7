"""Pin own images in params.yaml and take in incoming batches.

Judges every batch in data/incoming/<dataset>/ and accepts it, or moves it to data/quarantine/ with a report. Can be
killed and called again at any time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "take in own images and incoming batches"


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--workspace", type=Path, default=Path(), metavar="DIR", help="default: the working directory")
    parser.add_argument(
        "--renumber", action="store_true", help="number own classes in the natural order of their names"
    )
    parser.add_argument(
        "--skip-damaged", action="store_true", help="leave out own pictures that cannot be read; sets skip_damaged"
    )


def main(arguments: argparse.Namespace) -> int:
    """Take in what is there and print a summary; quarantined batches are an answer, not a failure."""
    from pipeline.core.errors import PipelineError
    from pipeline.project import machine
    from pipeline.retraining import ingest

    root: Path = arguments.workspace if arguments.workspace == Path() else arguments.workspace.resolve()
    if not (root / "dvc.yaml").exists():
        raise PipelineError("nothing to take in here", expected="dvc.yaml", found=root.resolve(), next_step="cd to it")
    machine.require(root)
    summary = ingest.run(root, print, renumber=arguments.renumber, skip_damaged=arguments.skip_damaged)
    text = f"{summary.accepted} accepted ({summary.images:,} images), {summary.quarantined} quarantined"
    left = f", {summary.left} left alone" if summary.left else ""
    print(f"ingest: {text}, {summary.known} known already{left}{'; next: dvc repro' if summary.accepted else ''}")
    return 0
