"""Creates Optuna's samplers and pruners by their names in params."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import ParamsError
from pipeline.core.seeds import fold
from pipeline.search.enqueued import Suggest
from pipeline.search.settings import SearchSettings

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, TrialState

_STARTUP_TRIALS = 5  # random trials before an adaptive sampler starts to learn
_TRIED = 64  # random trials that show which dimensions a space has


def sampler(settings: SearchSettings, seed: int, seen: int, suggest: Suggest) -> optuna.samplers.BaseSampler:
    """Return the sampler of a study.

    A resumed study must not repeat its first points. So random samplers get a seed that depends on the number of
    existing trials. QMC follows one sequence, and the study stores the position in it, so its seed is constant.

    Args:
        settings: Settings of the search.
        seed: Seed of the study.
        seen: Number of existing trials of the study.
        suggest: The family's sampling function.

    Raises:
        ParamsError: The sampler needs a package that is not installed.
    """
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the version is pinned and tested
        return _sampler(settings, fold(seed), fold(seed + seen), suggest)


def _sampler(settings: SearchSettings, seed: int, drawn: int, suggest: Suggest) -> optuna.samplers.BaseSampler:
    import optuna

    if settings.sampler in ("random", "grid"):  # a grid's points are fixed, not sampled
        return optuna.samplers.RandomSampler(seed=drawn)
    if settings.sampler == "qmc":
        return _qmc(seed, drawn, suggest)
    if settings.sampler == "gp":
        return _gp(drawn)
    return _tpe(drawn)


def pruner(settings: SearchSettings, trial_epochs: int) -> optuna.pruners.BasePruner:
    """Return the pruner of a study; it is called at the end of each rung."""
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
        """TPE that also learns from unfinished trials; see `_comparable`."""

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
        """QMC over all dimensions of a space from the first trial on; Optuna's uses those of the first trial only."""

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
            next_step="`pipeline doctor` lists how to install it; or set tpe",
        )

    class Process(optuna.samplers.GPSampler):
        """A Gaussian process that ignores presets with values outside the space: it needs complete points."""

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
            return super().infer_relative_search_space(_without_presets(study), trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return super().sample_relative(_without_presets(study), trial, search_space)

    return Process(seed=drawn, n_startup_trials=_STARTUP_TRIALS, deterministic_objective=False)


def _without_presets(study: Any) -> Any:
    """Return a view of a study without the presets that have values outside the search space."""

    def whole(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        return [t for t in trials if set(t.user_attrs.get("hyperparameters", t.params)) == set(t.params)]

    return _View(_comparable(study), whole)


def _comparable(study: Any) -> Any:
    """Return a view of a study in which trials are compared by their values after the same number of epochs.

    Optuna's TPE ranks any complete trial above all pruned ones, and ignores waiting trials. So it would search around
    the trials that finished first. As in BOHB (Falkner et al., arXiv:1807.01774), the values are those after the
    largest number of epochs that enough trials have reached; trials with fewer epochs rank lower.
    """

    def seen(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        come = sorted((max(trial.intermediate_values) for trial in trials if _judged(trial)), reverse=True)
        epochs = come[min(_STARTUP_TRIALS, len(come)) - 1] if come else 0
        return [_after(trial, epochs) if _judged(trial) else trial for trial in trials]

    return _View(study, seen)


def _judged(trial: FrozenTrial) -> bool:
    """Return whether a trial has values to compare."""
    return bool(trial.intermediate_values) and trial.state.name != "FAIL"


def _after(trial: FrozenTrial, epochs: int) -> FrozenTrial:
    """Return a copy of a trial as it was after some epochs: complete if it reached them, otherwise pruned."""
    from optuna.trial import TrialState

    last = max(trial.intermediate_values)
    if last < epochs and trial.state == TrialState.COMPLETE:
        return trial  # it stopped early, so this is its final value
    seen = copy.copy(trial)
    seen.state = TrialState.COMPLETE if last >= epochs else TrialState.PRUNED
    seen.value = trial.intermediate_values[epochs] if last >= epochs else None
    return seen


class _View:
    """A wrapper of a study, or of a pruner's filtered study, that changes the trials that a sampler reads.

    Optuna 5 has no public hook for that: its samplers read trials by `Study._get_trials`. The public `get_trials` does
    not replace it here: it has no cache, and Hyperband's view of a study filters it by bracket.
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
    """Return the dimensions of a space, including conditional ones; of one that varies, the first distribution seen."""
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    dimensions: dict[str, BaseDistribution] = {}
    for _ in range(_TRIED):
        trial = study.ask()
        suggest(trial)
        dimensions = {**trial.distributions, **dimensions}
    return {name: found for name, found in dimensions.items() if not found.single()}
