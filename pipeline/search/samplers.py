"""Samplers and pruners of Optuna by the names that params use."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import ParamsError
from pipeline.search.enqueued import Suggest
from pipeline.search.settings import SearchSettings

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, TrialState

_STARTUP_TRIALS = 5  # at random, before a sampler that learns has something to learn from
_TRIED = 64  # random trials that show which dimensions a space has


def sampler(settings: SearchSettings, seed: int, seen: int, suggest: Suggest) -> optuna.samplers.BaseSampler:
    """Return the sampler of a study.

    A resumed study must not be proposed its first points again. Samplers that draw get a seed that depends on the
    trials seen so far; QMC walks one sequence, whose place the study keeps, so its seed stays.

    Args:
        settings: Which sampler.
        seed: Seed of the study.
        seen: Trials that the study has already.
        suggest: How the family samples.

    Raises:
        ParamsError: The sampler needs a package that is not installed.
    """
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the pinned version is what we test
        return _sampler(settings, seed, seed + seen, suggest)


def _sampler(settings: SearchSettings, seed: int, drawn: int, suggest: Suggest) -> optuna.samplers.BaseSampler:
    import optuna

    if settings.sampler in ("random", "grid"):  # a grid's points are given, not sampled
        return optuna.samplers.RandomSampler(seed=drawn)
    if settings.sampler == "qmc":
        return _qmc(seed, drawn, suggest)
    if settings.sampler == "gp":
        return _gp(drawn)
    return _tpe(drawn)


def pruner(settings: SearchSettings, trial_epochs: int) -> optuna.pruners.BasePruner:
    """Return the pruner of a study; it is asked at the end of each rung."""
    from optuna import pruners

    by_name: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
        "halving": pruners.NopPruner,  # trials wait instead, see pipeline/search/asha.py
        "hyperband": lambda: pruners.HyperbandPruner(
            min_resource=1, max_resource=trial_epochs, reduction_factor=settings.reduction
        ),
        "median": lambda: pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS),
        "none": pruners.NopPruner,
    }
    return by_name[settings.pruner]()


def _tpe(drawn: int) -> optuna.samplers.BaseSampler:
    import optuna

    class Tree(optuna.samplers.TPESampler):
        """TPE that learns from trials on their way, too; see `_comparable`."""

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
            return super().infer_relative_search_space(_comparable(study), trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return super().sample_relative(_comparable(study), trial, search_space)

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return super().sample_independent(_comparable(study), trial, param_name, param_distribution)

    return Tree(seed=drawn, n_startup_trials=_STARTUP_TRIALS, multivariate=True, group=True)


def _qmc(seed: int, drawn: int, suggest: Suggest) -> optuna.samplers.BaseSampler:
    import optuna

    class Sequence(optuna.samplers.QMCSampler):
        """QMC over all dimensions of a space from the first trial on; Optuna's goes by those of the first trial."""

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
            del study, trial
            return dimensions

    dimensions = _dimensions(suggest)
    independent = optuna.samplers.RandomSampler(seed=drawn)
    return Sequence(scramble=True, seed=seed, independent_sampler=independent, warn_independent_sampling=False)


def _gp(drawn: int) -> optuna.samplers.BaseSampler:
    import optuna

    if importlib.util.find_spec("torch") is None:
        raise ParamsError(
            "search.sampler is gp, which needs PyTorch",
            expected="an installed torch",
            found="none",
            next_step="`pipeline doctor` says how to install it; or take tpe",
        )

    class Process(optuna.samplers.GPSampler):
        """A Gaussian process that leaves out presets with values outside of the space: it knows whole points only."""

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
            return super().infer_relative_search_space(_without_presets(study), trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return super().sample_relative(_without_presets(study), trial, search_space)

    return Process(seed=drawn, n_startup_trials=_STARTUP_TRIALS, deterministic_objective=False)


def _without_presets(study: Any) -> Any:
    """Return a view of a study that lacks the presets of which the sampler was told in part."""

    def whole(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        return [t for t in trials if set(t.user_attrs.get("hyperparameters", t.params)) == set(t.params)]

    return _View(_comparable(study), whole)


def _comparable(study: Any) -> Any:
    """Return a view of a study in which trials compare by what they had after the same number of epochs.

    Optuna's TPE takes any complete trial for better than all pruned ones, and trials that wait it does not see at all.
    So it would search around whatever came to its end first. As BOHB does (Falkner et al., arXiv:1807.01774), values
    count after the most epochs that enough trials have come to; those that have come less far are worth less.
    """

    def seen(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        come = sorted((max(trial.intermediate_values) for trial in trials if _judged(trial)), reverse=True)
        epochs = come[min(_STARTUP_TRIALS, len(come)) - 1] if come else 0
        return [_after(trial, epochs) if _judged(trial) else trial for trial in trials]

    return _View(study, seen)


def _judged(trial: FrozenTrial) -> bool:
    """Tell whether a trial has values to compare."""
    return bool(trial.intermediate_values) and trial.state.name != "FAIL"


def _after(trial: FrozenTrial, epochs: int) -> FrozenTrial:
    """Return a trial as if it were judged after some epochs: complete if it came so far, else pruned."""
    from optuna.trial import TrialState

    last = max(trial.intermediate_values)
    if last < epochs and trial.state == TrialState.COMPLETE:
        return trial  # it stopped early: it has come as far as it would
    seen = copy.copy(trial)
    seen.state = TrialState.COMPLETE if last >= epochs else TrialState.PRUNED
    seen.value = trial.intermediate_values[epochs] if last >= epochs else None
    return seen


class _View:
    """A study, or what Optuna's pruners make of one, whose trials a sampler sees changed.

    Optuna 5 has no public hook for that: its samplers read trials by `Study._get_trials`. Nor would the public
    `get_trials` do to read them here: it has no cache, and Hyperband's view of a study filters it by bracket.
    """

    def __init__(self, study: Any, change: Callable[[list[FrozenTrial]], list[FrozenTrial]]) -> None:
        self._seen = study
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seen, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        changed = self._change(self._seen._get_trials(deepcopy, None, use_cache))
        return changed if states is None else [trial for trial in changed if trial.state in states]

    get_trials = _get_trials


def _dimensions(suggest: Suggest) -> dict[str, BaseDistribution]:
    """Return the dimensions of a space, conditional ones included; where one changes by condition, as first seen."""
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    dimensions: dict[str, BaseDistribution] = {}
    for _ in range(_TRIED):
        trial = study.ask()
        suggest(trial)
        dimensions = {**trial.distributions, **dimensions}
    return {name: found for name, found in dimensions.items() if not found.single()}
