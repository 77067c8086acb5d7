"""Where the batches of a dataset lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.project import workspace

_CLAIMED, _DONE, _ATTEMPTS = ".claimed", ".done", ".attempts.json"


@dataclass(frozen=True)
class Places:
    """The folders of a dataset. dvc.yaml names `manifest` and `accepted` too; a test compares them."""

    root: Path
    dataset: str

    @property
    def incoming(self) -> Path:
        """Where senders put batches."""
        return self.root / "data" / "incoming" / self.dataset

    @property
    def claimed(self) -> Path:
        """Batches that are being checked: nobody else writes to them."""
        return self.incoming / _CLAIMED

    @property
    def done(self) -> Path:
        """Batches that are being removed."""
        return self.incoming / _DONE

    @property
    def attempts(self) -> Path:
        """The file of `Attempts`."""
        return self.incoming / _ATTEMPTS

    @property
    def accepted(self) -> Path:
        """Files of accepted batches."""
        return self.root / "data" / "accepted" / self.dataset

    @property
    def quarantine(self) -> Path:
        """Rejected batches, each beside its report."""
        return self.root / "data" / "quarantine" / self.dataset

    @property
    def manifest(self) -> Path:
        """The manifest of accepted batches: a folder."""
        return self.root / workspace.MANIFESTS / self.dataset

    @property
    def validated(self) -> Path:
        """The report of the gate."""
        return self.root / "reports" / "validate" / f"{self.dataset}.json"

    def waiting(self) -> list[Path]:
        """Return the batches to process; those that a killed run had claimed are first."""
        new = [path for path in listed(self.incoming) if not path.name.startswith(".")]
        return [*listed(self.claimed), *new]


def listed(folder: Path) -> list[Path]:
    """Return the sorted entries of a folder; none if it does not exist."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def printable(text: str) -> str:
    """Return a text for printing: names may contain line breaks, colours, and bytes that are no UTF-8."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
