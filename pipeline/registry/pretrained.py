"""Resolves the models that params name by an alias to a version and a file, before DVC runs.

An alias moves, and DVC cannot see that. So the version and the sha256 of its file are written into params beside the
alias: when the alias has moved, params have changed, and the stages that depend on the model run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import ParamsError
from pipeline.core.files import new_file

_NAMED = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_FOLDER = Path("data/pretrained")


def pins(content: Mapping[str, Any], project: Path) -> list[str]:
    """Fetch the model that each chosen family starts from and return settings, ``key=value``, that pin it.

    Args:
        content: Params.
        project: The folder in which stages run; its registry is read, and its ``data/pretrained`` gets the files.

    Raises:
        ParamsError: A setting names no registered model of Keras.
        ForeignModelError: The named champion is not of this project.
        TrackingError: The registry cannot be read.
    """
    settings = []
    for family in content.get("families") or ():
        section = content.get(family)
        if not isinstance(section, Mapping):
            continue  # `pipeline check` reports it
        if named := section.get("init_from"):
            with contextlib.chdir(project):
                pin = _resolve(family, str(named))
            if pin != section.get("pin"):
                settings.append(f"{family}.pin={json.dumps(pin)}")
    return settings


def parse(named: str, where: str) -> re.Match[str]:
    """Return the parts of a registered model's address: name, alias and version.

    Raises:
        ParamsError: It is no such address; `where` names the setting.
    """
    match = _NAMED.fullmatch(named)
    if match is None:
        raise ParamsError(where, expected="models:/<name>@<alias> or models:/<name>/<version>", found=repr(named))
    return match


def _resolve(family: str, named: str) -> dict[str, str]:
    from pipeline.registry import champions, loading
    from pipeline.registry.versions import CHAMPION, Registry
    from pipeline.tracking.runs import Connection

    match = parse(named, f"{family}.init_from")
    registry = Registry(Connection())
    if match["alias"] == CHAMPION:
        champions.standing(registry, match["name"])  # brings the alias up to date
    version = match["version"] or getattr(registry.version(match["name"], match["alias"]), "version", None)
    if version is None:
        raise ParamsError(
            f"{family}.init_from", expected=f"an alias of {match['name']} in the registry here", found=repr(named)
        )
    with tempfile.TemporaryDirectory() as folder:
        fetched = loading.fetch(match["name"], str(version), Path(folder))
        files = sorted(fetched.rglob("model.keras"))
        if not files:
            raise ParamsError(f"{family}.init_from", expected="a model of Keras", found=f"{named} holds none")
        sha256 = hashlib.sha256(files[0].read_bytes()).hexdigest()
        kept = _FOLDER / f"{sha256[:16]}.keras"
        if not kept.exists():
            with new_file(kept) as partial:
                shutil.copyfile(files[0], partial)
    return {"init_from": named, "version": str(version), "file": kept.as_posix(), "sha256": sha256}
