"""Reads params.yaml as the stages will, so that mistakes are reported before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core import names, params
from pipeline.core.errors import ParamsError, nearest

_OWN = ("datasets", "families")


def check(path: Path = params.PARAMS_FILE) -> dict[str, Any]:
    """Check every section of a params file against its owner's settings and return the file's content.

    Raises:
        ParamsError: The first thing that is wrong.
    """
    from pipeline.datasets.source_format import source_format
    from pipeline.models import loading
    from pipeline.stages.download import DownloadSettings as AnyFormat

    content = params.read(path)
    check_names(content, path)
    owners = _owners()
    families = loading.family_names()
    known = {*_OWN, *owners, "download", *families}
    for name in content:
        if name not in known:
            raise ParamsError(f"{path}: unknown section", expected=nearest(str(name), known), found=repr(name))
    for name in sorted({*_OWN, *owners, "download"} - set(content)):
        raise ParamsError(f"{path}: section {name} is missing", expected="a value", found="nothing")
    for dataset in _names(content, "datasets", path):
        if dataset not in content["download"]:
            expected = nearest(dataset, content["download"])
            raise ParamsError(f"{path}: datasets: unknown dataset", expected=expected, found=repr(dataset))
    for dataset, section in content["download"].items():
        source = source_format(params.parse(f"download.{dataset}", section, AnyFormat, path).format)
        params.parse(f"download.{dataset}", section, source.Settings, path)
    for family in _names(content, "families", path):
        if family in families and family not in content:
            raise ParamsError(f"{path}: section {family} is missing", expected="the family's settings", found="nothing")
        loading.load(family, content.get(family, {}))
    for name, settings in owners.items():
        params.parse(name, content[name], settings, path)
    return content


def check_names(content: Mapping[str, Any], path: Path = params.PARAMS_FILE) -> None:
    """Check the names of datasets and families alone: before anything uses one, such as a path or a shell.

    Raises:
        ParamsError: The first name that is none.
    """
    for section in _OWN:
        if section in content:
            _names(content, section, path)
    declared = content.get("download", {})
    if not isinstance(declared, Mapping):
        raise ParamsError(f"{path}: download", expected="a mapping of datasets", found=repr(declared))
    for dataset in declared:
        names.checked(dataset, f"{path}: download")


def _owners() -> dict[str, type[params.Settings]]:
    """Return the settings model of each section that one module owns."""
    from pipeline.backend import configure
    from pipeline.registry.settings import RegisterSettings
    from pipeline.search import settings as budget
    from pipeline.stages import evaluate, features, prepare, train
    from pipeline.validation import suites

    return {
        "runtime": configure.RuntimeSettings,
        "validate": suites.ValidateSettings,
        "prepare": prepare.PrepareSettings,
        "features": features.FeaturesSettings,
        "search": budget.SearchSettings,
        "train": train.TrainSettings,
        "evaluate": evaluate.EvaluateSettings,
        "register": RegisterSettings,
    }


def _names(content: Mapping[str, Any], section: str, path: Path) -> list[str]:
    """Return a list of names that are all different."""
    found = content[section]
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise ParamsError(f"{path}: {section}", expected="a list of names such as [mnist]", found=repr(found))
    for name in found:
        names.checked(name, f"{path}: {section}")
    twice = {name for name in found if found.count(name) > 1}
    if twice:
        raise ParamsError(f"{path}: {section}", expected="every name once", found=f"{min(twice)!r} more than once")
    return found
