"""Wraps an Optuna study that is stored on disk, written by one process at a time, and resumed by later ones.

Each study has its own folder, whose name contains a hash of everything that defines the study. The study stores all
that a search needs to resume: the history of every trial, and the time spent so far.
"""

from __future__ import annotations

import math
import random
import sqlite3
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core.errors import EngineError
from pipeline.models.base import BaseFamily
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.space import Choice, Dimension
from pipeline.models.values import Hyperparameters
from pipeline.search import enqueued, samplers
from pipeline.search.asha import Halving
from pipeline.search.leader import leader, unbeaten
from pipeline.search.settings import SearchSettings
from pipeline.search.study_definition import Definition
from pipeline.search.study_store import STUDY_FILE
from pipeline.search.trials import add_epochs, history, hyperparameters, preset, stopped, table

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from optuna.trial import FrozenTrial

_ENOUGH = 4  # complete trials; with fewer, importances are noise
_FEW = 16  # a space with at most this many points is searched exhaustively, whatever the sampler
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


def rungs(total: int, reduction: int) -> list[int]:
    """Return the epochs at which rungs end: the powers of `reduction` below the total, and the total."""
    ends = []
    end = 1
    while end < total:
        ends.append(end)
        end *= reduction
    return [*ends, total]


class Study:
    """A study with the trials of all runs so far. The caller must hold the study's lock.

    Args:
        folder: Folder of the study.
        definition: Definition of the study.
        settings: Settings of the search.
        family: The model family that is searched.
    """

    def __init__(self, folder: Path, definition: Definition, settings: SearchSettings, family: BaseFamily) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.objective = family.objective
        self.total = definition.trial_epochs
        self.rungs = rungs(self.total, settings.reduction)
        self._storage = _storage(folder / STUDY_FILE)
        known = optuna.study.get_all_study_names(self._storage)
        seen = len(optuna.load_study(study_name=known[0], storage=self._storage).trials) if known else 0
        self.seed = _seed(settings.seed, settings.generation)
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=definition.name,
            direction="maximize",
            load_if_exists=True,
            sampler=samplers.sampler(settings, self.seed, seen, family.suggest),
            pruner=samplers.pruner(settings, self.total),
        )
        self.halving = Halving(self.rungs, settings.reduction if settings.pruner == "halving" else 0, self.objective)
        self._limits = settings.constraints.limits()
        self._grid = settings.sampler == "grid" or _few(family.dimensions)  # sampling would repeat points
        self._suggest = family.suggest
        self._given = self._to_give(settings)
        self._presets = self._presets_to_give(family.presets_for(definition.dataset) if settings.presets else {})
        self.elapsed_s = float(self._study.user_attrs.get("elapsed_s", 0.0))

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
        """All trials that were started, in order."""
        import optuna

        waiting = optuna.trial.TrialState.WAITING  # a kill happened between enqueueing a trial and starting it
        return [trial for trial in self._study.get_trials(deepcopy=False) if trial.state != waiting]

    def unfinished(self) -> list[optuna.Trial]:
        """Return the trials that an earlier run started but did not finish."""
        import optuna

        running = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        ids = [self._storage.get_trial_id_from_study_id_trial_number(study_id, trial.number) for trial in running]
        return [optuna.Trial(self._study, trial_id) for trial_id in ids]

    def ask(self) -> optuna.Trial | None:
        """Return a new trial with its hyperparameters; None if every point of a grid has been tried.

        With an adaptive sampler, the first trial is the centre of the space.
        """
        return self._ask(self._given, sampled=not self._grid)

    def ask_preset(self) -> optuna.Trial | None:
        """Return a new trial of a reference model; None if all have been tried."""
        return self._ask(self._presets, sampled=False)

    def _ask(self, given: Mapping[str, _Given], *, sampled: bool) -> optuna.Trial | None:
        """Return a trial of the next fixed point; if none is left, a sampled trial, or None.

        A point is enqueued just before its trial starts, so that no point is enqueued twice and no trial stays enqueued
        when the budget ends. A point that a killed search enqueued but did not start comes first.
        """
        known = [trial.user_attrs.get("given") for trial in self._study.get_trials(deepcopy=False)]
        waiting = len(known) > len(self.trials)
        name = next((name for name in given if name not in known), None)
        if name is not None and not waiting:
            point, attributes = given[name]
            self._study.enqueue_trial(dict(point), {"given": name, **attributes})
        elif not sampled and not waiting:
            return None
        trial = self._study.ask()
        self.suggest(trial)
        return trial

    def suggest(self, trial: optuna.Trial) -> None:
        """Set a trial's hyperparameters; existing ones are kept."""
        preset = trial.user_attrs.get("hyperparameters")
        self._suggest(trial if preset is None else enqueued.FixedTrial(trial, preset))

    def _to_give(self, settings: SearchSettings) -> dict[str, _Given]:
        """Return the fixed points to try before sampling, by name, with the attributes of their trials."""
        if self._grid:
            found = enqueued.grid(self._suggest, settings.grid_points)
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

    def epoch_s(self, trial: optuna.Trial | FrozenTrial | None = None) -> float:
        """Return the seconds per epoch of a trial, or of the other trials if it has no epoch yet; 0 if unknown."""
        own: Sequence[EpochMetrics] = history(trial) if trial is not None else ()
        known = list(own[-1:]) or [history(other)[-1] for other in self.trials if history(other) and not preset(other)]
        return statistics.median(epoch.seconds for epoch in known) if known else 0.0

    def record(self, trial: optuna.Trial, epochs: Sequence[EpochMetrics]) -> None:
        """Add the epochs of a finished rung to a trial, and report them to the pruner.

        The history is written first, in one write. The pruner's values derive from it, so the next run can report them
        again after a kill between the two steps.
        """
        add_epochs(trial, epochs)
        self.report(trial)

    def report(self, trial: optuna.Trial) -> None:
        """Report a trial's new epochs and constraint values to the pruner and the sampler."""
        known = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for epoch in history(trial):
            if epoch.epoch not in known:
                trial.report(epoch[self.objective], epoch.epoch)
        for name, limit in self._limits.items():
            if name in trial.user_attrs and name not in trial.constraints:
                trial.set_constraint(name, trial.user_attrs[name] / limit - 1)

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

    def spend(self, seconds: float) -> None:
        """Add wall time to the study's elapsed time."""
        self.elapsed_s += seconds
        self._study.set_user_attr("elapsed_s", round(self.elapsed_s, 1))

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
        return optuna.importance.get_param_importances(self._study)

    def table(self) -> pd.DataFrame:
        """Return one row per trial; see `trials.table`."""
        return table(self.trials, self.objective)


def _judged(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that have a value and have not failed, including unfinished ones."""
    return [trial for trial in trials if history(trial) and trial.state.name != "FAIL"]


def _few(dimensions: Mapping[str, Dimension]) -> bool:
    """Return whether a space has so few points that all of them can be tried."""
    choices = [dimension.choices for dimension in dimensions.values() if isinstance(dimension, Choice)]
    return len(choices) == len(dimensions) and math.prod(map(len, choices)) <= _FEW


def _storage(path: Path) -> optuna.storages.BaseStorage:
    """Open a study's database in a mode in which a write takes 1 ms instead of a disk's 20 ms.

    SQLite syncs the write-ahead log at checkpoints only. A kill loses no write. A power failure may lose the last
    writes; they are restored from the finished rungs on disk.
    """
    import optuna

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"creator": connect})


def _seed(seed: int, generation: int) -> int:
    return seed + 1_000_003 * (generation - 1)  # generations must not share seeds, however many trials one has
