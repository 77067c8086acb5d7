"""A workspace: a copy of the project in a folder of its own.

Nothing is shared with the checkout: code, params, data, reports, DVC cache and tracking database are the workspace's.
It needs no git. Making it again keeps its data, its incoming batches and its manifests of accepted ones.
"""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.core import params
from pipeline.core.errors import ParamsError, PipelineError
from pipeline.core.files import rewrite_text, write_text
from pipeline.datasets import manifest, packing
from pipeline.project import check, dvc, dvc_lock, lock, params_edit
from pipeline.project.own_code import MARKER
from pipeline.registry import pretrained
from pipeline.tracking import provenance

REFERENCES = Path("reports/references")  # what `pipeline references` writes, which the stage report depends on
MANIFESTS = Path("reports/ingest")  # of accepted batches: one folder per dataset, which `prepare` depends on
_EARLIER = f"{MANIFESTS}/${{item.dataset}}.jsonl"  # what the graph of an earlier release depends on
_DVC_CONFIG = "[core]\n    no_scm = true\n    analytics = false\n"


def prepare(
    folder: Path, overrides: Iterable[str], *, renumber: bool = False, skip_damaged: bool = False
) -> dict[str, Any]:
    """Make a folder a workspace, or bring an older one up to date, and return its params.

    Args:
        folder: New, empty, or a workspace already.
        overrides: Settings as ``key=value``; see `override`.
        renumber: Number the classes of own images in natural order.
        skip_damaged: Leave out files among own images that cannot be read.

    Raises:
        PipelineError: The folder holds something else.
        ParamsError: A setting is wrong; then nothing was changed.
    """
    root = dvc.project_root()
    folder = folder.resolve()
    text = require_usable(folder, overrides)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / MARKER, "A copy of the project, made by `pipeline run`; safe to delete.\n")
    content = YAML(typ="safe").load(text)
    text = params_edit.override(text, packing.pins(content, root, folder, renumber=renumber, skip_damaged=skip_damaged))
    text = params_edit.override(text, pretrained.pins(YAML(typ="safe").load(text), folder))
    content = _checked(text, folder)
    written = (folder / "pipeline", folder / params.PARAMS_FILE, folder / MANIFESTS)
    with dvc_lock.writing(folder, *written, log=lock.to_stderr):
        _copy_code(root, folder)
        rewrite_text(folder / params.PARAMS_FILE, text)
        make_manifests(folder, content)
    manifest.make(folder / REFERENCES)
    return content


def replace_params(folder: Path, text: str) -> None:
    """Replace the params file of the project or of a workspace, after a check; a new folder becomes a workspace.

    Raises:
        PipelineError: The folder holds something else, or the text would not pass; then nothing was changed.
    """
    root, folder = dvc.project_root(), folder.resolve()
    new = folder != root and not (folder / params.PARAMS_FILE).exists()
    if new:
        require_usable(folder, [])
        folder.mkdir(parents=True, exist_ok=True)
    content = _checked(text, folder, unpinned=True)
    if new:
        write_text(folder / MARKER, "A copy of the project, made by `pipeline add-dataset`; safe to delete.\n")
        _copy_code(root, folder)
    with dvc_lock.writing(folder, folder / params.PARAMS_FILE, log=lock.to_stderr):
        rewrite_text(folder / params.PARAMS_FILE, text)
    if folder != root:
        make_manifests(folder, content)


def require_usable(folder: Path, overrides: Iterable[str]) -> str:
    """Check what must be right before a folder is made: the folder, and the names in its settings.

    Returns:
        The project's params.yaml with the overrides.

    Raises:
        PipelineError: The folder holds something else than a workspace, or is the project itself.
        ParamsError: An override or a name is wrong.
    """
    root, folder = dvc.project_root(), folder.resolve()
    if folder == root or folder.is_relative_to(root / "pipeline"):
        raise PipelineError("the workspace is the project itself", expected="another folder", found=folder)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names - {lock.FILE.name, lock.HOLDER.name} and MARKER.name not in names:
        raise PipelineError(
            f"{folder} is not empty and not a workspace", expected="a new or empty folder", next_step="name another"
        )
    own = folder / params.PARAMS_FILE
    if own.exists() and own.samefile(root / params.PARAMS_FILE):
        raise PipelineError(f"{own} is the project's own", expected="a copy", found="a link", next_step=f"rm {own}")
    before = (root / params.PARAMS_FILE).read_text(encoding="utf-8")
    text = params_edit.override(before, overrides)
    check.check_names(YAML(typ="safe").load(text))
    typed = _typed_paths(text, before)
    return params_edit.override(text, typed) if typed else text


def _typed_paths(text: str, before: str) -> list[str]:
    """Return settings that make the paths absolute which ``-S`` gives own images: typed paths are relative to here.

    Args:
        text: params.yaml with the overrides.
        before: params.yaml without them.
    """
    if text == before:
        return []
    now, then = _own_paths(text), _own_paths(before)
    typed = {name: Path(path).expanduser() for name, path in now.items() if path != then.get(name)}
    return [f"download.{name}.path={json.dumps(str(path.absolute()))}" for name, path in typed.items()]


