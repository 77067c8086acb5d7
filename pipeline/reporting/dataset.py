"""A dataset's section of the page: the decision, the leaderboard, the data, and a section for every family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.artifacts.register import Decision
from pipeline.artifacts.validate import Report
from pipeline.evaluation import base as tasks
from pipeline.evaluation.labels import Shares, Tile
from pipeline.reporting import charts, leaderboard
from pipeline.reporting.family import duration, family_section, plural
from pipeline.reporting.load_reports import OfDataset, OfFamily
from pipeline.reporting.svg import percent

_BALANCE = "balance"  # validate's plot of the images per class; the page draws its own, see `_split`


def section(
    found: OfDataset, rows: Sequence[leaderboard.Row], links: Mapping[str, str], confidence: float
) -> dict[str, Any]:
    """Return the content of a dataset's section, including its families.

    Args:
        found: The dataset's artifacts.
        rows: The dataset's rows of the leaderboard.
        links: Addresses of pages about the data, by name.
        confidence: Confidence level of the intervals.
    """
    gate = found.gate
    names = list(next(iter(gate.classes.values())))
    return {
        "name": found.name,
        "headlines": [headline(decision) for decision in found.decisions.values()],
        "tiles": _tiles(found, confidence),
        "leaderboards": _leaderboards(found, rows),
        "references": _references(found),
        "gate_summary": _gate_summary(gate),
        "links": list(links.items()),
        "pictures": [(name, source) for name, source in found.pictures if name != _BALANCE],
        "splits": [_split(gate, split) for split in gate.images],
        "expectations": [(name, _observed(observed)) for name, observed in gate.expectations.items()],
        "families": [family_section(family, names) for family in found.families],
    }


def headline(decision: Decision) -> str:
    """Return the decision about a dataset's champion as a sentence."""
    candidate = f"version {decision.version} ({decision.family})"
    if decision.decision == "promoted":
        return f"{decision.model} {candidate} is the new champion, because {decision.reason}."
    if decision.decision == "unchanged":
        return f"{decision.model} {candidate} stays the champion, because {decision.reason}."
    if not decision.champion:
        return f"{decision.model} has no champion; {candidate} is registered as challenger, because {decision.reason}."
    return (
        f"{decision.model} version {decision.champion} stays the champion, {candidate} is its challenger,"
        f" because {decision.reason}."
    )


def _tiles(found: OfDataset, confidence: float) -> list[dict[str, str]]:
    """Return the main figures of the candidates, the result of the data gate, and the total cost."""
    tiles = []
    for decision in found.decisions.values():
        candidate = next(family for family in found.families if family.name == decision.family)
        trained, task = candidate.trained, candidate.task
        tiles.append(task.tile(candidate.scored, decision.version, confidence))
        seeds = f"best of {plural(len(trained.seeds), 'seed')}, mean {task.value_text(trained.mean)}"
        if trained.standard_error is not None:
            seeds += f" ± {task.value_text(trained.standard_error)}"
        seeds += f"; {len(trained.failed)} more failed" if trained.failed else ""
        tiles.append(Tile(task.labels.value, task.value_text(trained.value), seeds))
    seconds = sum(family.searched.seconds + family.trained.added_seconds for family in found.families)
    trials = sum(len(family.trials) for family in found.families)
    tiles += [
        Tile(
            "Data gate",
            "passed",
            f"{sum(found.gate.images.values()):,} images, {len(found.gate.expectations)} expectations",
        ),
        Tile(
            "Search and training",
            duration(seconds),
            f"{plural(trials, 'trial')}, {plural(len(found.families), 'family', 'families')}",
        ),
    ]
    return [{"name": tile.name, "figure": tile.figure, "note": tile.note} for tile in tiles]


