"""Who is champion of a registered model, whether it can compete, and aliases that follow the ledger.

Loading a model of MLflow runs code that is stored with it. So a champion counts only if a run of this project trained
it: its version has the run's tag ``pipeline.key``, or the run has, for versions of earlier releases. This is checked
before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.artifacts.register import Decision
from pipeline.core.errors import TrackingError
from pipeline.registry import ledger as ledgers
from pipeline.registry.loading import has_files, no_competitor
from pipeline.registry.versions import CHALLENGER, CHAMPION, RegisteredModel, Registry, Version
from pipeline.tracking.runs import KEY

UNUSABLE = "pipeline.unusable"  # tag of a version: why evaluate could not load it, or got no predictions from it


class ForeignModelError(TrackingError):
    """A registered model or its champion is not of this project."""


@dataclass(frozen=True)
class Standing:
    """The state of a registered model.

    Attributes:
        champion: Number of the champion's version; None if there is no champion.
        version: The version; None if there is none, or it was deleted.
        fault: Why the champion cannot compete; empty if it can.
        decisions: All decisions of the ledger, the first one first.
    """

    champion: str | None = None
    version: Version | None = None
    fault: str = ""
    decisions: Sequence[Decision] = ()

    @property
    def competes(self) -> bool:
        """Whether there is a champion that a candidate must beat."""
        return self.version is not None and not self.fault


def standing(registry: Registry, name: str) -> Standing:
    """Return who is champion of a registered model and whether it can compete; bring its aliases up to date.

    Raises:
        ForeignModelError: The model or its champion is not of this project.
        TrackingError: The registry cannot be read.
    """
    model = registry.model(name)
    if model is None:
        return Standing()
    ledger = ledgers.find(registry, model)
    decisions = _settle(registry, ledger) if ledger else []
    decided = decisions[-1].champion if decisions else 0
    if not decided:
        _require_own(registry, model)
    aliased = model.aliases.get(CHAMPION)
    number = str(decided) if decided else aliased
    if number is None:
        return Standing(decisions=decisions)
    version = registry.numbered(name, number)
    if version is None and aliased is not None:  # a person has deleted the champion and chosen another version
        number, version = aliased, registry.numbered(name, aliased)
    return Standing(number, version, _fault(registry, name, number, version), decisions)


def is_own(registry: Registry, version: Version) -> bool:
    """Return whether a run of this project trained a version."""
    if KEY in version.tags:
        return True
    run = registry.run(version.run_id)
    return run is not None and KEY in run.data.tags


def _require_own(registry: Registry, model: RegisteredModel) -> None:
    """Check that a model without decisions is of this project, and its champion, too."""
    number = model.aliases.get(CHAMPION)
    if number is not None:
        _require_own_champion(registry, model.name, number)
    elif ledgers.LEDGER not in model.tags:
        versions = list(registry.versions(model.name))
        if versions and not any(is_own(registry, version) for version in versions):
            raise _foreign(model.name, f"{len(versions)} versions of other origin", "delete or rename that model")


def _require_own_champion(registry: Registry, name: str, number: str) -> None:
    version = registry.numbered(name, number)
    if version is not None and not is_own(registry, version):
        run = f"run {version.run_id}, which has none or is gone" if version.run_id else "no run"
        found, step = f"version {number} of {run}", f"remove its alias {CHAMPION}"
        raise _foreign(f"{name} version {number}, the champion,", found, step)


def _foreign(what: str, found: str, step: str) -> ForeignModelError:
    return ForeignModelError(
        f"{what} is not of this project",
        expected=f"the tag {KEY} on the version or its run",
        found=found,
        done="nothing was loaded or changed",
        next_step=f"set register.prefix in params.yaml, so that your models have names of their own; or {step}",
    )


def _fault(registry: Registry, name: str, number: str, version: Version | None) -> str:
    """Return why a champion cannot compete, in a clause; empty if it can. Nothing is loaded."""
    reason = ""
    if version is None:
        reason = "it was deleted"
    elif (run := registry.run(version.run_id)) is None:
        reason = f"its run {version.run_id} does not exist"
    elif run.info.lifecycle_stage != "active":
        reason = f"its run {version.run_id} was deleted"
    elif not has_files(version):
        reason = "its files are missing"
    return reason and no_competitor(name, number, reason)


def _settle(registry: Registry, ledger: ledgers.Ledger) -> list[Decision]:
    """Set aliases and tags as the last decision requires, and return all decisions.

    A process that was slow may have set an alias after a later decision. So who has written reads the ledger again,
    until there is nothing left to write: then the last write of all follows the last decision.
    """
    while True:
        decisions = ledger.decisions()
        if not decisions or not _write(registry, ledger.name, decisions[-1]):
            return decisions


def _write(registry: Registry, name: str, last: Decision) -> bool:
    """Set what differs from a decision; return whether an alias did."""
    model = registry.model(name)
    aliases = model.aliases if model else {}
    version = registry.numbered(name, str(last.version))
    if version is not None and last.decision != "unchanged":  # that would hide the decision that made it champion
        tags = {"decision": last.decision, "decision.reason": last.reason, "decision.number": str(last.number)}
        registry.tag_version(version, tags)
    written = False
    if last.champion and aliases.get(CHAMPION) != str(last.champion):
        if aliased := aliases.get(CHAMPION):
            _require_own_champion(registry, name, aliased)
        written |= _point(registry, name, CHAMPION, registry.numbered(name, str(last.champion)))
    challenger = version if last.decision == "kept" else None
    if challenger is not None and aliases.get(CHALLENGER) != challenger.version:
        written |= _point(registry, name, CHALLENGER, challenger)
    elif challenger is None and CHALLENGER in aliases:  # the latest candidate is the champion: nobody challenges
        registry.remove_alias(name, CHALLENGER)
        written = True
    return written


def _point(registry: Registry, name: str, alias: str, version: Version | None) -> bool:
    """Point an alias at a version that was not deleted; return whether it was written."""
    if version is None:
        return False
    registry.set_alias(version, alias)
    return True
