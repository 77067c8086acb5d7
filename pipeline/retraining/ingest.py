"""Takes in what lies outside of DVC's sight: own images, which it pins, and incoming batches, which it judges.

A batch in ``data/incoming/<dataset>/`` is claimed by a rename, read, and judged by itself and against the dataset. It
ends accepted, with a line in the manifest, or in quarantine, with a report that says why; in both cases it is moved
only after what is said about it has been written. So this can be killed anywhere and called again: the batch is still
there, or it is recognised by its digest. Names that begin with a dot are left alone: what is still being copied.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.artifacts import base as artifacts
from pipeline.artifacts.validate import Reference, Report
from pipeline.core import params
from pipeline.core.errors import DataError, PipelineError, nearest
from pipeline.core.files import write_json
from pipeline.datasets import batches
from pipeline.datasets import manifest as accepted
from pipeline.datasets.arrays import Labelled, RawImages
from pipeline.datasets.manifest import ManifestEntry
from pipeline.datasets.source_format import read_raw
from pipeline.project import dvc, dvc_lock, lock, workspace
from pipeline.validation.batch_checks import BatchDecision, judge
from pipeline.validation.suites import ValidateSettings as GateSettings

_PATIENCE_S = 60.0  # for another command to end
_CLAIMED, _DONE = ".claimed", ".done"
Say = Callable[[str], None]


@dataclass(frozen=True)
class IngestSummary:
    """How many batches came to which end.

    Attributes:
        accepted: Are in the manifest now.
        quarantined: Were refused.
        known: Had been accepted before, and are removed.
        left: Cannot be moved, and lie where they were.
        images: Of the accepted batches.
    """

    accepted: int = 0
    quarantined: int = 0
    known: int = 0
    left: int = 0
    images: int = 0

    def __add__(self, other: IngestSummary) -> IngestSummary:
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return IngestSummary(*(a + b for a, b in zip(mine, theirs, strict=True)))


@dataclass(frozen=True)
class Places:
    """Where the batches of a dataset lie. dvc.yaml names `manifest` and `accepted` too; a test compares them."""

    root: Path
    dataset: str

    @property
    def incoming(self) -> Path:
        return self.root / "data" / "incoming" / self.dataset

    @property
    def accepted(self) -> Path:
        return self.root / "data" / "accepted" / self.dataset

    @property
    def quarantine(self) -> Path:
        return self.root / "data" / "quarantine" / self.dataset

    @property
    def manifest(self) -> Path:
        return self.root / workspace.MANIFESTS / f"{self.dataset}.jsonl"

    @property
    def validated(self) -> Path:
        return self.root / "reports" / "validate" / f"{self.dataset}.json"

    def waiting(self) -> list[Path]:
        """Return the batches to be dealt with, those first that a killed run had claimed."""
        claimed = self.incoming / _CLAIMED
        new = [path for path in _listed(self.incoming) if not path.name.startswith(".")]
        return [*_listed(claimed), *new]


def run(root: Path, say: Say) -> IngestSummary:
    """Pin own images and deal with every waiting batch of the datasets in params.

    Args:
        root: The project or workspace.
        say: Receives one line per batch.

    Raises:
        PipelineError: Params are wrong, another command does not end, or the reference cannot be made.
    """
    try:
        with lock.hold(root, "pipeline ingest", wait_s=_PATIENCE_S, log=say):
            content = workspace.settle(root)
            summary = _take_all(root, content, lambda line: say(_shown(line)))
            dvc.run_again_where_recorded_wrongly(root, "prepare@")
            return summary
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise PipelineError(
            f"{error.filename}: {error.strerror}",
            done="batches left where they are",
            next_step="let this user read and write there, and run it again",
        ) from None


def _take_all(root: Path, content: dict[str, Any], say: Say) -> IngestSummary:
    answer = IngestSummary()
    datasets = content["datasets"]
    for stray in _listed(root / "data" / "incoming"):
        if stray.name not in datasets and not stray.name.startswith("."):
            say(f"{stray} is left alone: expected a dataset of params.yaml, {nearest(stray.name, datasets)}")
    for dataset in datasets:
        places = Places(root, dataset)
        shutil.rmtree(places.incoming / _DONE, ignore_errors=True)  # left by a killed run
        if places.incoming.is_file():
            say(f"{places.incoming} is left alone: expected a folder of batches, found a file")
        if places.waiting():
            settings = GateSettings.model_validate(content["validate"])
            raw, scale = _reference(places)
            answer += _Intake(places, raw, scale, settings, say).take_all()
    return answer


def _reference(places: Places) -> tuple[RawImages, Reference]:
    """Return the dataset as the gate has passed it, and its scale, made first where it is not there or out of date."""
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


class _Intake:
    """Deals with the batches of one dataset."""

    def __init__(self, places: Places, original: RawImages, scale: Reference, settings: GateSettings, say: Say) -> None:
        self._places, self._original, self._scale, self._settings, self._say = places, original, scale, settings, say

    def take_all(self) -> IngestSummary:
        """Deal with every batch that waits."""
        answer = IngestSummary()
        claimed = self._places.incoming / _CLAIMED
        for path in self._places.waiting():
            mine = claimed / path.name
            if path != mine:  # nobody may write to it while it is judged
                claimed.mkdir(exist_ok=True)
                try:
                    path.replace(mine)
                except PermissionError as error:
                    self._say(
                        f"{self._places.dataset}: {path.name} is left alone: it cannot be moved: {error.strerror}"
                    )
                    answer += IngestSummary(left=1)
                    continue
            answer += self._take(mine)
        with suppress(OSError):
            claimed.rmdir()
        return answer

    def _take(self, path: Path) -> IngestSummary:
        names, shape = self._original.class_names, self._original.train.images.shape[1:]
        try:
            batch = batches.read(path, (shape[0], shape[1], shape[2]), names)
        except DataError as error:
            return self._refuse(path, None, BatchDecision((_shown(str(error)).replace(f"{path.parent}{os.sep}", ""),)))
        digest = batch.digest()
        lines = accepted.read_manifest(self._places.manifest)
        earlier = next((line for line in lines if line.digest == digest), None)
        if earlier is not None:
            self._remove(path)
            self._say(f"{self._places.dataset}: {path.name} is known, taken in as {earlier.batch}; removed")
            return IngestSummary(known=1)
        grown = accepted.grow(self._original, self._places.manifest, self._places.accepted).raw
        verdict = judge(self._places.dataset, batch, grown, self._scale, self._settings)
        if verdict.reasons:
            return self._refuse(path, batch, verdict)
        return self._accept(path, batch, verdict.warnings)

    def _accept(self, path: Path, batch: Labelled, warnings: tuple[str, ...]) -> IngestSummary:
        """Write the file, then the line that makes it count, and only then let go of the batch."""
        digest = accepted.store(self._places.accepted, batch)
        line = ManifestEntry(
            digest=digest, batch=_shown(path.name), images=len(batch), classes=self._original.class_names
        )
        with dvc_lock.writing(self._places.root, self._places.manifest, log=self._say):  # no stage reads it
            accepted.append(self._places.manifest, line)
        self._remove(path)
        warned = f", with warnings ({', '.join(warnings)})" if warnings else ""
        self._say(f"{self._places.dataset}: {path.name} accepted{warned}: {len(batch):,} images, digest {digest[:12]}")
        return IngestSummary(accepted=1, images=len(batch))

    def _refuse(self, path: Path, batch: Labelled | None, verdict: BatchDecision) -> IngestSummary:
        """Write the report, then move the batch beside it."""
        folder = self._free(path.name)
        found = {"images": len(batch), "digest": batch.digest()} if batch else {"images": None, "digest": None}
        outcomes = [dataclasses.asdict(outcome) for outcome in verdict.outcomes]
        refusal = {"dataset": self._places.dataset, "batch": _shown(path.name), "reasons": list(verdict.reasons)}
        (folder / "batch").mkdir(parents=True, exist_ok=True)
        write_json(folder / "report.json", {**refusal, **found, "outcomes": outcomes})
        _move(path, folder / "batch" / path.name)
        more = f" (and {len(verdict.reasons) - 1} more)" if verdict.reasons[1:] else ""
        report = (folder / "report.json").relative_to(self._places.root)
        self._say(f"{self._places.dataset}: {path.name} quarantined: {verdict.reasons[0]}{more}; see {report}")
        return IngestSummary(quarantined=1)

    def _free(self, name: str) -> Path:
        """Return a folder of quarantine without a batch: a report alone was left by a killed run."""
        folders = (self._places.quarantine / (name if n == 1 else f"{name}-{n}") for n in count(1))
        return next(folder for folder in folders if not _listed(folder / "batch"))

    def _remove(self, path: Path) -> None:
        """Remove a batch: out of the way at once, as half of a folder would be another batch; then bit by bit."""
        done = self._places.incoming / _DONE
        done.mkdir(exist_ok=True)
        path.replace(done / path.name)
        shutil.rmtree(done)


def _shown(text: str) -> str:
    """Return a text that can be printed and stored: a name may hold line breaks, colours, and what is no UTF-8."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)  # noqa: PTH105 - a link moves as a link
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise PipelineError(
            f"{source} cannot be moved to quarantine",
            expected="data/incoming and data/quarantine on one disk",
            found=error.strerror,
            done="batch left where it is",
        ) from None
