"""Adds a dataset of your own pictures to params.yaml: its name, its section with comments, and the command to run."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.backend import cores
from pipeline.core import names, params
from pipeline.core.errors import ParamsError, PipelineError
from pipeline.datasets import proposal
from pipeline.datasets.bars import Shape
from pipeline.project import dvc, params_edit, workspace
from pipeline.project.own_pictures import Proposal

_SECONDS = {"cnn": 1.2e-6, "rnn": 0.5e-6, "mlp": 0.1e-6}  # a pixel, image and epoch, measured on MNIST with two cores
_OTHERS_S = 0.5e-6
_BATCH = 128
_STAGES_S, _FAMILY_S, _TRIAL_S = 60, 60, 5  # start-up and stages beside training (measured on digits)
_COMMENTS = {
    "format": "how the files are laid out",
    "path": "where they are; `pipeline ingest` and `run` pack and pin them",
    "label": "the column of the labels",
    "size": "height, width",
    "channels": "3: colour, 1: grey",
    "depth": "bits of the values in 16-bit files",
    "background": "behind transparent pixels: black | white | refuse",
    "fit": "of pictures of another shape: pad | crop | stretch",
    "validation": "join: val is learnt from | keep: models are chosen by it",
    "test_fraction": "of every class, held out for the scores",
    "group": "pictures in whose paths this finds the same stay on one side of every split",
    "roles": "which file is which",
    "transpose": "images are stored column by column",
    "first_label": "the label of the first class",
    "skip_damaged": "files that cannot be read are left out",
    "classes": "numbered in this order",
}


def require_writable(file: Path) -> str:
    """Return the text of a params file that is to be changed.

    Raises:
        PipelineError: It is missing, or may not be written.
    """
    text = file.read_text(encoding="utf-8") if params.read(file) else ""
    if not os.access(file, os.W_OK) or not file.resolve().stat().st_mode & 0o222:  # root may write any file
        raise PipelineError(
            f"{file} cannot be written",
            expected="a file that this user may change",
            found="a read-only file",
            done="it is as it was",
            next_step=f"chmod u+w {file}, or give another folder by --workspace",
        )
    return text


def name_of(path: Path, given: str | None, content: Mapping[str, Any]) -> str:
    """Return the name of the dataset: the one given, or one made of the path.

    Raises:
        ParamsError: It is no name, or params have it already.
    """
    name = names.checked(given, "--name") if given is not None else proposal.name_for(path)
    known = {str(key).casefold() for key in content.get("download") or ()}
    if name.casefold() in known:
        free = next(f"{name}-{number}" for number in range(2, len(known) + 3) if f"{name}-{number}" not in known)
        raise ParamsError(
            f"{params.PARAMS_FILE}: download has {name!r} already",
            expected="a new name",
            found=name,
            done="nothing was changed",
            next_step=f"choose another, such as --name {free}, or remove the section",
        )
    return name


def minutes(found: Proposal, size: Shape, content: Mapping[str, Any]) -> int:
    """Return about how many minutes a run takes on this machine: from MNIST's, by pixels and epochs."""
    from pipeline.search.settings import SearchSettings

    search = params.parse("search", content["search"], SearchSettings)
    seconds = float(_STAGES_S)
    for family in content["families"]:
        budget = search.budget_for(found.name, family, math.ceil(found.learnt / _BATCH))
        work = (budget.epochs + budget.trial_epochs) * found.learnt * size[0] * size[1]
        at_once = min(cores.usable().usable, search.slots)
        seconds += _FAMILY_S + _TRIAL_S * budget.trials + work * _SECONDS.get(family, _OTHERS_S) * 2 / at_once
    return max(1, round(seconds / 60))


def settings(found: Proposal, content: Mapping[str, Any], *, flip: bool) -> list[str]:
    """Return ``key=value`` settings that select the dataset; with `flip`, families that can mirror pictures do so."""
    from pipeline.models import loading

    wanted = [f"datasets={json.dumps([found.name])}"]
    for family in content["families"] if flip else ():
        if "flip" in loading.load(family, content[family]).dimensions:
            known = "space_for" in content[family]
            value = "{flip: true}" if known else f"{{{found.name}: {{flip: true}}}}"
            wanted.append(f"{family}.space_for{f'.{found.name}' if known else ''}={value}")
    return wanted


def section_text(found: Proposal, section: Mapping[str, Any] | None = None) -> str:
    """Return the section as YAML, with comments."""
    section = found.section if section is None else section
    ordered = sorted(section, key=list(_COMMENTS).index)
    return params_edit.commented({key: section[key] for key in ordered}, _COMMENTS)


def write(found: Proposal, folder: Path, file: Path, chosen: Sequence[str]) -> None:
    """Write the section into params.yaml, and select the dataset there.

    Args:
        found: The proposal.
        folder: The project, or a workspace, which is made if it does not exist.
        file: The params file that is changed; its text is kept otherwise.
        chosen: Settings that select the dataset; see `settings`.

    Raises:
        PipelineError: The result would not pass `pipeline check`; then nothing was changed.
    """
    root = dvc.project_root()
    section = dict(found.section)
    if folder.resolve() == root and Path(section["path"]).is_relative_to(root.parent):
        section["path"] = os.path.relpath(section["path"], root)
    before = require_writable(file) if file.is_relative_to(folder) else file.read_text(encoding="utf-8")
    text = params_edit.with_dataset(before, found.name, section_text(found, section), chosen)
    workspace.replace_params(folder, text)


def distance_of(name: str, content: Mapping[str, Any]) -> float:
    """Return the largest distance of near duplicates for a dataset."""
    from pipeline.validation.suites import ValidateSettings

    return params.parse("validate", content.get("validate"), ValidateSettings).distance_of(name)


def run_command(found: Proposal, folder: Path | None, chosen: Sequence[str]) -> str:
    """Return the command that runs the pipeline on the dataset, as it is typed here.

    Args:
        found: The proposal.
        folder: The workspace whose params have the dataset; None for those of the checkout.
        chosen: Settings that select it.
    """
    if folder is None:
        runs = dvc.project_root() / "runs" / found.name
        place = runs.relative_to(Path.cwd()) if runs.is_relative_to(Path.cwd()) else runs
        return shlex.join(["pipeline", "run", "--workspace", str(place)])
    section = json.dumps(found.section, ensure_ascii=False)  # `run` copies the checkout's params, which lack it
    settings = [*chosen, f"download.{found.name}={section}"]
    return shlex.join(
        ["pipeline", "run", "--workspace", str(folder), *(part for each in settings for part in ("-S", each))]
    )
