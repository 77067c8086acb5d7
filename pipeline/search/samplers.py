"""Proposes points with Optuna's samplers, and creates its pruners, by their names in params."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import ParamsError
from pipeline.core.seeds import fold
from pipeline.models.values import Hyperparameters
from pipeline.search.enqueued import Suggest
from pipeline.search.settings import SearchSettings

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_STARTUP_TRIALS = 5  # random trials before an adaptive sampler starts to learn
_TRIED = 64  # random trials that show which dimensions a space has


class Proposer:
    """Proposes points: a function of the study's seed, the number of the new trial and the trials before it.

    Each proposal is made by a new sampler with a seed of its own, on a copy of the trials. So a search that is resumed,
    or replayed by another number of workers, gets the same points.

    Args:
        settings: Settings of the search.
        seed: Seed of the study.
        suggest: The family's sampling function.

    Raises:
        ParamsError: The sampler needs a package that is not installed.
    """

    def __init__(self, settings: SearchSettings, seed: int, suggest: Suggest) -> None:
        self._name = settings.sampler
        self._seed = seed
        self._suggest = suggest
        self._sequence = _qmc(fold(seed), suggest) if self._name == "qmc" else None
        if self._name == "gp":
            require_torch()

    def __call__(self, trials: Sequence[FrozenTrial], attempt: int = 0) -> Hyperparameters:
        """Return the point of the next trial.

        Args:
            trials: All trials so far, in order; those in training count as pending.
            attempt: 0, or a larger number for another point than the one before.
        """
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the version is pinned and tested
            if self._sequence is not None:  # it learns nothing, and its place is the number of points taken from it
                study = self._sequence
            else:
                study = optuna.create_study(direction="maximize", sampler=self._sampler(len(trials), attempt))
                study.add_trials(self._seen(trials))
            trial = study.ask()
            point = self._suggest(trial)
        return {name: point[name] for name in trial.params}

    def _sampler(self, number: int, attempt: int) -> optuna.samplers.BaseSampler:
        import optuna

        seed = fold(_mixed(self._seed, number, attempt))
        if self._name == "tpe" and not attempt:
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=_STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True
            )
        if self._name == "gp" and not attempt:
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=_STARTUP_TRIALS, deterministic_objective=False)
        return optuna.samplers.RandomSampler(seed=seed)

    def _seen(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials as a sampler reads them: comparable, and those with values outside the space left out."""
        if self._name == "gp":  # it needs complete points
            trials = [t for t in trials if set(t.user_attrs.get("hyperparameters", t.params)) == set(t.params)]
        return _comparable(trials)


def require_torch() -> None:
    """Check that the package is installed that the sampler `gp` needs.

    Raises:
        ParamsError: It is not.
    """
    if importlib.util.find_spec("torch") is None:
        raise ParamsError(
            "search.sampler is gp, which needs PyTorch",
            expected="an installed torch",
            found="none",
            next_step="`pipeline doctor` lists how to install it; or set tpe",
        )


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


def _mixed(seed: int, number: int, attempt: int) -> int:
    """Return a seed for one proposal: neighbouring seeds and numbers share none."""
    digest = hashlib.sha256(f"{seed} {number} {attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _qmc(seed: int, suggest: Suggest) -> optuna.Study:
    """Return a study whose trials follow a scrambled sequence, from the first one on."""
    import optuna

    class Sequence(optuna.samplers.QMCSampler):
        """QMC over all dimensions of a space from the first trial on; Optuna's uses those of the first trial only."""

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
            del study, trial
            return dimensions

    dimensions = _dimensions(suggest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        independent = optuna.samplers.RandomSampler(seed=seed)
        sampler = Sequence(scramble=True, seed=seed, independent_sampler=independent, warn_independent_sampling=False)
    return optuna.create_study(sampler=sampler)


def _comparable(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return trials whose values are those after the same number of epochs.

    Optuna's TPE ranks any complete trial above all pruned ones, and ignores waiting trials. So it would search around
    the trials that finished first. As in BOHB (Falkner et al., arXiv:1807.01774), the values are those after the
    largest number of epochs that enough trials have reached; trials with fewer epochs rank lower.
    """
    reached = sorted((max(trial.intermediate_values) for trial in trials if _judged(trial)), reverse=True)
    epochs = reached[min(_STARTUP_TRIALS, len(reached)) - 1] if reached else 0
    return [_after(trial, epochs) for trial in trials]


def _judged(trial: FrozenTrial) -> bool:
    """Return whether a trial has values to compare."""
    return bool(trial.intermediate_values) and trial.state.name != "FAIL"


def _after(trial: FrozenTrial, epochs: int) -> FrozenTrial:
    """Return a copy of a trial as it was after some epochs: complete if it reached them, otherwise pruned."""
    from optuna.trial import TrialState, create_trial

    state, value = trial.state, trial.value
    if _judged(trial):
        last = max(trial.intermediate_values)
        if last >= epochs:
            state, value = TrialState.COMPLETE, trial.intermediate_values[epochs]
        elif state != TrialState.COMPLETE:  # a complete one stopped early, so its value is final
            state, value = TrialState.PRUNED, None
    return create_trial(
        state=state,
        value=value,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
        constraints=trial.constraints,
    )


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
