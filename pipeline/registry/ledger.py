"""The ledger of a registered model: its decisions, numbered, written once and never changed.

Tags and aliases of MLflow are last-write-wins, so two processes that register at once cannot settle by them who is
champion. A parameter of a run can be written only once, with any number of writers. So decision n of a model is the
parameter ``decision.<n>`` of one run, the model's ledger run; its value is the decision as JSON. Of two processes that
write decision n, one succeeds; the other reads the ledger again and decides against the new champion.

A model has exactly one ledger run, because creating a registered model is atomic, too: the tag ``pipeline.ledger``,
given in that call, holds the run's id. A model of an earlier release exists already, without that tag. For it, all
processes create the same second registered model, ``<name>.ledger-<time of its creation>``, which has no versions, and
copy the tag from there. Where `mlflow gc` has removed the ledger run, a new ledger begins in the same way, under
``<name>.ledger-<id of the removed run>``, with the champion that the alias names.

The ledger is the truth. Aliases and tags of versions are copies of it; see `pipeline.registry.champions`.

Example:
    registry = Registry(tracker)
    for decision in ledger.ensure(tracker, registry, "mnist-classifier").decisions():
        print(decision.number, decision.time, decision.decision, decision.champion, decision.reason)
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import pydantic

from pipeline.artifacts.register import Decision
from pipeline.core import pydantic_errors
from pipeline.core.errors import TrackingError
from pipeline.registry.versions import RegisteredModel, Registry
from pipeline.tracking.runs import Tracker, ended_runs, load_mlflow

LEDGER = "pipeline.ledger"  # tag of a registered model: the id of its ledger run
_LEDGER_OF = "pipeline.ledger_of"  # tag of a ledger run: the name of its model
_LONGEST = 6000  # characters of a parameter in MLflow 3, which cuts what is longer
_DECISION = "decision."


@dataclass(frozen=True)
class Ledger:
    """The decisions about a registered model.

    Attributes:
        registry: The registry that has the model.
        name: The model's name.
        run_id: The ledger run.
    """

    registry: Registry
    name: str
    run_id: str

    def decisions(self) -> list[Decision]:
        """Return all decisions, the first one first.

        Raises:
            TrackingError: The ledger run is missing or deleted, or a decision cannot be read.
        """
        run = self.registry.run(self.run_id)
        if run is None or run.info.lifecycle_stage != "active":
            raise TrackingError(
                f"{self.name}: its ledger cannot be read",
                expected=f"run {self.run_id}, which holds every decision about its champion",
                found="no such run" if run is None else "a deleted run",
                next_step=f"mlflow runs restore --run-id {self.run_id}, or restore its experiment",
            )
        stored = {key: value for key, value in run.data.params.items() if key.startswith(_DECISION)}
        return [self._read(stored, number) for number in range(1, len(stored) + 1)]

    def claim(self, decision: Decision) -> bool:
        """Write a decision under its number; return False where another process has decided under that number.

        Raises:
            TrackingError: The ledger cannot be written.
        """
        key, value = f"{_DECISION}{decision.number}", decision.model_dump_json()
        if len(value) > _LONGEST:
            raise TrackingError(f"{self.name}: decision too long", expected=f"{_LONGEST} characters", found=len(value))
        try:
            self.registry.log_param(self.run_id, key, value)
        except load_mlflow().exceptions.MlflowException:
            run = self.registry.run(self.run_id)
            if run is None or key not in run.data.params:
                raise
            return bool(run.data.params[key] == value)  # equal: the answer to the first write was lost
        return True

    def _read(self, stored: dict[str, str], number: int) -> Decision:
        try:
            return Decision.model_validate_json(stored[f"{_DECISION}{number}"])
        except (KeyError, pydantic.ValidationError) as error:
            found = pydantic_errors.summary(error) if isinstance(error, pydantic.ValidationError) else "none"
            raise TrackingError(
                f"{self.name}: decision {number} cannot be read",
                expected=f"parameter {_DECISION}{number} of run {self.run_id}",
                found=found,
                next_step="a newer release of this project may have written it",
            ) from None


def find(registry: Registry, model: RegisteredModel) -> Ledger | None:
    """Return a model's ledger, None where it has none, or has lost it to `mlflow gc`; nothing is written."""
    run_id = model.tags.get(LEDGER)
    return Ledger(registry, model.name, run_id) if run_id and registry.run(run_id) else None


def ensure(tracker: Tracker, registry: Registry, name: str) -> Ledger:
    """Return the ledger of a registered model; model and ledger are created where there is none."""
    while True:
        model = registry.model(name)
        if model is not None and (known := find(registry, model)) is not None:
            return known
        holder = name if model is None else f"{name}.ledger-{model.tags.get(LEDGER) or model.created}"
        candidate = _unused_run(tracker, name)
        registry.create_model(holder, {LEDGER: candidate}, "" if model is None else f"Names the ledger run of {name}.")
        created = registry.model(holder)
        chosen = None if created is None else created.tags.get(LEDGER)
        if candidate != chosen:
            with suppress(load_mlflow().exceptions.MlflowException):  # another process has deleted it
                tracker.client.delete_run(candidate)
        if model is not None and chosen is not None:
            registry.tag_model(name, LEDGER, chosen)


def _unused_run(tracker: Tracker, name: str) -> str:
    """Return a run that can be a model's ledger: that of a call that was killed, or a new one."""
    for run in tracker.client.search_runs([tracker.experiment_id], f"tags.`{_LEDGER_OF}` = '{name}'"):
        if not run.data.params:
            if run.info.status == "RUNNING":  # the call was killed before it ended the run
                tracker.finish(run.info.run_id)
            return str(run.info.run_id)
    with ended_runs():
        return tracker.create(f"ledger of {name}", {"stage": "register", _LEDGER_OF: name}, _LEDGER_OF)
