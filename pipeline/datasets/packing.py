"""Own images: packs what lies where its owner keeps it into one file, and says how params.yaml is to pin it.

DVC cannot watch a folder that only a setting names. So what is outside is taken in first, by `pipeline ingest` and by
the commands that call it (`run`, `retrain`, `make repro`): the pictures go, as they are, into a file named by its
sha256, and its pin goes into the dataset's section of params, which DVC and git do watch. Whoever has the params and
that file has the data; a folder that has changed since is a new pin, and only then does anything run again.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

from pipeline.core.errors import DataError, ParamsError
from pipeline.datasets.decoding import MOST_BYTES
from pipeline.datasets.formats.folder import Entry
from pipeline.datasets.source_format import source_format

_CLASS = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,79}")
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can tell


def pins(content: dict[str, Any], root: Path, project: Path) -> list[str]:
    """Pack the own images of every chosen dataset and return settings, ``key=value``, that pin them.

    Args:
        content: Params.
        root: What relative paths are relative to.
        project: The folder whose stages will read the packs; in ``data/own/<dataset>`` of it they are put.

    Raises:
        DataError: Images are missing, or something lies among them that is none.
    """
    settings: list[str] = []
    sections = content.get("download")
    for dataset in content.get("datasets") or ():
        section = sections.get(dataset) if isinstance(sections, dict) else None
        if not isinstance(section, dict) or "path" not in section:
            continue  # not of one's own; `pipeline check` tells what else is wrong
        source = source_format(str(section.get("format", "")))
        if not hasattr(source, "collect"):
            continue  # a format that has no path: told by `pipeline check`, too
        path = _resolved(dataset, section["path"], root)
        if not path.exists() and section.get("files"):
            print(f"{dataset}: {path} is not here; going on with what is pinned", file=sys.stderr)
            continue
        try:
            entries = source.collect(path)
            pin = pack(dataset, entries, project / "data" / "own" / dataset)
        except PermissionError as error:
            raise DataError(f"{dataset}: {error.filename} cannot be used", found=error.strerror) from None
        values = {
            "path": str(section["path"] if root == project else path),
            "mirrors": [f"file:data/own/{dataset}/"],
            "files": [pin],
            "classes": classes(dataset, entries),
        }
        if section.get("files") != [pin]:
            told = f"{len(entries):,} pictures of {len(values['classes'])} classes"
            print(f"{dataset}: {told} pinned as {pin['name']}", file=sys.stderr)
        changed = {key: value for key, value in values.items() if section.get(key) != value}
        settings += [f"download.{dataset}.{key}={json.dumps(value)}" for key, value in changed.items()]
    return settings


def classes(dataset: str, entries: list[Entry]) -> list[str]:
    """Return the names of the classes, sorted."""
    names = sorted({entry.label for entry in entries})
    wrong = [name for name in names if not _CLASS.fullmatch(name)]
    if wrong or len(names) < 2:
        expected = "at least two classes with names of at most 80 characters, without slashes or a dot in front"
        raise DataError(f"{dataset}: classes", expected=expected, found=wrong or names)
    return names


def pack(dataset: str, entries: list[Entry], store: Path) -> dict[str, Any]:
    """Write pictures as they are into one file named by its sha256 and return its pin; equal pictures, equal file.

    Raises:
        DataError: A picture is too large, or its name is no text.
    """
    store.mkdir(parents=True, exist_ok=True)
    partial = store / ".pack.partial"
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for entry in entries:
            size = entry.path.stat().st_size
            if size > MOST_BYTES:
                raise DataError(
                    f"{entry.path} is too large", expected=f"at most {MOST_BYTES:,} bytes", found=f"{size:,}"
                )
            info = zipfile.ZipInfo("/".join((entry.split, entry.label, _text(entry))), _LONG_AGO)
            info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every system
            archive.writestr(info, entry.path.read_bytes())
    with partial.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = partial.stat().st_size
    final = store / f"{dataset}-{sha256[:16]}.zip"
    partial.replace(final)
    return {"name": final.name, "bytes": size, "sha256": sha256}


def _text(entry: Entry) -> str:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{entry.path!r}: name", expected="UTF-8", found=repr(entry.name)) from None
    return entry.name.replace("\\", "_")


def _resolved(dataset: str, path: Any, root: Path) -> Path:
    if not isinstance(path, str) or not path:
        raise ParamsError(f"download.{dataset}.path", expected="where your images lie", found=repr(path))
    return (root / Path(path).expanduser()).resolve()
