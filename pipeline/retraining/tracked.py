"""Accepted batches and packed own images under DVC, so that ``dvc push`` and ``dvc pull`` carry them to other clones.

Each file gets a ``.dvc`` file, which git tracks, beside it. The manifest lists a batch first and DVC adds it second: a
run that was killed in between leaves a file without a ``.dvc`` file, and the next ingest adds that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.datasets import manifest
from pipeline.project import dvc
from pipeline.retraining.places import Places


def add_missing(root: Path, content: dict[str, Any], say: Callable[[str], None]) -> None:
    """Track every accepted batch and pinned pack that DVC does not track yet.

    A failure is reported and loses nothing: the next call tries again.
    """
    if not (root / ".dvc").is_dir():
        return
    new = [path for path in _files(root, content) if path.exists() and not _metafile(path).exists()]
    if not new:
        return
    fault = dvc.add(root, new)
    for path in new:
        path.chmod(0o444)  # DVC links the file from its cache, with the default mode
    files = "1 file" if len(new) == 1 else f"{len(new):,} files"
    if fault is not None:
        say(f"DVC does not track {files} yet: {fault}; next: pipeline ingest")
        return
    folders = " ".join(sorted({str(path.parent.relative_to(root)) for path in new}))
    commit = f"git add {folders} reports/ingest, commit, " if (root / ".git").exists() else ""  # a workspace has no git
    say(f"{files} added to DVC; next: {commit}dvc push")


def _files(root: Path, content: dict[str, Any]) -> list[Path]:
    """Return the files that manifests and pins name."""
    files: list[Path] = []
    for dataset in content["datasets"]:
        places = Places(root, dataset)
        files += [places.accepted / f"{entry.digest}.npz" for entry in manifest.read_manifest(places.manifest)]
        section = content.get("download", {}).get(dataset, {})
        if "path" in section:
            files += [root / "data" / "own" / dataset / pin["name"] for pin in section.get("files") or ()]
    return files


def _metafile(path: Path) -> Path:
    return path.with_name(f"{path.name}.dvc")
