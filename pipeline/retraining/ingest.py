"""Ingest of data that DVC does not see: pins own images, and accepts or rejects incoming batches.

A batch in ``data/incoming/<dataset>/`` is claimed by a rename, read, and checked by itself and against the dataset. It
is accepted, with a file in the manifest, or moved to quarantine, with a report of the reasons. Its result is always
written before it is moved. So ingest can be killed anywhere and called again: the batch is still there, or its digest
is known. Names that begin with a dot are ignored, because they are still being copied.

A batch that cannot be checked goes to quarantine, whatever the exception, and the next batch follows. Only a full disk,
missing permission, wrong settings or a broken installation stop ingest: they are no fault of a batch.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import base as artifacts
from pipeline.artifacts.validate import Reference, Report
from pipeline.core import params
from pipeline.core.errors import ParamsError, PipelineError, nearest
from pipeline.datasets import batches, class_names, grouping
from pipeline.datasets import manifest as accepted
from pipeline.datasets.arrays import Labelled, RawImages
from pipeline.datasets.manifest import ManifestEntry
from pipeline.datasets.source_format import read_raw
from pipeline.project import dvc, dvc_lock, lock, workspace
from pipeline.retraining import quarantine, removal, tracked
from pipeline.retraining.attempts import Attempts
from pipeline.retraining.places import Places, listed, printable
from pipeline.validation.batch_checks import BatchDecision, judge
from pipeline.validation.suites import ValidateSettings as GateSettings
from pipeline.validation.suites import names_all

_PATIENCE_S = 60.0  # for another command to end
_MOST_ENDED = 2  # times that the process may end while it checks a batch
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Say = Callable[[str], None]


@dataclass(frozen=True)
class IngestSummary:
    """The number of batches by result.

    Attributes:
        accepted: Batches that are in the manifest now.
        quarantined: Rejected batches.
        known: Batches that had been accepted before; they are removed.
        left: Batches that cannot be moved and are left where they were.
        images: Images of the accepted batches.
    """

    accepted: int = 0
    quarantined: int = 0
    known: int = 0
    left: int = 0
    images: int = 0

    def __add__(self, other: IngestSummary) -> IngestSummary:
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return IngestSummary(*(a + b for a, b in zip(mine, theirs, strict=True)))


def run(root: Path, say: Say, *, renumber: bool = False, skip_damaged: bool = False) -> IngestSummary:
    """Pin own images and deal with every waiting batch of the datasets in params.

    Args:
        root: The project or workspace.
        say: Receives one line per batch.
        renumber: Number the classes of own images in natural order.
        skip_damaged: Leave out files among own images that cannot be read.

    Raises:
        PipelineError: Params are wrong, another command does not end, or the reference cannot be made.
    """
    try:
        with lock.hold(root, "pipeline ingest", wait_s=_PATIENCE_S, log=say):
            content = workspace.settle(root, renumber=renumber, skip_damaged=skip_damaged)
            summary = _take_all(root, content, lambda line: say(printable(line)))
            dvc.run_again_where_recorded_wrongly(root, "prepare@")
            return summary
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise PipelineError(
            f"{error.filename}: {error.strerror}",
            done="batches left where they are",
            next_step="let this user read and write there, and run it again",
        ) from None


def _take_all(root: Path, content: dict[str, Any], say: Say) -> IngestSummary:
    answer = IngestSummary()
    datasets = content["datasets"]
    for stray in listed(root / "data" / "incoming"):
        if stray.name not in datasets and not stray.name.startswith("."):
            say(f"{stray} is left alone: expected a dataset of params.yaml, {nearest(stray.name, datasets)}")
    for dataset in datasets:
        places = Places(root, dataset)
        _clear(places, say)
        if places.incoming.is_file():
            say(f"{places.incoming} is left alone: expected a folder of batches, found a file")
        if places.waiting():
            settings = GateSettings.model_validate(content["validate"])
            raw, scale = _reference(places)
            answer += _Intake(places, raw, scale, settings, say).take_all()
    tracked.add_missing(root, content, say)
    return answer


def _clear(places: Places, say: Say) -> None:
    """Remove what earlier runs could not, because they were killed or had no permission."""
    removal.delete(places.done)
    with suppress(OSError):  # there is none, or it holds batches
        places.claimed.rmdir()
    for folder in listed(places.done):
        for path in listed(folder):
            say(f"{places.dataset}: {path.name} was dealt with earlier and cannot be removed; next: remove {path}")


def _reference(places: Places) -> tuple[RawImages, Reference]:
    """Return the dataset as the gate passed it, and its reference; run the gate first if they are out of date."""
    stage = f"validate@{places.dataset}"
    written = (places.root / "data" / "raw" / places.dataset, places.validated)
    with dvc_lock.writing(places.root, *written, log=lock.to_stderr):
        pass  # a stage that reads them has ended: `dvc repro` would fail beside it
    if dvc.reproduce(places.root, targets=[stage], quiet=True) != 0:
        raise PipelineError(
            f"{places.dataset}: batches are waiting, and there is nothing to judge them by",
            expected=f"stage {stage} to pass",
            done="batches left where they are",
            next_step=f"dvc repro {stage}",
        )
    folder = places.root / "data" / "raw" / places.dataset
    raw = read_raw(places.dataset, folder, places.root / params.PARAMS_FILE)
    return raw, artifacts.read_json(places.validated, Report, "validate").reference


@dataclass(frozen=True)
class _Checked:
    """The result of a check: the batch if it could be read, and what it is: rejected, known, or neither.

    Some images of an accepted batch may be held back, because their groups are in test.
    """

    batch: Labelled | None
    decision: BatchDecision
    known_as: str | None = None
    held_back: int = 0


class _Intake:
    """Processes the batches of one dataset."""

    def __init__(self, places: Places, original: RawImages, scale: Reference, settings: GateSettings, say: Say) -> None:
        self._places, self._original, self._scale, self._settings = places, original, scale, settings
        self._say_line, self._attempts = say, Attempts(places.attempts)

    def take_all(self) -> IngestSummary:
        """Process every batch that waits."""
        answer = IngestSummary()
        for path in self._places.waiting():
            try:
                mine = self._claim(path)
                answer += self._take(mine)
            except _NotMoved as error:
                self._say(f"{path.name} is left alone: it cannot be moved: {error}")
                answer += IngestSummary(left=1)
        with suppress(OSError):
            self._places.claimed.rmdir()
        return answer

    def _claim(self, path: Path) -> Path:
        """Move a batch to where nobody writes to it while it is checked."""
        mine = self._places.claimed / path.name
        if path == mine:
            return mine
        mine.parent.mkdir(exist_ok=True)
        if os.path.lexists(mine):
            raise _NotMoved("an earlier batch of this name is still there")
        try:
            path.replace(mine)
        except OSError as error:
            if error.errno in (*_FULL, errno.EROFS):
                raise
            raise _NotMoved(error.strerror) from None
        return mine

    def _take(self, path: Path) -> IngestSummary:
        if (ended := self._attempts.ended(path.name)) >= _MOST_ENDED:
            summary = self._refuse(path, _Checked(None, BatchDecision((_unread(ended),))))
            self._attempts.forget(path.name)
            return summary
        with self._attempts.one(path.name):
            checked = self._check(path)
        if checked.known_as is not None:
            self._remove(path)
            self._say(f"{path.name} is known, taken in as {checked.known_as}; removed")
            return IngestSummary(known=1)
        if checked.decision.reasons or checked.batch is None:
            return self._refuse(path, checked)
        return self._accept(path, checked.batch, checked)

    def _check(self, path: Path) -> _Checked:
        """Read and check a batch. Exceptions that are not its fault are raised."""
        shape = self._original.train.images.shape[1:]
        try:
            original = self._original
            sizes = (shape[0], shape[1], shape[2])
            batch = batches.read(path, sizes, original.class_names, original.group, original.reading)
        except Exception as error:  # noqa: BLE001 - of any kind: the batch is untrusted
            return _Checked(None, _fault(path, error))
        digest = batch.digest()
        entries = accepted.read_manifest(self._places.manifest)
        earlier = next((entry.batch for entry in entries if entry.digest == digest), None)
        if earlier is not None:
            return _Checked(batch, BatchDecision(()), earlier)
        grown = accepted.grow(self._original, self._places.manifest, self._places.accepted).raw
        held_back = grouping.in_test(batch.groups, grown.test.groups, len(batch))
        if held_back.all():
            return _Checked(batch, BatchDecision(("nothing is left to learn from: every image is of a group in test",)))
        judged = batch.take(np.flatnonzero(~held_back))
        try:
            file = self._places.root / params.PARAMS_FILE
            decision = judge(self._places.dataset, judged, grown, self._scale, self._settings, file)
            return _Checked(batch, decision, held_back=int(held_back.sum()))
        except Exception as error:  # noqa: BLE001 - of any kind: the batch is untrusted
            return _Checked(batch, _fault(path, error))

    def _accept(self, path: Path, batch: Labelled, checked: _Checked) -> IngestSummary:
        """Write the file, then the entry that makes it count, and only then remove the batch."""
        decision, held_back = checked.decision, checked.held_back
        digest = accepted.store(self._places.accepted, batch)
        entry = ManifestEntry(
            digest=digest, batch=printable(path.name), images=len(batch), classes=self._original.class_names
        )
        with dvc_lock.writing(self._places.root, self._places.manifest, log=self._say_line):  # no stage reads it
            accepted.append(self._places.manifest, entry)
        warned = f", with warnings ({', '.join(decision.warnings)})" if decision.warnings else ""
        held = f", {held_back:,} of them held back because their groups are in test" if held_back else ""
        taken = f"{len(batch):,} images{held}, digest {digest[:12]}; {class_names.listed(self._original.class_names)}"
        self._say(f"{path.name} accepted{warned}: {taken}")
        if any(self._original.test.groups) and not any(batch.groups):
            expected = "an array groups, so that no group comes into train that is in test"
            self._say(f"{path.name}: warning: it has no groups, and the dataset has: expected {expected}")
        for outcome in decision.outcomes:
            if not outcome.passed:
                self._say(f"{path.name}: warning: {outcome.name}: expected {outcome.wanted}, found {outcome.found}")
            elif outcome.unexpected_count and names_all(outcome.name):
                self._say(f"{path.name}: note: {outcome.name}: unlike the others, and few enough: {outcome.found}")
        self._remove(path)
        return IngestSummary(accepted=1, images=len(batch))

    def _refuse(self, path: Path, checked: _Checked) -> IngestSummary:
        """Move a batch to quarantine, with a report of the reasons."""
        batch, decision = checked.batch, checked.decision
        found = {"images": len(batch), "digest": batch.digest()} if batch else {"images": None, "digest": None}
        outcomes = [dataclasses.asdict(outcome) for outcome in decision.outcomes]
        reasons = [printable(reason) for reason in decision.reasons]
        refusal = {"dataset": self._places.dataset, "batch": printable(path.name), "reasons": reasons}
        try:
            report = quarantine.put(path, self._places, {**refusal, **found, "outcomes": outcomes})
        except OSError as error:
            if _stops(error):
                raise
            raise _NotMoved(f"{error.strerror or error}; it is rejected: {reasons[0]}") from None
        see = report.relative_to(self._places.root)
        self._say(f"{path.name} quarantined: {'; also: '.join(reasons)}; see {see}")
        return IngestSummary(quarantined=1)

    def _remove(self, path: Path) -> None:
        """Remove a batch that is stored; report what cannot be removed."""
        leftover = removal.remove(path, self._places.done)
        if leftover is not None:
            self._say(f"{path.name} is stored and cannot be removed; next: remove {leftover}")

    def _say(self, line: str) -> None:
        self._say_line(f"{self._places.dataset}: {line}")


class _NotMoved(Exception):
    """A batch that cannot be moved: it stays where it is and stops nothing."""


def _unread(ended: int) -> str:
    return (
        f"the process ended {ended} times while it checked this batch, which is therefore not read again:"
        " expected a batch that fits into memory; next: send it in smaller parts"
    )


def _fault(path: Path, error: Exception) -> BatchDecision:
    """Return the decision to reject a batch because of an exception; raise it again if it is no fault of the batch."""
    if _stops(error):
        raise error
    if isinstance(error, PipelineError):
        return BatchDecision((str(error).replace(f"{path.parent}{os.sep}", ""),))
    text = " ".join(str(error).split())
    return BatchDecision((f"{path.name} cannot be checked: {type(error).__name__}{': ' if text else ''}{text[:500]}",))


def _stops(error: BaseException | None) -> bool:
    """Return whether an exception, or what caused it, concerns every batch."""
    while error is not None:
        if isinstance(error, ParamsError | ImportError):
            return True
        if isinstance(error, OSError) and error.errno in (*_REFUSED, *_FULL):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False
