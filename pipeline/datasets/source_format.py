"""Lookup of source formats by name, and raw data read by the format of a dataset."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from pipeline.core import params
from pipeline.core.errors import ParamsError, nearest
from pipeline.datasets.arrays import RawImages, SourceSettings


def source_format(name: str) -> ModuleType:
    """Return the module of a source format.

    A format is a module of `pipeline.datasets.formats` with ``Settings`` (its section of params) and
    ``read(folder, settings) -> RawImages``. It may have ``shorter_side(settings) -> int | None``: the shorter side of
    an image in pixels, or an upper limit of it, where the settings say so.

    Raises:
        ParamsError: No module has that name.
    """
    known = {path.stem for path in (Path(__file__).parent / "formats").glob("*.py")} - {"__init__"}
    if name not in known:
        raise ParamsError("download: unknown format", expected=nearest(name, known), found=repr(name))
    return importlib.import_module(f"pipeline.datasets.formats.{name}")


def read_settings(dataset: str, params_file: Path = params.PARAMS_FILE) -> SourceSettings:
    """Return the settings of a dataset, as its format declares them; arguments and errors as for `read_raw`."""
    section = f"download.{dataset}"
    source = source_format(params.section(f"{section}.format", params_file))
    settings: SourceSettings = params.load(section, source.Settings, params_file)
    return settings


def read_raw(dataset: str, folder: Path, params_file: Path = params.PARAMS_FILE) -> RawImages:
    """Return the images of a dataset from the files that download verified.

    Args:
        dataset: Its name under ``download`` in params.
        folder: Folder written by download.
        params_file: The params file.

    Raises:
        ParamsError: The dataset's section is missing or wrong.
        DataError: A file is damaged or does not match the section.
    """
    section = f"download.{dataset}"
    source = source_format(params.section(f"{section}.format", params_file))
    raw: RawImages = source.read(folder, params.load(section, source.Settings, params_file))
    return raw
