"""Finds results that DVC takes for up to date although they were made from something else.

The check at a stage's end (`stage_inputs`) leaves a moment in which somebody may edit a file before DVC hashes it, and
results of earlier releases had no check. So what a stage has recorded in its output is compared with what DVC has
recorded in dvc.lock: the batches that prepare has read, and the generation of the study that a search has finished.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from pipeline.core import params
from pipeline.datasets import manifest

LOCK = Path("dvc.lock")
_TEMPORARY = ".*.partial"  # as .dvcignore has it


@dataclass(frozen=True)
class Disagreement:
    """A stage whose output was not made from what DVC has recorded.

    Attributes:
        stage: As DVC names it: ``prepare@digits``.
        reason: What differs.
    """

    stage: str
    reason: str


def locked_stages(root: Path) -> dict[str, Any]:
    """Return what dvc.lock records for each stage; nothing if there is no such file.

    Raises:
        ParamsError: It is not YAML, as after a merge that left a conflict in it.
    """
    if not (root / LOCK).exists():
        return {}
    return dict(params.read(root / LOCK).get("stages") or {})


def disagreements(root: Path) -> Iterator[Disagreement]:
    """Yield the stages that must run again, though DVC finds nothing changed."""
    checks = {"prepare": _prepared, "search": _searched}
    for stage, locked in locked_stages(root).items():
        if (check := checks.get(stage.partition("@")[0])) and (reason := check(root, locked)):
            yield Disagreement(stage, reason)


def _prepared(root: Path, locked: dict[str, Any]) -> str | None:
    """Compare the batches in the prepared data with those of the manifest, if DVC has recorded this manifest."""
    meta, path = root / _option(locked, "--output") / "meta.json", root / _option(locked, "--manifest")
    recorded = next((dep.get("md5") for dep in locked.get("deps", ()) if root / dep["path"] == path), None)
    if not meta.exists() or not path.is_dir():
        return None
    if recorded != folder_hash(path):  # DVC runs the stage by itself
        return None
    listed = [entry.digest for entry in manifest.read_manifest(path)]
    if listed != (used := json.loads(meta.read_text(encoding="utf-8")).get("batches", [])):
        return f"{path} lists {len(listed)} batches, and the data was made from {len(used)}"
    return None


def _searched(root: Path, locked: dict[str, Any]) -> str | None:
    """Compare the generation of the finished study with the one that DVC has recorded."""
    best = root / _option(locked, "--output") / "best.json"
    settings = locked.get("params", {}).get(str(params.PARAMS_FILE), {})
    generation = settings.get("search", {}).get("generation")
    if not best.exists() or generation is None:
        return None
    try:
        study = str(json.loads(best.read_text(encoding="utf-8")).get("study", ""))
    except ValueError:  # as after a merge that left a conflict in it: DVC runs the stage by itself
        return None
    if f"-g{generation}-" not in study:
        return f"{best} is of study {study}, and the generation recorded is {generation}"
    return None


def folder_hash(folder: Path) -> str:
    """Return the hash that DVC records for a folder of files: of the list of their names and hashes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not fnmatch(path.name, _TEMPORARY))
    listed = [{"md5": _md5(file.read_bytes()), "relpath": file.relative_to(folder).as_posix()} for file in files]
    return f"{_md5(json.dumps(sorted(listed, key=itemgetter('relpath'))).encode())}.dir"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _option(locked: dict[str, Any], name: str) -> str:
    """Return the path that a stage's command has for an option."""
    words = shlex.split(str(locked.get("cmd", "")))
    return next((value for option, value in pairwise(words) if option == name), "")