def _own_paths(text: str) -> dict[str, str]:
    """Return the path of each dataset of own images."""
    sections = YAML(typ="safe").load(text).get("download")
    of_mappings = {name: each for name, each in (sections or {}).items() if isinstance(each, Mapping)}
    return {name: each["path"] for name, each in of_mappings.items() if isinstance(each.get("path"), str)}


def settle(folder: Path, *, renumber: bool = False, skip_damaged: bool = False) -> dict[str, Any]:
    """Pin own images and models to begin with in params, make missing manifests, and return the params.

    Args:
        folder: The project or workspace.
        renumber: Number the classes of own images in natural order.
        skip_damaged: Leave out files among own images that cannot be read.

    Raises:
        PipelineError: Own images are missing or damaged, or a setting is wrong; then params.yaml is as it was.
    """
    file = folder / params.PARAMS_FILE
    content = params.read(file)
    check.check_names(content, file)
    own = packing.pins(content, folder, folder, renumber=renumber, skip_damaged=skip_damaged)
    settings = [*own, *pretrained.pins(content, folder)]
    if settings:
        text = params_edit.override(file.read_text(encoding="utf-8"), settings)
        content = _checked(text, folder)
        with dvc_lock.writing(folder, file, log=lock.to_stderr):
            rewrite_text(file, text)
    else:
        content = check.check(file)
    with (
        dvc_lock.writing(folder, folder / MANIFESTS, log=lock.to_stderr) if _unmade(folder, content) else nullcontext()
    ):
        make_manifests(folder, content)
    manifest.make(folder / REFERENCES)
    return content


def _checked(text: str, folder: Path, *, unpinned: bool = False) -> dict[str, Any]:
    """Return the content of a params file that is about to be written, after a check."""
    proposed = folder / "params.proposed.yaml"
    write_text(proposed, text)
    try:
        return check.check(proposed, unpinned=unpinned)
    except ParamsError as error:
        raise ParamsError(str(error).replace(str(proposed), "params.yaml")) from None
    finally:
        proposed.unlink(missing_ok=True)


def make_manifests(folder: Path, content: Mapping[str, Any]) -> None:
    """Make the manifest of each dataset without any, on which DVC depends, and convert those of earlier releases.

    Raises:
        PipelineError: The folder's graph is of a release that reads the earlier manifests.
    """
    unmade = _unmade(folder, content)
    graph = folder / "dvc.yaml"
    if unmade and graph.exists() and _EARLIER in graph.read_text(encoding="utf-8"):
        raise PipelineError(
            f"{folder.resolve()} is a workspace of an earlier release",
            expected=f"a dvc.yaml that depends on {MANIFESTS}/${{item.dataset}}",
            found=_EARLIER,
            next_step="call `pipeline run` with its folder and settings, which brings it up to date",
        )
    for dataset in unmade:
        path = folder / MANIFESTS / dataset
        if converted := manifest.convert(path):
            batches = "1 batch" if converted == 1 else f"{converted:,} batches"
            lock.to_stderr(f"note: {manifest.earlier_file(path)} has become the folder {path}: {batches}; commit both")
        manifest.make(path)


def _unmade(folder: Path, content: Mapping[str, Any]) -> list[str]:
    """Return the datasets whose manifests are missing, or are those of an earlier release."""
    paths = {dataset: folder / MANIFESTS / dataset for dataset in content["datasets"]}
    return [name for name, path in paths.items() if not path.is_dir() or manifest.earlier_file(path).exists()]


def _copy_code(root: Path, folder: Path) -> None:
    """Copy the package with its templates, and the graph, and record their version.

    Files of the package that no longer exist are removed. A copy that is replaced is announced. A kill while files are
    copied leaves the older record, whose digest then shows that the code is not that of its commit.
    """
    version = provenance.code_version(root)  # before: an edit while it is copied shows in the digest
    sources = {*provenance.code_files(root), provenance.GRAPH}
    sources |= {path for path in (Path(".dvcignore"),) if (root / path).exists()}
    stale = provenance.code_files(folder) - sources
    changed = {path for path in sources if not _same(root / path, folder / path)}
    if (folder / provenance.PACKAGE).exists() and (replaced := stale | changed):
        before = provenance.code_version(folder)
        lock.to_stderr(
            f"note: the code in {folder} is replaced by that of {root}: {len(replaced)} files differ;"
            f" commit {before.commit} before, {version.commit} now"
        )
    for path in stale:
        (folder / path).unlink()
    for path in changed:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, folder / path)
    provenance.record(version, folder)
    config = folder / ".dvc" / "config"
    if not config.exists() and not config.is_symlink():  # remotes and caches in it are the user's
        write_text(config, _DVC_CONFIG)


def _same(source: Path, copy: Path) -> bool:
    return copy.exists() and filecmp.cmp(source, copy, shallow=False)
