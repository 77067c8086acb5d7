"""Pictures of a search, as PNG, of unusual searches too."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState
from PIL import Image

from pipeline.search import plots
from pipeline.search.plot_axes import Scale

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def trial(number: int, state: str, values: list[float], **point: Any) -> FrozenTrial:
    began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=10 * number)
    history = [
        {"epoch": e, "val_accuracy": v, "seconds": 1.0, "at": began.timestamp() + 4 * e}
        for e, v in enumerate(values, 1)
    ]
    return FrozenTrial(
        number=number, trial_id=number, state=STATES[state], value=values[-1] if state == "complete" else None,
        datetime_start=began, datetime_complete=began + timedelta(seconds=15), params={}, distributions={},
        user_attrs={"history": history, "hyperparameters": point}, system_attrs={}, intermediate_values={},
    )  # fmt: skip


USUAL = [
    trial(0, "complete", [0.5, 0.9], rate=1e-3, units=64, norm=True),
    trial(1, "failed", [], rate=9.0, units=64, norm=True),
    trial(2, "pruned", [0.3], rate=1e-2, units=256, norm=False, momentum=0.9),
    trial(3, "complete", [0.6, 0.95], rate=5e-3, units=128, norm=True),
]


@pytest.mark.parametrize(
    ("trials", "names"),
    [
        (USUAL, {"history", "curves", "parallel", "slices", "timeline", "importances"}),
        (USUAL[:1], {"history", "curves", "timeline", "importances"}),
        ([trial(0, "pruned", [1.0], units=1), trial(1, "pruned", [1.0], units=1)],
         {"history", "curves", "timeline", "importances"}),
        ([trial(0, "complete", [0.0], a=None), trial(1, "complete", [0.0], a="x")],
         {"history", "curves", "parallel", "slices", "timeline", "importances"}),
    ],
)  # fmt: skip
def test_every_search_can_be_drawn_and_the_same_one_gives_the_same_bytes(
    trials: list[FrozenTrial], names: set[str]
) -> None:
    pictures = plots.draw(trials, "val_accuracy", 0, {"rate": 0.9, "units": 0.1})
    assert set(pictures) == names
    assert plots.draw(trials, "val_accuracy", 0, {"rate": 0.9, "units": 0.1}) == pictures
    for content in pictures.values():
        image = Image.open(io.BytesIO(content))
        assert image.width >= 600
        assert len(image.convert("L").getcolors() or [0] * 300) > 5  # something is drawn on it


def stretches(png: bytes, colour: tuple[int, int, int], tall: int) -> list[tuple[int, int]]:
    """Return the ranges of columns in which at least `tall` pixels have about a colour."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int)
    columns = (np.abs(pixels - colour).max(axis=2) < 24).sum(axis=0) >= tall
    edges = np.flatnonzero(np.diff(np.concatenate([[0], columns.astype(int), [0]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def test_the_timeline_draws_bars_while_a_trial_trains_and_a_thin_line_while_it_waits() -> None:
    picture = plots.draw([trial(0, "complete", [0.5, 0.9])], "val_accuracy", 0, {})["timeline"]
    bars = stretches(picture, (0x11, 0x70, 0x3F), tall=10)
    assert len(bars) == 2, "it trained from second 3 to 4 and from 7 to 8 of its 15 seconds"
    (first, waits), (again, end) = bars
    second = waits - first
    assert second > 20
    assert end - again == pytest.approx(second, abs=2)
    assert again - waits == pytest.approx(3 * second, rel=0.1)  # a bar has an edge of a pixel on each side


def drawn(dimensions: range) -> dict[str, bytes]:
    """Draw a search of so many hyperparameters, of which the last ones are the most important."""
    points = [{f"dimension_{d}": number * d for d in dimensions} for number in range(3)]
    trials = [trial(number, "complete", [0.5 + number / 10], **point) for number, point in enumerate(points)]
    return plots.draw(trials, "val_accuracy", 2, {f"dimension_{d}": d / 780 for d in dimensions})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("parallel", 30), ("slices", 28), ("importances", 28)])
def test_of_many_hyperparameters_only_the_most_important_are_drawn(name: str, least: int) -> None:
    picture = drawn(range(40))[name]
    assert max(Image.open(io.BytesIO(picture)).size) <= 1300
    assert picture == drawn(range(least, 40))[name]
    assert picture != drawn(range(least + 1, 40))[name]


def test_another_metric_than_a_share_is_drawn_too() -> None:
    kids = [trial(n, "complete", [0.3]) for n in range(2)]
    for one, value in zip(kids, (-0.31, -12.5), strict=True):
        one.user_attrs["history"][0]["val_kid"] = value
    assert set(plots.draw(kids, "val_kid", 0, {})) == {"history", "curves", "timeline"}


def test_values_are_placed_by_size_and_factors_evenly_where_they_span_many() -> None:
    scale = Scale.of([1e-4, 1e-3, 1e-2, 1.0])
    assert [scale(value) for value in (1e-4, 1e-2, 1.0)] == pytest.approx([0, 0.5, 1])
    assert [text for _, text in scale.marks] == ["0.0001", "0.01", "1"]
    assert Scale.of([True, False])(True) != Scale.of([True, False])(False)
    assert Scale.of([1, True, 1.0]).marks != Scale.of([1]).marks
