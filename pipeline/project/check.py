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
    from pipeline.models import loading

    content = params.read(path)
    check_names(content, path)
    owners = _owners()
    known = {*_OWN, *owners, "download", *loading.family_names()}
    for name in content:
        if name not in known:
            raise ParamsError(f"{path}: unknown section", expected=nearest(str(name), known), found=repr(name))
    for name in sorted({*_OWN, *owners, "download"} - set(content)):
        raise ParamsError(f"{path}: section {name} is missing", expected="a value", found="nothing")
    sides = _check_datasets(content, path)
    _check_families(content, sides, path)
    for name, settings in owners.items():
        params.parse(name, content[name], settings, path)
    return content


def _check_datasets(content: Mapping[str, Any], path: Path) -> dict[str, int | None]:
    """Check the datasets, and return the shorter side of the images of each, where its settings say so."""
    from pipeline.datasets.source_format import source_format
    from pipeline.stages.download import DownloadSettings as AnyFormat

    for dataset in _names(content, "datasets", path):
        if dataset not in content["download"]:
            expected = nearest(dataset, content["download"])
            raise ParamsError(f"{path}: datasets: unknown dataset", expected=expected, found=repr(dataset))
    sides: dict[str, int | None] = {}
    for dataset, section in content["download"].items():
        source = source_format(params.parse(f"download.{dataset}", section, AnyFormat, path).format)
        settings = params.parse(f"download.{dataset}", section, source.Settings, path)
        sides[dataset] = source.shorter_side(settings) if hasattr(source, "shorter_side") else None
    return sides


def _check_families(content: Mapping[str, Any], sides: Mapping[str, int | None], path: Path) -> None:
    """Check the families, and their search spaces against the images of each dataset."""
    from pipeline.models import loading

    for name in _names(content, "families", path):
        if name in loading.family_names() and name not in content:
            raise ParamsError(f"{path}: section {name} is missing", expected="the family's settings", found="nothing")
        for dataset in content["datasets"]:
            family = loading.load(name, content.get(name, {}), dataset)
            side = sides[dataset]
            if side is not None:
                family.require_fit(side)


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