def _leaderboards(found: OfDataset, rows: Sequence[leaderboard.Row]) -> list[dict[str, Any]]:
    """Return a table per task, in the order of the families."""
    families = {family.name: family for family in found.families}
    names = dict.fromkeys(family.scored.task for family in found.families)
    return [_leaderboard(families, [row for row in rows if row.task == name]) for name in names]


def _leaderboard(families: Mapping[str, OfFamily], rows: Sequence[leaderboard.Row]) -> dict[str, Any]:
    """Return the table of one task's families; shares also have a plot of their interval."""
    task = families[rows[0].family].task
    shares = {row.family: found for row in rows if (found := task.shares(families[row.family].scored))}
    lowest, highest = (
        min((share.low for share in shares.values()), default=0),
        max((share.high for share in shares.values()), default=1),
    )
    return {
        "title": task.labels.title,
        "columns": task.labels.columns,
        "intervals": bool(shares),
        "note": task.labels.note,
        "rows": [
            {
                "family": row.family,
                "cells": task.cells(row.value, families[row.family].scored),
                **(_interval(shares[row.family], lowest, highest) if row.family in shares else {}),
                "seconds": duration(row.seconds),
                "version": row.version.removesuffix(" @champion") or "not registered",
                "champion": row.version.endswith("@champion"),
            }
            for row in rows
        ],
    }


def _references(found: OfDataset) -> list[dict[str, str]]:
    """Return the rows of reference models, each beside the family's own model."""
    ours = {family.name: family.trained.value for family in found.families}
    rows = []
    for model in found.references:
        task = tasks.load(model.task)
        rows.append(
            {
                "name": model.name,
                "what": model.title,
                "family": model.family,
                "value": model.failed or task.value_text(model.value or 0.0),
                "ours": task.value_text(ours[model.family]) if model.family in ours else "–",
                "parameters": f"{model.parameters:,}" if model.parameters else "–",
                "epochs": f"{model.epochs:,}" if model.epochs else "–",
                "seconds": duration(model.seconds) if model.epochs else "–",
            }
        )
    return rows


def _interval(share: Shares, lowest: float, highest: float) -> dict[str, Any]:
    return {
        "interval": f"{share.text(share.low)} to {share.text(share.high)}",
        "picture": charts.interval(share.low, share.right, share.high, lowest, highest),
    }


def _gate_summary(gate: Report) -> str:
    images = " and ".join(f"{count:,} {split}" for split, count in gate.images.items())
    repeats = ", ".join(f"{count:,} in {split}" for split, count in gate.duplicates.items())
    classes = len(next(iter(gate.classes.values())))
    count = len(gate.expectations)
    met = f"pass with warnings ({', '.join(gate.warnings)})" if gate.warnings else f"meet all {count} expectations"
    return (
        f"Passed: {images} images in {classes} classes {met}. Images that"
        f" repeat an earlier one of their split: {repeats}. Test images that occur in train: {gate.leaked:,}."
    )


def _split(gate: Report, split: str) -> dict[str, Any]:
    counts = gate.classes[split]
    bars = [charts.Bar(name, count, f"{count:,}") for name, count in counts.items()]
    label = f"Bars: images per class in {split}, from {min(counts.values()):,} to {max(counts.values()):,}"
    note = f"{gate.images[split]:,} images; largest class over smallest: {gate.imbalance[split]:.2f}"
    return {"name": split, "note": note, "picture": charts.bars(bars, max(counts.values()), label)}


def _observed(observed: Mapping[str, float]) -> str:
    """Return an expectation's observation as text: a range, a share of failing rows, or a count."""
    if set(observed) == {"low", "high"}:
        low, high = (f"{observed[end]:,.4g}" for end in ("low", "high"))
        return low if low == high else f"{low} to {high}"
    if set(observed) == {"unexpected"}:
        return (
            f"{percent(observed['unexpected'])} of rows do not meet it"
            if observed["unexpected"]
            else "all rows meet it"
        )
    return ", ".join(f"{value:,.4g} {name}" for name, value in observed.items()) or "nothing to check"
