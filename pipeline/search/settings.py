"""Section `search` of params: settings and budget of a search."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

import pydantic
from pydantic_core import PydanticCustomError

from pipeline.core import params
from pipeline.core.errors import ParamsError, nearest
from pipeline.executors.cluster import Cluster

Sampler = Literal["tpe", "random", "qmc", "gp", "grid"]
Engine = Literal["local", "ray"]
Pruner = Literal["halving", "hyperband", "median", "none"]

_MANY = 1_000_000  # of minutes, trials or epochs: more is a mistake, and too much for clocks and databases

# Settings that define a study. The other settings may change when a study is resumed.
_DEFINING = {"sampler", "grid_points", "presets", "pruner", "reduction", "seed", "generation", "constraints"}


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

    Attributes:
        trials: Number of trials.
        epochs: Epochs, summed over all trials.
        minutes: Wall time, summed over all processes that worked on the study. No rung starts that is expected to end
            more than 5 % later, except the remaining rungs of the leader.
        trial_epochs: Epochs of a trial that is never pruned, and of the final training.
    """

    trials: int = pydantic.Field(ge=1, le=_MANY)
    epochs: int = pydantic.Field(ge=1, le=_MANY)
    minutes: float = pydantic.Field(gt=0, le=_MANY)
    trial_epochs: int = pydantic.Field(ge=1, le=_MANY)

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
    budget: dict[str, Budget]
    engine: Annotated[Engine, _one_of(get_args(Engine))]
    ray: Cluster
    keep_studies: int = pydantic.Field(ge=1, le=_MANY)
    epoch_minutes: float = pydantic.Field(gt=0, le=_MANY)

    def budget_for(self, dataset: str, family: str) -> Budget:
        """Return the most specific budget: of ``<dataset>-<family>``, of ``<dataset>``, or the default."""
        for name in (f"{dataset}-{family}", dataset, "default"):
            if name in self.budget:
                return self.budget[name]
        raise ParamsError("search.budget has no default", expected=nearest("default", self.budget))

    def defining(self) -> dict[str, Any]:
        """Return the settings that define a study: if one changes, a new study begins."""
        return self.model_dump(include=_DEFINING)
