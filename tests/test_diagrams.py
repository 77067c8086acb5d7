"""Pictures of searches, of the odd ones, too; and what is told of their cost."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState
from PIL import Image

from pipeline.core import params
from pipeline.search import cost_estimate, plots
from pipeline.search.plot_axes import Scale
from pipeline.search.settings import Budget, SearchSettings
from pipeline.search.study import rungs

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


def test_the_timeline_tells_training_from_waiting() -> None:
    one = trial(1, "complete", [0.5, 0.9])
    assert one.datetime_start is not None
    assert plots._trained(one, one.datetime_start.timestamp()) == [(3.0, 1.0), (7.0, 1.0)]


def test_of_many_hyperparameters_those_that_matter_are_drawn_in_pictures_that_fit_a_page() -> None:
    points = [{f"dimension_{d}": number * d for d in range(40)} for number in range(3)]
    many = [trial(number, "complete", [0.5 + number / 10], **point) for number, point in enumerate(points)]
    importances = {f"dimension_{d}": d / 780 for d in range(40)}
    for content in plots.draw(many, "val_accuracy", 2, importances).values():
        assert max(Image.open(io.BytesIO(content)).size) <= 1300
    assert plots._weightiest(list(importances), importances, 2) == ["dimension_38", "dimension_39"]


def test_another_metric_than_a_share_is_drawn_too() -> None:
    kids = [trial(n, "complete", [0.3]) for n in range(2)]
    for one, value in zip(kids, (-0.31, -12.5), strict=True):
        one.user_attrs["history"][0]["val_kid"] = value
    assert set(plots.draw(kids, "val_kid", 0, {})) == {"history", "curves", "timeline"}


def test_values_are_placed_by_size_and_factors_evenly_where_they_span_many() -> None:
    scale = Scale.of([1e-4, 1e-3, 1e-2, 1.0])
    assert [scale(value) for value in (1e-4, 1e-2, 1.0)] == pytest.approx([0, 0.5, 1])
    assert [told for _, told in scale.marks] == ["0.0001", "0.01", "1"]
    assert Scale.of([True, False])(True) != Scale.of([True, False])(False)
    assert Scale.of([1, True, 1.0]).marks != Scale.of([1]).marks


def test_the_cost_of_a_search_is_told_from_budget_and_first_rung() -> None:
    budget = Budget(trials=9, epochs=999, minutes=5, trial_epochs=9)
    settings = params.load("search", SearchSettings, Path(__file__).parents[1] / "params.yaml")
    epochs = cost_estimate.expected_epochs(budget, settings, rungs(9, 3))
    assert epochs == 9 * 1 + 3 * 2 + 1 * 6  # halving keeps a third of the trials at each rung
    unknown = cost_estimate.told(budget, epochs, 2, None)
    assert (
        unknown == "at most 9 trials, 999 epochs and 5 min on 2 workers; the first rung will tell how long that takes"
    )
    known = cost_estimate.told(budget, epochs, 2, cost_estimate.Measured(2.0, 1_500_000))
    assert "about 21 epochs of 2.0 s each are expected: 21 s, 6.0 MB of checkpoints" in known
    slow = cost_estimate.told(budget, epochs, 2, cost_estimate.Measured(600.0, 0))
    assert "expected: 5.0 min" in slow  # time is a limit, too
