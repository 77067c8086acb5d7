"""Stage `validate`: the gate. What does not meet every expectation goes no further."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import entry, gate, params
from pipeline.datasets.base import Labelled, RawImages, new_folder, source_format, write_json
from pipeline.errors import GateError
from pipeline.gate import Outcome, Settings

_FAILED = "failed.json"  # in the folder of Data Docs: a report that exists is a report that passed


@dataclass(frozen=True)
class Result:
    """What the gate found; `report` is the same for the same data and settings, whenever and wherever it ran."""

    dataset: str
    passed: bool
    outcomes: tuple[Outcome, ...]
    report: dict[str, Any]


def run(dataset: str, raw: RawImages, settings: Settings, docs_folder: Path) -> Result:
    """Judge the train and test images of a dataset; write Data Docs into a folder, whatever the outcome."""
    parts = {"train": raw.train, "test": raw.test}
    table = gate.image_table(parts)
    outcomes = tuple(gate.check(table, settings, dataset, len(raw.class_names), docs_folder))
    passed = all(outcome.passed for outcome in outcomes)
    report = {
        "dataset": dataset,
        "passed": passed,
        "images": {split: len(data) for split, data in parts.items()},
        "classes": {split: _per_class(data, raw.class_names) for split, data in parts.items()},
        "imbalance": {split: _imbalance(data) for split, data in parts.items()},
        "duplicates": {split: int(table.loc[table["split"] == split, "repeats"].sum()) for split in parts},
        "leaked": int(table["leaked"].sum()),
        "digest": {split: data.digest() for split, data in parts.items()},
        "expectations": {outcome.name: dict(outcome.observed) for outcome in outcomes},
    }
    return Result(dataset, passed, outcomes, report)


def refusal(result: Result, docs: Path) -> GateError:
    """Return the error that tells which expectation failed first, on what, and where to look."""
    failed = [outcome for outcome in result.outcomes if not outcome.passed]
    first = failed[0]
    where = f"column {first.column}" if first.column else "the table"
    count = f"{first.unexpected_count:,} unexpected, such as {', '.join(first.examples)}" if first.examples else ""
    seen = ", ".join(f"{key} {value:g}" for key, value in first.observed.items())
    others = f"; failed too: {', '.join(outcome.name for outcome in failed[1:])}" if failed[1:] else ""
    return GateError(
        f"{result.dataset}: expectation {first.name!r} ({first.expectation}) failed on {where}",
        expected=first.expected,
        found="; ".join(told for told in (count, seen) if told) or "nothing to judge",
        done=f"no report written{others}",
        next_step=f"open {docs / 'index.html'} or read {docs / _FAILED}",
    )


def _per_class(data: Labelled, class_names: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(data.labels[data.labels >= 0], minlength=len(class_names))
    return {name: int(count) for name, count in zip(class_names, counts, strict=False)}


def _imbalance(data: Labelled) -> float:
    """Return the largest class over the smallest one that has images."""
    counts = np.unique(data.labels, return_counts=True)[1]
    return round(float(counts.max() / counts.min()), 4) if len(counts) else 0.0


def main() -> None:
    """Run the stage as dvc.yaml calls it."""
    parser = argparse.ArgumentParser(prog="pipeline.validate", description=run.__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--raw", required=True, type=Path)
    parser.add_argument("--report", required=True, type=Path)
    parser.add_argument("--docs", required=True, type=Path)
    args = parser.parse_args()
    settings = params.load("validate", Settings)
    source = source_format(params.section(f"download.{args.dataset}.format"))
    raw = source.read(args.raw, params.load(f"download.{args.dataset}", source.Settings))
    args.report.unlink(missing_ok=True)  # a report of other data must not outlive a failure
    with new_folder(args.docs) as folder:
        result = run(args.dataset, raw, settings, folder)
        if not result.passed:
            told = {**result.report, "outcomes": [dataclasses.asdict(outcome) for outcome in result.outcomes]}
            write_json(folder / _FAILED, told)
    if not result.passed:
        raise refusal(result, args.docs)
    write_json(args.report, result.report)
    images = sum(result.report["images"].values())
    print(f"{args.dataset}: {images:,} images meet {len(result.outcomes)} expectations; see {args.docs}/index.html")


if __name__ == "__main__":
    entry.stage(main)
