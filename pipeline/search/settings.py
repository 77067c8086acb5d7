"""Section `search` of params: settings and budget of a search."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

import pydantic
from pydantic_core import PydanticCustomError

from pipeline.core import params
from pipeline.core.errors import ParamsError, nearest
from pipeline.executors.cluster import Cluster
from pipeline.search import lengths

Sampler = Literal["tpe", "random", "qmc", "gp", "grid"]
Engine = Literal["local", "ray"]
Pruner = Literal["halving", "hyperband", "median", "none"]

_MANY = 1_000_000  # of minutes, trials or epochs: more is a mistake, and too much for clocks and databases

# Settings that define a study. The other settings may change when a study is resumed.
_DEFINING = {"sampler", "grid_points", "presets", "pruner", "reduction", "seed", "generation", "constraints", "slots"}


def _one_of(names: Iterable[str]) -> pydantic.BeforeValidator:
    known = list(names)

    def check(value: Any) -> Any:
        if value in known:
            return value
        message = {"message": nearest(str(value), known).replace("{", "{{").replace("}", "}}")}
        raise PydanticCustomError("unknown_name", "{message}", message)

    return pydantic.BeforeValidator(check)


class Budget(params.Settings):
    """Limits of a study; it ends when it reaches the first of them and its leader has trained all its epochs.

    Time is no limit: it would make the result depend on the machine. See `SearchSettings.deadline_minutes`.

    Attributes:
        trials: Number of trials.
        epochs: Epochs, summed over all trials.
        trial_epochs: Epochs of a trial that is never pruned, and of the final training.
    """

    trials: int = pydantic.Field(ge=1, le=_MANY)
    epochs: int = pydantic.Field(ge=1, le=_MANY)
    trial_epochs: int = pydantic.Field(ge=1, le=_MANY)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _without_minutes(cls, value: Any) -> Any:
        if isinstance(value, dict) and "minutes" in value:
            raise ValueError("trials and epochs only; search.deadline_minutes limits the time of a search")
        return value

    @pydantic.model_validator(mode="after")
    def _has_room_for_one_trial(self) -> Budget:
        if self.epochs < self.trial_epochs:
            raise ValueError(f"epochs of at least trial_epochs, {self.trial_epochs}: the winner trains to its end")
        return self


class Constraints(params.Settings):
    """Upper limits of a model; None for no limit.

    Attributes:
        parameters: Number of trainable and non-trainable parameters.
        latency_ms: Median time to label one image, in milliseconds, on the worker that trained the model.
    """

    parameters: int | None = pydantic.Field(default=None, ge=1)
    latency_ms: float | None = pydantic.Field(default=None, gt=0)

    def limits(self) -> dict[str, float]:
        """Return the limits that are set, by name."""
        return {name: limit for name, limit in self.model_dump().items() if limit is not None}


class SearchSettings(params.Settings):
    """Section `search` of params; params.yaml documents the keys."""

    sampler: Annotated[Sampler, _one_of(get_args(Sampler))]
    grid_points: int = pydantic.Field(ge=1, le=10_000)
    presets: bool
    pruner: Annotated[Pruner, _one_of(get_args(Pruner))]
    reduction: int = pydantic.Field(ge=2, le=_MANY)
    seed: params.Seed
    generation: int = pydantic.Field(ge=1, le=_MANY)
    constraints: Constraints
    slots: int = pydantic.Field(ge=1, le=1024)
    deadline_minutes: float = pydantic.Field(ge=0, le=_MANY)
    budget: dict[str, Budget]
    engine: Annotated[Engine, _one_of(get_args(Engine))]
    ray: Cluster
    keep_studies: int = pydantic.Field(ge=1, le=_MANY)
    epoch_minutes: float = pydantic.Field(gt=0, le=_MANY)

    def budget_for(self, dataset: str, family: str, steps: int | None = None) -> Budget:
        """Return the most specific budget: of ``<dataset>-<family>``, of ``<dataset>``, or the default.

        Args:
            dataset: Name of the dataset.
            family: Name of the family.
            steps: Optimizer steps of an epoch; the default budget is lengthened for few; see `lengths`.
        """
        for name in (f"{dataset}-{family}", dataset):
            if name in self.budget:
                return self.budget[name]
        if "default" in self.budget:
            return self.budget["default"] if steps is None else lengths.lengthened(self.budget["default"], steps)
        raise ParamsError("search.budget has no default", expected=nearest("default", self.budget))

    def defining(self) -> dict[str, Any]:
        """Return the settings that define a study: if one changes, a new study begins."""
        return self.model_dump(include=_DEFINING)
