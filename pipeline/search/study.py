"""A study in memory: its trials, how they compare, and which point comes next.

It holds nothing of its own: the scheduler rebuilds it from the recorded results of rungs; see `rung_results`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core.errors import EngineError
from pipeline.core.files import new_file
from pipeline.models.base import BaseFamily
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.values import Hyperparameters
from pipeline.search import enqueued, lengths, samplers
from pipeline.search.asha import Halving
from pipeline.search.leader import leader, unbeaten
from pipeline.search.settings import SearchSettings
from pipeline.search.study_definition import Definition
from pipeline.search.study_store import STUDY_FILE
from pipeline.search.trials import add_epochs, history, hyperparameters, preset, stopped, table, timings

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from optuna.trial import FrozenTrial

_ENOUGH = 4  # complete trials; with fewer, importances are noise
_FEW = 16  # a space with at most this many points is searched exhaustively, whatever the sampler
_ATTEMPTS = 20  # at another point, where a proposed one was tried; then any that was not
_Given = tuple[Hyperparameters, dict[str, Any]]


@dataclass(frozen=True)
class Best:
    """The best trial and its objective on validation data."""

    number: int
    hyperparameters: Hyperparameters
    value: float


@dataclass(frozen=True)
class StudyStatus:
    """Progress of a study: trials by state, epochs summed over all trials, and the best trial so far."""

    counts: dict[str, int]
    epochs: int
    best: Best | None

    @property
    def ended(self) -> int:
        """Number of trials that have ended."""
        return sum(count for state, count in self.counts.items() if state != "running")


def rungs(total: int, reduction: int, first: int = 1) -> list[int]:
    """Return the epochs at which rungs end: `first` times the powers of `reduction` below the total, and the total."""
    ends = []
    end = first
    while end < total:
        ends.append(end)
        end *= reduction
    return [*ends, total]


class Study:
    """A study with the trials of a search.

    Args:
        folder: Folder of the study.
        definition: Definition of the study.
        settings: Settings of the search.
        family: The model family that is searched.
        steps: Optimizer steps of an epoch, at least; see `lengths.steps_per_epoch`.
    """

    def __init__(
        self, folder: Path, definition: Definition, settings: SearchSettings, family: BaseFamily, steps: int
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.objective = family.objective
        self.device = definition.device
        self.total = definition.trial_epochs
        self.rungs = rungs(self.total, settings.reduction, lengths.first_rung(steps))
        self.seed = _seed(settings.seed, settings.generation)
        self._study = optuna.create_study(
            study_name=definition.name, direction="maximize", pruner=samplers.pruner(settings, self.total)
        )
        self.halving = Halving(self.rungs, settings.reduction if settings.pruner == "halving" else 0, self.objective)
        self._limits = settings.constraints.limits()
        points = enqueued.finite(family.dimensions)
        self._few = points is not None and points <= _FEW  # sampling would repeat points
        self._grid = settings.sampler == "grid" or self._few
        self._finite = points is not None and points <= enqueued.MOST_POINTS
        self._suggest = family.suggest
        self._propose = samplers.Proposer(settings, self.seed, family.suggest)
        self._given = self._to_give(settings)
        self._presets = self._presets_to_give(family.presets_for(definition.dataset) if settings.presets else {})

    @property
    def points(self) -> int | None:
        """Number of possible trials if all points are fixed and none is sampled; None for no limit."""
        return len(self._given) + len(self._presets) if self._grid else None

    @property
    def presets(self) -> int:
        """Number of reference models that the study may try in addition to sampled points."""
        return len(self._presets)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, in order."""
        return self._study.get_trials(deepcopy=False)

    def seed_of(self, number: int) -> int:
        """Return the seed with which the trial with a number is trained."""
        return self.seed + max(0, number)

    @property
    def centre(self) -> Hyperparameters:
        """The middle of the space."""
        return enqueued.centre(self._suggest)

    def ask(self) -> optuna.Trial | None:
        """Return a new trial with its hyperparameters; None if every point of a grid or finite space has been tried.

        With an adaptive sampler, the first trial is the centre of the space.
        """
        if (given := self._next_of(self._given)) is not None:
            return given
        point = None if self._grid else self._new_point()
        return None if point is None else self._begin(point, {})

    def ask_preset(self) -> optuna.Trial | None:
        """Return a new trial of a reference model; None if all have been tried."""
        return self._next_of(self._presets)

    def _next_of(self, given: Mapping[str, _Given]) -> optuna.Trial | None:
        known = {trial.user_attrs.get("given") for trial in self.trials}
        name = next((name for name in given if name not in known), None)
        if name is None:
            return None
        point, attributes = given[name]
        return self._begin(point, {"given": name, **attributes})

    def _begin(self, point: Mapping[str, Any], attributes: Mapping[str, Any]) -> optuna.Trial:
        self._study.enqueue_trial(dict(point), dict(attributes))
        trial = self._study.ask()
        preset = trial.user_attrs.get("hyperparameters")
        self._suggest(trial if preset is None else enqueued.FixedTrial(trial, preset))
        return trial

    def _new_point(self) -> Hyperparameters | None:
        """Return a point that was not tried; in a space that goes on for ever, a sampler proposes no point twice."""
        point = self._propose(self.trials)
        if not self._finite:
            return point
        tried = [hyperparameters(trial) for trial in self.trials]
        for attempt in range(1, _ATTEMPTS):
            if point not in tried:
                return point
            point = self._propose(self.trials, attempt)
        return next((point for point in enqueued.grid(self._suggest, None) if point not in tried), None)

    def _to_give(self, settings: SearchSettings) -> dict[str, _Given]:
        """Return the fixed points to try before sampling, by name, with the attributes of their trials."""
        if self._grid:
            found = enqueued.grid(self._suggest, None if self._few else settings.grid_points)
            order = random.Random(self.seed).sample(range(len(found)), len(found))  # a budget may cut the grid short
            return {f"grid {place}": (found[place], {}) for place in order}
        if settings.sampler in ("tpe", "gp"):  # they start at random; the centre is usually a good guess
            return {"centre": (enqueued.centre(self._suggest), {})}
        return {}

    def _presets_to_give(self, presets: Mapping[str, Hyperparameters]) -> dict[str, _Given]:
        """Return the points of reference models, by name, with the attributes of their trials."""
        return {
            f"preset {name}": (point, {"preset": name, "hyperparameters": dict(point)})
            for name, point in presets.items()
        }

    def next_rung(self, trial: optuna.Trial) -> tuple[int, int] | None:
        """Return the first and last epoch of a trial's next rung; None if the trial is complete."""
        if stopped(trial):
            return None
        start = len(history(trial))
        return next(((start, end) for end in self.rungs if end > start), None)

    def contenders(self, trials: Sequence[FrozenTrial] | None = None) -> list[FrozenTrial]:
        """Return the trials, of all or of those passed, that have a value, have not failed, and meet the limits."""
        return [trial for trial in _judged(self.trials if trials is None else trials) if not self.violation(trial)]

    def leader(self, trials: Sequence[FrozenTrial] | None = None) -> FrozenTrial | None:
        """Return the trial that would win if the search ended now; see `pipeline.search.leader`."""
        return leader(self.contenders(trials), self.rungs[0], self.total, self.objective)

    def lost(self, trial: optuna.Trial) -> bool:
        """Return whether a trial is a reference model that another trial has beaten; it gets no further rung."""
        if not preset(trial) or not history(trial):
            return False
        return trial.number not in {t.number for t in unbeaten(self.contenders(), self.total, self.objective)}

    def whole(self) -> int:
        """Return the expected number of epochs of a whole trial: the most that a complete trial has trained."""
        ended = [len(history(trial)) for trial in self.trials if trial.state.name == "COMPLETE"]
        return max(ended, default=self.total)

    def record(self, trial: optuna.Trial, epochs: Sequence[EpochMetrics], measured: Mapping[str, Any]) -> None:
        """Add the result of a rung to a trial, and report its values to the pruner and its constraints.

        Args:
            trial: The trial.
            epochs: The epochs of the rung.
            measured: What was measured of the model, and where it was trained.
        """
        for name, value in measured.items():
            trial.set_user_attr(name, value)
        add_epochs(trial, epochs)
        for epoch in epochs:
            trial.report(epoch[self.objective], epoch.epoch)
        for name, limit in self._limits.items():
            if name in measured and name not in trial.constraints:
                trial.set_constraint(name, measured[name] / limit - 1)

    def violation(self, trial: optuna.Trial | FrozenTrial) -> str:
        """Return the limits of `search.constraints` that a trial's model exceeds, as text; empty if it meets all."""
        over = [name for name, limit in self._limits.items() if trial.user_attrs.get(name, 0) > limit]
        return ", ".join(
            f"{name} {trial.user_attrs[name]:,.6g} over the limit {self._limits[name]:,.6g}" for name in over
        )

    def tell(
        self, trial: optuna.Trial, state: Literal["complete", "pruned", "failed"], reason: str = ""
    ) -> FrozenTrial:
        """End a trial; the value of a complete one is its objective after the last epoch."""
        import optuna

        if reason:
            trial.set_user_attr("reason", reason)
        if state == "complete":
            return self._study.tell(trial, history(trial)[-1][self.objective])
        ended = {"pruned": optuna.trial.TrialState.PRUNED, "failed": optuna.trial.TrialState.FAIL}
        return self._study.tell(trial, state=ended[state])

    def status(self) -> StudyStatus:
        """Return the progress of the study. It reads every trial, so do not call it for each event."""
        trials = self.trials
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
        counted = Counter(names[trial.state.name] for trial in trials)
        counts = {name: counted[name] for name in names.values()}
        return StudyStatus(counts, sum(len(history(trial)) for trial in trials), self._best(trials))

    def epochs(self) -> int:
        """Return the number of epochs of all trials together."""
        return sum(len(history(trial)) for trial in self.trials)

    def _best(self, trials: Sequence[FrozenTrial]) -> Best | None:
        best = self.leader(trials)
        if best is None:
            return None
        return Best(best.number, hyperparameters(best), history(best)[-1][self.objective])

    def require_best(self) -> Best:
        """Return the best trial.

        Raises:
            EngineError: No trial finished a rung (the error gives the most common reason), or none meets the limits.
        """
        trials = self.trials
        best = self._best(trials)
        if best is None and (judged := _judged(trials)):
            nearest = min(judged, key=lambda trial: max(trial.constraints.values()))
            raise EngineError(
                f"{self._study.study_name}: no trial keeps to search.constraints",
                expected=", ".join(f"{name} at most {limit:,.6g}" for name, limit in self._limits.items()),
                found=f"{self.violation(nearest)}, in the trial that comes nearest",
                next_step="raise the limits, or narrow the family's space to smaller models",
            )
        if best is None:
            reasons = [str(trial.user_attrs.get("reason", "no reason known")) for trial in trials]
            commonest = max(set(reasons), key=reasons.count) if reasons else "no trial was started"
            raise EngineError(
                f"{self._study.study_name}: every trial failed",
                expected="at least one trained trial",
                found=f"{len(reasons)} failed, most with: {commonest}",
                next_step="narrow the search space in params.yaml, or see the failed runs in MLflow",
            )
        return best

    def importances(self) -> dict[str, float]:
        """Return the share of the variance that each hyperparameter explains; empty if too few trials differ."""
        import optuna

        complete = [trial for trial in self.trials if trial.state.name == "COMPLETE"]
        if len(complete) < _ENOUGH or len({trial.value for trial in complete}) == 1:
            return {}
        found = optuna.importance.get_param_importances(self._study)
        # Optuna walks through sets, whose order differs from process to process.
        return dict(sorted(((name, round(share, 6)) for name, share in found.items()), key=lambda item: item[::-1]))

    def table(self) -> pd.DataFrame:
        """Return one row per trial; see `trials.table`."""
        return table(self.trials, self.objective)

    def timings(self) -> pd.DataFrame:
        """Return the seconds and the worker of every trial; see `trials.timings`."""
        return timings(self.trials)

    def save_database(self) -> None:
        """Write the study to a database in its folder, for Optuna's dashboard; nothing here reads it."""
        import optuna

        with new_file(self.folder / STUDY_FILE) as partial:
            storage = optuna.storages.RDBStorage(f"sqlite:///{partial}")
            copy = optuna.create_study(storage=storage, study_name=self._study.study_name, direction="maximize")
            copy.add_trials(self.trials)
            storage.engine.dispose()


def _judged(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that have a value and have not failed, including unfinished ones."""
    return [trial for trial in trials if history(trial) and trial.state.name != "FAIL"]


def _seed(seed: int, generation: int) -> int:
    return seed + 1_000_003 * (generation - 1)  # generations must not share seeds, however many trials one has
