"""The inputs of a running stage as dvc.yaml declares them, and the check that they are the same when it ends.

DVC hashes params, dependencies and code after a stage has ended. What changes while the stage runs would be recorded
as the input of a result that was made without it. So a stage takes the signatures of its inputs when it starts, and
fails at its end if one differs: DVC then records nothing, and the stage runs again.

A file of the package is identified by the sha256 of its content: these files are small, and a tool may write one again
without a change. Any other file is identified by its inode, size, mtime and ctime: every write changes one of them, an
undone one too, and to read 180 MB twice would take longer than some stages. A file that was only touched counts as
changed. Settings are compared as values, so an edit elsewhere in params.yaml does no harm, and the stage reads them as
they were at its start (`params.hold`).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.core import params
from pipeline.core.errors import PipelineError

GRAPH = Path("dvc.yaml")
_IGNORED = Path(".dvcignore")
_BYTECODE = "__pycache__"  # importing writes it, wherever it is ignored
_PACKAGE = Path(__file__).resolve().parents[1]
_REFERENCE = re.compile(r"\$\{item\.(\w+)\}")


@dataclass(frozen=True)
class Declaration:
    """A stage of dvc.yaml for one item of its matrix.

    Attributes:
        name: As DVC prints it: ``search@digits-cnn``.
        settings: Dotted names in params.yaml.
        deps: Files and folders, code among them.
    """

    name: str
    settings: tuple[str, ...]
    deps: tuple[Path, ...]


@dataclass(frozen=True)
class StageInputs:
    """The inputs of a stage at one moment: the value of each setting, the signature of each file."""

    declaration: Declaration
    settings: Mapping[str, Any]
    files: Mapping[Path, str]

    def require_unchanged(self) -> None:
        """Compare the inputs with those of now.

        Raises:
            PipelineError: A setting or a file has changed, appeared or vanished.
        """
        now = _inputs(self.declaration, params.read_again())
        settings = [name for name, value in now.settings.items() if value != self.settings[name]]
        files = sorted({str(path) for path, _ in self.files.items() ^ now.files.items()})
        changed = [*(f"{name} in {params.PARAMS_FILE}" for name in settings), *files]
        if changed:
            more = f" and {len(changed) - 1} more" if changed[1:] else ""
            raise PipelineError(
                f"{self.declaration.name}: its inputs changed while it ran",
                expected="settings, data and code to stay as they were at its start",
                found=f"a change in {changed[0]}{more}",
                done="its result is not recorded",
                next_step="run it again",
            )


def take(arguments: Sequence[str]) -> StageInputs | None:
    """Return the inputs of the stage that a command line runs, and hold its settings for the rest of this process.

    Args:
        arguments: The command line: a stage's name or module, then its options.

    Returns:
        None where there is no dvc.yaml, or where it has no such stage or item.
    """
    declaration = declared(arguments) if GRAPH.exists() else None
    return _inputs(declaration, params.hold()) if declaration else None


def declared(arguments: Sequence[str]) -> Declaration | None:
    """Return what dvc.yaml declares for a command line; an option that names another path replaces the declared one."""
    name = Path(arguments[0]).stem
    stage = params.read(GRAPH)["stages"].get(name)
    if stage is None:
        return None
    words = shlex.split(stage["cmd"])
    options = {word: value for word, value in pairwise(words) if word.startswith("--")}
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for option in options:
        parser.add_argument(option, dest=option)
    try:
        given = vars(parser.parse_known_args(list(arguments[1:]))[0])
    except argparse.ArgumentError:  # the stage reports it
        return None
    item = {key: given.get(f"--{key}") for key in stage.get("matrix", ())}
    if None in item.values():
        return None

    def resolved(text: str) -> str:
        return _REFERENCE.sub(lambda match: str(item[match[1]]), text)

    used = {resolved(value): given[option] or resolved(value) for option, value in options.items()}
    deps = (resolved(dep) for dep in stage["deps"])
    return Declaration(
        "@".join([name, *(["-".join(map(str, item.values()))] if item else [])]),
        tuple(resolved(each) for each in stage["params"]),
        tuple(Path(used.get(dep, dep)) for dep in deps),
    )


def _inputs(declaration: Declaration, content: Mapping[str, Any]) -> StageInputs:
    ignored = [_BYTECODE, *(_IGNORED.read_text(encoding="utf-8").split() if _IGNORED.exists() else ())]
    files = {file: sign for dep in declaration.deps for file in _files(dep, ignored) if (sign := _signature(file))}
    return StageInputs(declaration, {name: _value(content, name) for name in declaration.settings}, files)


def _value(content: Mapping[str, Any], dotted: str) -> Any:
    value: Any = content
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _files(path: Path, ignored: Sequence[str]) -> Iterator[Path]:
    """Yield a file, or the files of a folder that DVC does not ignore."""
    if not path.is_dir():
        yield path
    for folder, folders, files in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not any(fnmatch(name, pattern) for pattern in ignored)]
        yield from (Path(folder, name) for name in files if not any(fnmatch(name, pattern) for pattern in ignored))


def _signature(path: Path) -> str | None:
    try:
        if path.resolve().is_relative_to(_PACKAGE):
            return hashlib.sha256(path.read_bytes()).hexdigest()
        stat = path.stat()
    except FileNotFoundError:
        return None
    return f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
