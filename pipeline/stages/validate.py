"""Stage `validate`: the gate. What does not meet every expectation goes no further."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

from pipeline.artifacts import base as artifacts
from pipeline.artifacts.validate import NearDuplicates, Report
from pipeline.core import names, params, process
from pipeline.core.errors import GateError
from pipeline.core.files import new_folder, write_json, write_text
from pipeline.datasets.arrays import Labelled, RawImages
from pipeline.datasets.source_format import read_raw, read_settings
from pipeline.validation import class_conflicts, duplicate_pairs, naming, reference, review_page, suites
from pipeline.validation import plots as pictures
from pipeline.validation.duplicate_pairs import Pairs
from pipeline.validation.expectations import Outcome
from pipeline.validation.suites import ValidateSettings

_FAILED = "failed.json"  # in the folder of Data Docs: a report that exists is a report that passed
_IMAGES = "images.html"
_SEED = 0  # of the sample that is shown
_LISTED_PAIRS = 1000  # in the report, so that it stays small; all are in near_duplicates.csv
_STEPS = (1 / 3, 2 / 3, 1, 4 / 3)  # of the distance: at which near duplicates are counted


@dataclass(frozen=True)
class ValidationResult:
    """What the gate found; `report` is the same for the same data and settings, whenever and wherever it ran.

    `near` holds the near duplicates, as positions in train and test one after another; `plots` the pictures as PNG.
    """

    dataset: str
    passed: bool
    outcomes: tuple[Outcome, ...]
    report: Report
    near: Pairs
    plots: dict[str, bytes]


def run(
    dataset: str, raw: RawImages, settings: ValidateSettings, docs_folder: Path, *, strict: bool = True
) -> ValidationResult:
    """Judge the train and test images of a dataset; write Data Docs and a page of images, whatever the outcome.

    Args:
        dataset: The name of the dataset.
        raw: Its images.
        settings: Section ``validate`` of params.
        docs_folder: The folder for Data Docs and the page.
        strict: Whether unusual images, class sizes and imbalance stop the pipeline, or are warnings.
    """
    parts = {"train": raw.train, "test": raw.test}
    distance = settings.distance_of(dataset)
    further = suites.near_duplicates(parts, settings, dataset)
    near = further.within(distance)
    conflicts = class_conflicts.find(parts, near, distance)
    table = suites.image_table(parts, near, conflicts)
    scale = reference.learn(table)
    checked = suites.check(table, settings, len(raw.class_names), docs_folder, scale=scale, strict=strict)
    checked = suites.named(checked, naming.Names(parts, raw.class_names), naming.pairs(table, near))
    details = class_conflicts.texts(parts, raw.class_names, conflicts)
    described = suites.described(checked, {**details, "class-groups": one_group(raw, table)})
    outcomes = suites.with_settings(described)
    passed = not any(outcome.stops for outcome in outcomes)
    report = Report(
        dataset=dataset,
        passed=passed,
        warnings=tuple(outcome.name for outcome in outcomes if not outcome.passed and not outcome.stops),
        images={split: len(data) for split, data in parts.items()},
        classes={split: _per_class(data, raw.class_names) for split, data in parts.items()},
        imbalance={split: _imbalance(data) for split, data in parts.items()},
        duplicates={split: int(table.loc[table["split"] == split, "repeats"].sum()) for split in parts},
        leaked=int(table["leaked"].sum()),
        near_duplicates=_near_duplicates(further, distance, {split: len(data) for split, data in parts.items()}),
        digest={split: data.digest() for split, data in parts.items()},
        expectations={outcome.name: dict(outcome.observed) for outcome in outcomes},
        reference=scale,
    )
    plots = pictures.draw(parts, raw.class_names, _SEED)
    page = review_page.page(
        dataset, parts, raw.class_names, _doubts(outcomes), further, distance, plots, _reasons(outcomes)
    )
    write_text(docs_folder / _IMAGES, page)
    return ValidationResult(dataset, passed, outcomes, report, near, plots)


def one_group(raw: RawImages, table: pd.DataFrame) -> list[str]:
    """Return a text for each class whose images in train are all copies, near duplicates or members of one group."""
    train = table[table["split"] == "train"]
    texts, names = [], naming.Names({"train": raw.train}, raw.class_names)
    for label, name in enumerate(raw.class_names):
        mine = train[train["label"] == label]
        if mine["group"].nunique() != 1:
            continue
        files = [names.image("train", index) for index in mine["index"]]
        groups = {raw.train.groups[index] for index in mine["index"]} if raw.train.groups else {""}
        one = min(groups) if len(groups) == 1 else ""
        how = f"are of the group {one!r}" if one else "are near duplicates of each other"
        listed = f"{', '.join(files[:3])}{', …' if len(files) > 3 else ''}"
        every = f"all {len(files):,} pictures of {name!r} in train {how} ({listed})"
        found = every if files[1:] else f"{name!r} has one picture in train, {listed}"
        texts.append(f"{found}: add others, or leave the class out")
    return texts


def refusal(result: ValidationResult, docs: Path) -> GateError:
    """Return the error with every failed expectation, what it found, the settings that decide, and where to look."""
    failed = [outcome for outcome in result.outcomes if outcome.stops]
    reasons = [f"({place}) {_reason(outcome)}" for place, outcome in enumerate(failed, start=1)]
    count = f"{len(failed)} reasons" if failed[1:] else "1 reason"
    return GateError(
        f"{result.dataset}: the gate refuses this data for {count}: {'; '.join(reasons)}",
        done="no report written",
        next_step=f"open {docs / _IMAGES} and {docs / 'index.html'}, or read {docs / _FAILED}",
    )


def _reason(outcome: Outcome) -> str:
    return f"{outcome.name}: expected {outcome.wanted}, found {outcome.found}"


def save(result: ValidationResult, report: Path, details: Path) -> None:
    """Write the pictures and the near duplicates into a folder, and the report last: it marks them as complete."""
    with new_folder(details) as folder:
        duplicate_pairs.save(folder / "near_duplicates.csv", result.near, result.report.images)
        (folder / "pictures").mkdir()
        for name, content in result.plots.items():
            (folder / "pictures" / f"{name}.png").write_bytes(content)
    artifacts.write(report, result.report)


def summary(result: ValidationResult, docs: Path) -> list[str]:
    """Return the messages about data that passed, a line for each warning."""
    images = sum(result.report.images.values())
    lines = [f"{result.dataset}: {images:,} images meet {len(result.outcomes)} expectations; see {docs / _IMAGES}"]
    for outcome in result.outcomes:
        if not outcome.passed:
            lines[0] = f"{result.dataset}: {images:,} images pass the gate, with warnings; see {docs / _IMAGES}"
            lines.append(f"warning: {result.dataset}: {_reason(outcome)}")
        elif outcome.unexpected_count and suites.names_all(outcome.name):
            lines.append(f"note: {result.dataset}: {outcome.name}: unlike the others, and few enough: {outcome.found}")
    return lines


def _near_duplicates(further: Pairs, distance: float, sizes: dict[str, int]) -> NearDuplicates:
    """Return the threshold, how many pairs there are up to several distances, and the nearest within the threshold."""
    counts, train = {}, sizes["train"]
    for step in _STEPS:
        some = further.within(round(distance * step, 6) + 1e-9)
        counts[f"{distance * step:.3g}"] = {
            "train": int((some.first < train).sum()),
            "test": int((some.second >= train).sum()),
            "across": int(((some.first >= train) & (some.second < train)).sum()),
        }
    listed = duplicate_pairs.rows(further.within(distance), sizes)[:_LISTED_PAIRS]
    nearest = tuple(" ".join(map(str, row)) for row in listed)
    return NearDuplicates(threshold=distance, counts=counts, pairs=nearest)


def _doubts(outcomes: tuple[Outcome, ...]) -> list[review_page.Doubt]:
    """Return what names images, what failed first; a warning and a failure about the same images are shown once."""
    states = ("failed", "warned", "allowed")
    found: dict[tuple[str, tuple[tuple[str, int], ...]], review_page.Doubt] = {}
    for state in states:
        for outcome in outcomes:
            if outcome.rows and not outcome.of_classes and _state(outcome) == state:
                doubt = review_page.Doubt(
                    outcome.name, outcome.expected, state, outcome.unexpected_count, outcome.rows, outcome.pairs
                )
                found.setdefault((outcome.column, outcome.rows), doubt)
    return list(found.values())


def _reasons(outcomes: tuple[Outcome, ...]) -> list[tuple[str, str]]:
    """Return what is not met, what stops the data first."""
    missed = sorted((outcome for outcome in outcomes if not outcome.passed), key=lambda outcome: not outcome.stops)
    return [(_state(outcome), _reason(outcome)) for outcome in missed]


def _state(outcome: Outcome) -> str:
    return "failed" if outcome.stops else "allowed" if outcome.passed else "warned"


def _per_class(data: Labelled, class_names: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(data.labels[data.labels >= 0], minlength=len(class_names))
    return {name: int(count) for name, count in zip(class_names, counts, strict=False)}


def _imbalance(data: Labelled) -> float:
    """Return the largest class over the smallest one that has images."""
    counts = np.unique(data.labels, return_counts=True)[1]
    return round(float(counts.max() / counts.min()), 4) if len(counts) else 0.0


def main() -> None:
    """Run the stage as dvc.yaml calls it."""
    parser = argparse.ArgumentParser(prog="pipeline.stages.validate", description=run.__doc__)
    parser.add_argument("--dataset", required=True, type=names.dataset)
    parser.add_argument("--raw", required=True, type=Path)
    parser.add_argument("--report", required=True, type=Path)
    parser.add_argument("--details", required=True, type=Path)
    parser.add_argument("--docs", required=True, type=Path)
    args = parser.parse_args()
    settings = params.load("validate", ValidateSettings)
    strict = read_settings(args.dataset).strict
    raw = read_raw(args.dataset, args.raw)
    args.report.unlink(missing_ok=True)  # a report of other data must not outlive a failure
    with new_folder(args.docs) as folder:
        result = run(args.dataset, raw, settings, folder, strict=strict)
        if not result.passed:
            outcomes = [dataclasses.asdict(outcome) for outcome in result.outcomes]
            failed = {**result.report.content(), "outcomes": outcomes}
            write_json(folder / _FAILED, failed)
    if not result.passed:
        raise refusal(result, args.docs)
    save(result, args.report, args.details)
    print("\n".join(summary(result, args.docs)))


if __name__ == "__main__":
    process.stage(main)
