"""Stage report: one page with everything that the stages found, readable offline and the same for the same figures."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.core import params, process
from pipeline.core.files import write_text
from pipeline.reporting import dataset, leaderboard, load_reports
from pipeline.reporting.page import render


def run(reports: Path, page: Path, datasets: Iterable[str], families: list[str], confidence: float) -> str:
    """Return the page as HTML.

    Args:
        reports: Folder of what the stages report.
        page: Where the page will lie; its links to Data Docs start there.
        datasets: The datasets to show; whatever else the folder holds is left alone.
        families: The families to show.
        confidence: Coverage of the intervals that evaluate gives.

    Raises:
        DataError: A stage has not reported, or its report is damaged.
    """
    shown = []
    for name in datasets:
        found = load_reports.of_dataset(reports, name, families)
        rows = leaderboard.rows(reports, [name], families)
        shown.append(dataset.section(found, rows, _links(reports, page, name), confidence))
    return render(shown, confidence)


def _links(reports: Path, page: Path, name: str) -> dict[str, str]:
    """Return the addresses of the pages that validate wrote about a dataset, as seen from the page, if they exist."""
    pages = {"Look at doubtful images": "images.html", "Open Data Docs": "index.html"}
    found = {text: reports / "docs" / name / file for text, file in pages.items()}
    return {text: Path(os.path.relpath(path, page.parent)).as_posix() for text, path in found.items() if path.exists()}


def main() -> None:
    """Run the stage as dvc.yaml calls it."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.stages.report", description=__doc__)
    parser.add_argument("--reports", required=True, type=Path, help="folder of what the other stages report")
    parser.add_argument("--output", required=True, type=Path, help="HTML file")
    arguments = parser.parse_args()
    datasets, families = (list(params.section(name)) for name in ("datasets", "families"))
    confidence = float(params.section("evaluate.confidence"))
    write_text(arguments.output, run(arguments.reports, arguments.output, datasets, families, confidence))
    print(f"{arguments.output}: {', '.join(datasets)}, with {', '.join(families)}; open it in a browser")


if __name__ == "__main__":
    process.stage(main)
