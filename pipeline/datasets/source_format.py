"""Lookup of source formats by name."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from pipeline.core.errors import ParamsError, nearest


def source_format(name: str) -> ModuleType:
    """Return the module of a source format.

    A format is a module of `pipeline.datasets.formats` with ``Settings`` (its section of params) and
    ``read(folder, settings) -> RawImages``.

    Raises:
        ParamsError: No module has that name.
    """
    known = {path.stem for path in (Path(__file__).parent / "formats").glob("*.py")} - {"__init__"}
    if name not in known:
        raise ParamsError("download: unknown format", expected=nearest(name, known), found=repr(name))
    return importlib.import_module(f"pipeline.datasets.formats.{name}")
