"""The estimate of a search's cost, before its first rung and after it."""

from __future__ import annotations

from pathlib import Path

from pipeline.core import params
from pipeline.search import cost_estimate
from pipeline.search.settings import Budget, SearchSettings
from pipeline.search.study import rungs


def test_the_cost_of_a_search_follows_from_its_budget_and_its_first_rung() -> None:
    budget = Budget(trials=9, epochs=999, trial_epochs=9)
    settings = params.load("search", SearchSettings, Path(__file__).parents[1] / "params.yaml")
    epochs = cost_estimate.expected_epochs(budget, settings, rungs(9, 3))
    assert epochs == 9 * 1 + 4 * 2 + 4 * 6  # halving keeps a third of the trials at each rung, and the slots busy
    mnist = settings.budget_for("mnist", "mlp"), settings.budget_for("mnist", "cnn")
    assert [cost_estimate.expected_epochs(each, settings, rungs(each.trial_epochs, 3)) for each in mnist] == [62, 18]
    plain = settings.model_copy(update={"pruner": "none"})
    assert cost_estimate.expected_epochs(budget, plain, rungs(9, 3)) == 81
    unknown = cost_estimate.describe(budget, epochs, 2, None)
    assert unknown == "at most 9 trials and 999 epochs on 2 workers; a time estimate follows after the first rung"
    known = cost_estimate.describe(budget, epochs, 2, cost_estimate.Measured(2.0, 1_500_000))
    assert "about 41 epochs of 2.0 s each are expected: 41 s, 6.0 MB of checkpoints" in known
    slow = cost_estimate.describe(budget, epochs, 2, cost_estimate.Measured(60.0, 0))
    assert "expected: 20.5 min" in slow
