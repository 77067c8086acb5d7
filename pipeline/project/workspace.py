"""A workspace: a copy of the project in a folder of its own, and the way DVC is run.

Nothing is shared with the checkout: code, params, data, reports, DVC cache and tracking database are the workspace's.
It needs no git. Making it again keeps its data, its incoming batches and its manifests of accepted ones.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.core import params
from pipeline.core.atomic import write_text
from pipeline.core.errors import ParamsError, PipelineError, nearest
from pipeline.datasets import own
from pipeline.project import check
from pipeline.registry import pretrained
from pipeline.tracking.provenance import code_tags

MANIFESTS = Path("reports/ingest")  # of accepted batches: one file per dataset, which `prepare` depends on
_MARKER = ".pipeline-workspace"
_DVC_CONFIG = "[core]\n    no_scm = true\n    analytics = false\n"
_GRACE_S = 30.0  # what an interrupted DVC may take to wait for its stage


def project_root() -> Path:
    """Return the folder that this package runs from.

    Raises:
        PipelineError: It is not a checkout of the project: the package was installed without its graph.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "dvc.yaml").exists():
        raise PipelineError(
            "this installation has no graph", expected=f"dvc.yaml in {root}", found="none", next_step="use a checkout"
        )
    return root


def prepare(folder: Path, overrides: Iterable[str]) -> dict[str, Any]:
    """Make a folder a workspace, or bring an older one up to date, and return its params.

    Args:
        folder: New, empty, or a workspace already.
        overrides: Settings as ``key=value``; see `override`.

    Raises:
        PipelineError: The folder holds something else.
        ParamsError: A setting is wrong; then nothing was changed.
    """
    root = project_root()
    folder = folder.resolve()
    if folder == root or folder.is_relative_to(root / "pipeline"):
        raise PipelineError("the workspace is the project itself", expected="another folder", found=folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise PipelineError(
            f"{folder} is not empty and not a workspace", expected="a new or empty folder", next_step="name another"
        )
    text = override((root / "params.yaml").read_text(), overrides)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _MARKER, "A copy of the project, made by `pipeline run`; safe to delete.\n")
    text = override(text, own.pins(YAML(typ="safe").load(text), root, folder))
    text = override(text, pretrained.pins(YAML(typ="safe").load(text), folder))
    content = _checked(text, folder)
    _copy_code(root, folder)
    write_text(folder / "params.yaml", text)
    make_manifests(folder, content)
    return content


def settle(folder: Path) -> dict[str, Any]:
    """Pin own images and models to begin with in params, make missing manifests, and return the params.

    Raises:
        PipelineError: Own images are missing or damaged, or a setting is wrong; then params.yaml is as it was.
    """
    file = folder / params.PARAMS_FILE
    content = params.read(file)
    settings = [*own.pins(content, folder, folder), *pretrained.pins(content, folder)]
    if settings:
        text = override(file.read_text(), settings)
        content = _checked(text, folder)
        write_text(file, text)
    else:
        content = check.check(file)
    make_manifests(folder, content)
    return content


def _checked(text: str, folder: Path) -> dict[str, Any]:
    """Return the content of a params file that is not there yet, once it is known to be right."""
    proposed = folder / "params.proposed.yaml"
    write_text(proposed, text)
    try:
        return check.check(proposed)
    except ParamsError as error:
        raise ParamsError(str(error).replace(str(proposed), "params.yaml")) from None
    finally:
        proposed.unlink(missing_ok=True)


def make_manifests(folder: Path, content: Mapping[str, Any]) -> None:
    """DVC wants a dependency to exist, and warns of one that is empty: a blank line for every dataset without any."""
    for dataset in content["datasets"]:
        manifest = folder / MANIFESTS / f"{dataset}.jsonl"
        if not manifest.exists():
            write_text(manifest, "\n")


def _copy_code(root: Path, folder: Path) -> None:
    sources = {path.relative_to(root) for path in (root / "pipeline").rglob("*.py")}
    for stale in {path.relative_to(folder) for path in (folder / "pipeline").rglob("*.py")} - sources:
        (folder / stale).unlink()
    for path in (*sources, Path("dvc.yaml"), Path(".dvcignore")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, folder / path)
    write_text(folder / ".dvc" / "config", _DVC_CONFIG)


def override(text: str, overrides: Iterable[str]) -> str:
    """Return the text of a params file with some settings changed, comments kept.

    Args:
        text: A params file.
        overrides: ``search.seed=1`` or ``datasets=[mnist]``: a dotted key, and a value as YAML.

    Raises:
        ParamsError: No ``=``, a value that is no YAML, or a key whose parents do not exist.
    """
    yaml = _round_trip()
    content = yaml.load(text)
    for told in overrides:
        key, equals, value = told.partition("=")
        if not equals:
            raise ParamsError("-S", expected="key=value", found=repr(told))
        *parents, last = key.strip().split(".")
        place = content
        for parent in parents:
            if not isinstance(place, Mapping) or parent not in place:
                known = [str(name) for name in place] if isinstance(place, Mapping) else []
                raise ParamsError(f"-S {told}: no such section", expected=nearest(parent, known), found=repr(parent))
            place = place[parent]
        if not isinstance(place, Mapping):
            raise ParamsError(f"-S {told}", expected=f"{'.'.join(parents)} to be a section", found=repr(place))
        try:
            place[last] = YAML(typ="safe").load(value)  # type: ignore[index]
        except YAMLError as error:
            raise ParamsError(f"-S {told}: not a value", expected="YAML", found=str(error)) from None
    return _dump(yaml, content)


def next_generation(path: Path = params.PARAMS_FILE) -> int:
    """Raise ``search.generation`` in a params file by one, and return it."""
    generation = int(params.section("search.generation", path)) + 1
    write_text(path, override(path.read_text(), [f"search.generation={generation}"]))
    return generation


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which DVC runs the stages of a folder.

    `python` in a stage's command is this Python, and finds the folder's own code first. A relative MIRROR, or source
    of a download, is relative to where the command was typed, not to the folder.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    env["PIPELINE_TYPED_IN"] = str(Path.cwd())
    mirror = env.get("MIRROR")
    if mirror and "://" not in mirror and not mirror.startswith("file:"):
        env["MIRROR"] = str(Path(mirror).resolve())
    if folder.resolve() != project_root():
        env["PIPELINE_GIT_COMMIT"] = code_tags()["git.commit"]
    return env


def reproduce(folder: Path, *, targets: Iterable[str] = (), quiet: bool = False) -> int:
    """Run ``dvc repro`` in a folder and return its exit code; what it prints goes to standard error if `quiet`.

    Ctrl-C reaches DVC and its stage by themselves: they are given time to end well.
    """
    command = [sys.executable, "-m", "dvc", "repro", *targets]
    out = sys.stderr if quiet else None
    process = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=out)
    try:
        return process.wait()
    except KeyboardInterrupt:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        finally:
            signal.signal(signal.SIGINT, previous)
        raise


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.width = 10_000  # never break a line that the author did not
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _dump(yaml: YAML, content: Any) -> str:
    from io import StringIO

    buffer = StringIO()
    yaml.dump(content, buffer)
    return buffer.getvalue()
