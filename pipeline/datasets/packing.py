"""Own images: packs pictures from any folder into one file, and returns the settings that pin it in params.yaml.

DVC cannot track a folder that only a setting names. So `pipeline ingest` and the commands that call it (`run`,
`retrain`, `make repro`) first copy the pictures unchanged into a file named by its sha256. Its pin goes into the
dataset's section of params, which DVC and git track. The params and that file together define the data. If the folder
changes, the pin changes, and only then do stages run again.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.core import files, names, params
from pipeline.core.errors import DataError, ParamsError
from pipeline.datasets import class_names, grouping
from pipeline.datasets.arrays import nfc
from pipeline.datasets.decoding import MOST_BYTES
from pipeline.datasets.formats.folder import Entry
from pipeline.datasets.source_format import source_format

_CLASS = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,79}")
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can store


def pins(content: dict[str, Any], root: Path, project: Path, *, renumber: bool = False) -> list[str]:
    """Pack your own images of every selected dataset and return ``key=value`` settings that pin them.

    Args:
        content: The content of params.yaml.
        root: The base of relative paths.
        project: The folder whose stages read the packs; they are written to its ``data/own/<dataset>``.
        renumber: Number classes in the natural order of their names, also where they were pinned in another order.

    Raises:
        DataError: Images are missing, or the folder contains something else.
    """
    settings: list[str] = []
    sections = content.get("download")
    for dataset in content.get("datasets") or ():
        names.checked(dataset, "datasets")  # it becomes a folder
        section = sections.get(dataset) if isinstance(sections, dict) else None
        if not isinstance(section, dict) or "path" not in section:
            continue  # not the user's own images; `pipeline check` reports other faults
        source = source_format(str(section.get("format", "")))
        if not hasattr(source, "collect"):
            continue  # a format without a path: `pipeline check` reports this too
        path = _resolved(dataset, section["path"], root)
        if not path.exists() and section.get("files"):
            print(f"{dataset}: {path} does not exist; using the pinned file", file=sys.stderr)
            if renumber and section.get("classes") != (ordered := class_names.natural(section.get("classes") or ())):
                settings.append(f"download.{dataset}.classes={json.dumps(ordered, ensure_ascii=False)}")
            continue
        try:
            entries = _grouped(dataset, source.collect(path), section.get("group"), path)
            pin = pack(dataset, entries, project / "data" / "own" / dataset, section.get("group"))
        except PermissionError as error:
            raise DataError(f"{dataset}: {error.filename} cannot be accessed", found=error.strerror) from None
        ordered = class_names.in_order(classes(dataset, entries), () if renumber else _known(section, dataset, project))
        values = {
            "path": str(section["path"] if root == project else path),
            "mirrors": [f"file:data/own/{dataset}/"],
            "files": [pin],
            "classes": ordered,
        }
        if section.get("files") != [pin]:
            summary = f"{len(entries):,} pictures of {len(ordered)} classes"
            print(f"{dataset}: {summary} pinned as {pin['name']}", file=sys.stderr)
            print(f"{dataset}: {class_names.listed(ordered)}", file=sys.stderr)
        if ordered != class_names.natural(ordered):
            kept = "classes keep the order in which they were pinned before"
            print(f"{dataset}: {kept}; `pipeline ingest --renumber` numbers them in natural order", file=sys.stderr)
        changed = [key for key, value in values.items() if section.get(key) != value]
        texts = {key: json.dumps(values[key], ensure_ascii=False) for key in changed}  # YAML has no surrogate pairs
        settings += [f"download.{dataset}.{key}={text}" for key, text in texts.items()]
    return settings


def _known(section: dict[str, Any], dataset: str, project: Path) -> list[str]:
    """Return the classes of a dataset in the order in which they are pinned already."""
    found = section.get("classes")
    if found is None and (project / params.PARAMS_FILE).exists():  # a workspace pins what the project's params lack
        with suppress(ParamsError):  # damaged params of a workspace are about to be written anew
            pinned = params.read(project / params.PARAMS_FILE).get("download")
            mine = pinned.get(dataset) if isinstance(pinned, dict) else None
            found = mine.get("classes") if isinstance(mine, dict) else None
    return [nfc(name) for name in found if isinstance(name, str)] if isinstance(found, list) else []


def classes(dataset: str, entries: list[Entry]) -> list[str]:
    """Return the names of the classes, in natural order."""
    names = class_names.natural({entry.label for entry in entries})
    wrong = [name for name in names if not _CLASS.fullmatch(name)]
    if wrong or len(names) < 2:
        expected = "at least two classes with names of at most 80 characters, without slashes or a leading dot"
        raise DataError(f"{dataset}: classes", expected=expected, found=wrong or names)
    return names


def _grouped(dataset: str, entries: list[Entry], pattern: Any, path: Path) -> list[Entry]:
    """Return pictures with the groups that a pattern finds in their paths, relative to the folder of all."""
    if not isinstance(pattern, str):
        return entries  # `pipeline check` reports another type
    if any(entry.group for entry in entries):
        expected = "groups from the column group, or from the pattern"
        raise DataError(f"download.{dataset}.group", expected=expected, found="both", next_step="remove one of them")
    home = path if path.is_dir() else path.parent
    try:
        below = [entry.path.resolve().relative_to(home.resolve()).as_posix() for entry in entries]
        found = grouping.of_paths(dataset, pattern, below)
    except re.error as error:
        raise ParamsError(f"download.{dataset}.group", expected="a regular expression", found=error) from None
    return [replace(entry, group=group) for entry, group in zip(entries, found, strict=True)]


def pack(dataset: str, entries: list[Entry], store: Path, pattern: str | None = None) -> dict[str, Any]:
    """Write pictures unchanged to one file named by its sha256, and return its pin.

    Equal pictures with equal groups give an equal file. A pattern is that of the groups.

    Raises:
        DataError: A picture is too large, or its name is not valid UTF-8.
    """
    with files.temporary(store / "pack") as partial:
        with zipfile.ZipFile(partial, "x", zipfile.ZIP_STORED) as archive:
            for entry in entries:
                _add(archive, entry)
            groups = {_member(entry): entry.group for entry in entries if entry.group}
            if groups or pattern:
                archive.writestr(_info(grouping.MEMBER), grouping.packed(groups, pattern))
        with partial.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = partial.stat().st_size
        final = store / f"{dataset}-{sha256[:16]}.zip"
        files.publish(partial, final)
    return {"name": final.name, "bytes": size, "sha256": sha256}


def _add(archive: zipfile.ZipFile, entry: Entry) -> None:
    size = entry.path.stat().st_size
    if size > MOST_BYTES:
        raise DataError(f"{entry.path} is too large", expected=f"at most {MOST_BYTES:,} bytes", found=f"{size:,}")
    archive.writestr(_info(_member(entry)), entry.path.read_bytes())


def _info(member: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(member, _LONG_AGO)
    info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every system
    return info


def _member(entry: Entry) -> str:
    return "/".join((entry.split, entry.label, _text(entry)))


def _text(entry: Entry) -> str:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{entry.path!r}: name", expected="UTF-8", found=repr(entry.name)) from None
    return entry.name.replace("\\", "_")


def _resolved(dataset: str, path: Any, root: Path) -> Path:
    if not isinstance(path, str) or not path:
        raise ParamsError(f"download.{dataset}.path", expected="the path of your images", found=repr(path))
    return (root / Path(path).expanduser()).resolve()
