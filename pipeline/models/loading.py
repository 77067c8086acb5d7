"""Families by their names, and the digest of the code that decides what a training of one gives."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core import params
from pipeline.core.code_digest import code_digest, imported_files
from pipeline.core.errors import ParamsError, nearest
from pipeline.models.base import BaseFamily

_FOLDER = Path(__file__).parent
_FAMILIES = _FOLDER / "families"


def family_names() -> set[str]:
    """Return the names of all families: the packages of this folder."""
    return {path.parent.name for path in _FAMILIES.glob("*/family.py")}


def training_digest(family: BaseFamily) -> str:
    """Return the digest of the code that decides what training a family gives: part of a study's identity."""
    files = [_FOLDER / "training" / "task.py", _FOLDER.parent / "backend" / "configure.py", *family.sources()]
    decisive = imported_files(files, ("models", "backend", "evaluation")) - {Path(__file__)}
    return code_digest(decisive)


def load(name: str, settings: Mapping[str, Any] | None = None, dataset: str | None = None) -> BaseFamily:
    """Return a family by its name.

    Args:
        name: Name of its package and of its section of params.
        settings: Its section; None reads params.yaml.
        dataset: Dataset whose search space to use; None uses the general space.

    Raises:
        ParamsError: No such family, or a section that is wrong.
    """
    if name not in family_names():
        raise ParamsError("families: unknown family", expected=nearest(name, family_names()), found=repr(name))
    family: type[BaseFamily] = importlib.import_module(f"pipeline.models.families.{name}.family").Family
    section = params.section(name) if settings is None else settings
    return family(name, params.parse(name, section, family.Settings), dataset)
