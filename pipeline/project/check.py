"""Reads params.yaml as the stages will, so that mistakes are reported before anything runs.

What passes this check can be built, and trains its first step, on the machine where it was checked.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import names, params
from pipeline.core.errors import ParamsError, nearest, shown

if TYPE_CHECKING:
    from pipeline.models.base import BaseFamily
    from pipeline.search.settings import SearchSettings

_OWN = ("datasets", "families")
_NEEDS_PACKAGE = (  # setting, its value, the package, how to install it, what to set instead
    ("sampler", "gp", "torch", "`pipeline doctor` lists how to install it", "tpe"),
    ("engine", "ray", "ray", 'make install SET="cpu ray" (or "gpu ray")', "local"),
)


def check(path: Path = params.PARAMS_FILE, *, unpinned: bool = False) -> dict[str, Any]:
    """Check a params file as a whole and return its content: what passes can be built and trained on this machine.

    Args:
        path: The file.
        unpinned: Accept own images that are selected and not pinned yet; `pipeline run` and `ingest` pin them.

    Raises:
        ParamsError: The first thing that is wrong.
    """
    from pipeline.backend import configure
    from pipeline.models import loading
    from pipeline.search.settings import SearchSettings
    from pipeline.validation.suites import ValidateSettings

    content = params.read(path)
    check_names(content, path)
    owners = _owners()
    known = {*_OWN, *owners, "download", *loading.family_names()}
    for name in content:
        if name not in known:
            raise ParamsError(f"{path}: unknown section", expected=nearest(str(name), known), found=repr(name))
    for name in sorted({*_OWN, *owners, "download"} - set(content)):
        raise ParamsError(f"{path}: section {name} is missing", expected="a value", found="nothing")
    sides = _check_datasets(content, path, unpinned=unpinned)
    families = _check_families(content, path)
    for name, settings in owners.items():
        params.parse(name, content[name], settings, path)
    configure.check_backend(params.parse("runtime", content["runtime"], configure.RuntimeSettings, path).backend)
    search = params.parse("search", content["search"], SearchSettings, path)
    _check_packages(search, path)
    _check_entries(content, search, families, path)
    validate = params.parse("validate", content["validate"], ValidateSettings, path)
    for dataset in content["datasets"]:
        validate.distance_of(dataset)
        for name in families:
            _check_search(loading.load(name, content[name], dataset), dataset, sides[dataset], search, path)
    return content


def _check_datasets(content: Mapping[str, Any], path: Path, *, unpinned: bool) -> dict[str, int | None]:
    """Check the datasets, and return the shorter side of the images of each, where its settings say so.

    Own images that are not selected may wait to be pinned.
    """
    from pipeline.datasets import packing
    from pipeline.datasets.source_format import source_format
    from pipeline.stages.download import DownloadSettings as AnyFormat

    for dataset in _names(content, "datasets", path):
        if dataset not in content["download"]:
            expected = nearest(dataset, content["download"])
            raise ParamsError(f"{path}: datasets: unknown dataset", expected=expected, found=repr(dataset))
    sides: dict[str, int | None] = {}
    for dataset, section in content["download"].items():
        if isinstance(section, Mapping) and (unpinned or dataset not in content["datasets"]):
            section = packing.as_pinned(section)
        source = source_format(params.parse(f"download.{dataset}", section, AnyFormat, path).format)
        settings = params.parse(f"download.{dataset}", section, source.Settings, path)
        sides[dataset] = source.shorter_side(settings) if hasattr(source, "shorter_side") else None
    return sides


def _check_families(content: Mapping[str, Any], path: Path) -> list[str]:
    """Check the sections of all families, also of those that do not compete, and return the names of those that do."""
    from pipeline.models import loading
    from pipeline.registry import pretrained

    chosen, known = _names(content, "families", path), loading.family_names()
    for name in chosen:
        if name in known and name not in content:
            raise ParamsError(f"{path}: section {name} is missing", expected="the family's settings", found="nothing")
    for name in [*chosen, *sorted(known.intersection(content).difference(chosen))]:
        if not isinstance(section := content.get(name, {}), Mapping):
            expected = "a mapping of settings, such as {space: {}}"
            raise ParamsError(f"{path}: {name} is wrong", expected=expected, found=shown(section))
        settings = loading.load(name, section).settings
        if name in chosen and hasattr(settings, "init_from"):
            pretrained.parse(settings.init_from, f"{path}: {name}.init_from")
    return chosen


def _check_packages(search: SearchSettings, path: Path) -> None:
    """Check that the packages which a setting needs are installed."""
    for setting, value, package, install, instead in _NEEDS_PACKAGE:
        if getattr(search, setting) == value and importlib.util.find_spec(package) is None:
            raise ParamsError(
                f"{path}: search.{setting} is {value}",
                expected=f"an installed {package}",
                found="none",
                next_step=f"{install}; or set search.{setting} to {instead}",
            )


def _check_entries(content: Mapping[str, Any], search: SearchSettings, families: list[str], path: Path) -> None:
    """Check that no entry for a single dataset is a misspelt name, because it would be ignored.

    Entries of datasets that are no longer declared may stay.
    """
    from pipeline.models import loading

    datasets = set(content["download"])
    pairs = {f"{dataset}-{family}" for dataset in datasets for family in loading.family_names()}
    spaces = [(f"{name}.space_for", content[name].get("space_for", {}), datasets) for name in families]
    for where, entries, known in (("search.budget", search.budget, {"default", *datasets, *pairs}), *spaces):
        for name in entries:
            if name not in known and difflib.get_close_matches(str(name), known, cutoff=0.8):
                raise ParamsError(
                    f"{path}: {where}: unknown dataset",
                    expected=nearest(str(name), known),
                    found=repr(name),
                    next_step="correct the name, or remove the entry: it would be ignored",
                )


def _check_search(family: BaseFamily, dataset: str, side: int | None, search: SearchSettings, path: Path) -> None:
    """Check that a family can be searched on a dataset: there is a budget, and every point can be built.

    Args:
        family: The family, with the search space of the dataset.
        dataset: Name of the dataset.
        side: The shorter side of its images; None if it is not known before they are read.
        search: Section `search`.
        path: The params file.
    """
    from pipeline.models import base, loading
    from pipeline.search import enqueued

    entries = (f"{dataset}-{family.name}", dataset, "default")
    if not set(entries) & set(search.budget):
        found = ", ".join(search.budget) or "no entry"
        raise ParamsError(
            f"{path}: search.budget", expected=f"an entry {', '.join(entries[:-1])} or default", found=found
        )
    if search.sampler == "grid":
        # A model to begin with is resolved after this check, and `suggest` needs it; the space does not depend on it.
        plain = hasattr(family.settings, "init_from")
        enqueued.grid(partial(base.BaseFamily.suggest, family) if plain else family.suggest, search.grid_points)
    if side is None:
        return
    family.require_fit(side)
    for preset, point in family.presets_for(dataset).items() if search.presets else ():
        try:
            loading.load(family.name, {"space": point}).require_fit(side)
        except ParamsError as error:
            raise ParamsError(
                f"{path}: {family.name}.presets: {preset} cannot be built for {dataset}",
                expected="reference models for images of this size",
                found=str(error).partition("; next:")[0],
                next_step=f"name others in {family.name}.presets, or none: []",
            ) from None


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
    from pipeline.models.training import seeds
    from pipeline.registry.settings import RegisterSettings
    from pipeline.search import settings as budget
    from pipeline.stages import evaluate, features, prepare
    from pipeline.validation import suites

    return {
        "runtime": configure.RuntimeSettings,
        "validate": suites.ValidateSettings,
        "prepare": prepare.PrepareSettings,
        "features": features.FeaturesSettings,
        "search": budget.SearchSettings,
        "train": seeds.TrainSettings,
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
