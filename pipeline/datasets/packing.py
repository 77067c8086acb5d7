"""Own images: packs pictures from any folder into one file, and returns the settings that pin it in params.yaml.

DVC cannot track a folder that only a setting names. So `pipeline ingest` and the commands that call it (`run`,
`retrain`, `make repro`) first copy the pictures unchanged into a file named by its sha256. Its pin goes into the
dataset's section of params, which DVC and git track. The params and that file together define the data. If the folder
changes, the pin changes, and only then do stages run again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.core import files, names, params
from pipeline.core.errors import DataError, ParamsError
from pipeline.datasets import bars, class_names, faults, grouping
from pipeline.datasets.arrays import RawImages, Reading, nfc
from pipeline.datasets.decoding import Survey, look, reason
from pipeline.datasets.faults import Fault
from pipeline.datasets.formats.folder import Collection, Entry, OwnSettings
from pipeline.datasets.own_files import Found
from pipeline.datasets.source_format import source_format

DAMAGED = "damaged.csv"
_NO_PIN = {"name": "unpinned", "bytes": 1, "sha256": "0" * 64}
_SKIP = "fix or remove them, or call `pipeline ingest` or `run` with --skip-damaged, which goes on without them"

_CLASS = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,79}")
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can store


def pins(
    content: dict[str, Any], root: Path, project: Path, *, renumber: bool = False, skip_damaged: bool = False
) -> list[str]:
    """Pack your own images of every selected dataset and return ``key=value`` settings that pin them.

    Pictures that are not pinned yet are looked at first, so that damage and missing settings are reported at once.

    Args:
        content: The content of params.yaml.
        root: The base of relative paths.
        project: The folder whose stages read the packs; they are written to its ``data/own/<dataset>``.
        renumber: Number classes in the natural order of their names, also where they were pinned in another order.
        skip_damaged: Leave out what cannot be read, and set `skip_damaged` of its datasets.

    Raises:
        DataError: Images are missing or damaged, the folder contains something else, or a setting is missing.
    """
    settings: list[str] = []
    sections = content.get("download")
    for dataset in content.get("datasets") or ():
        names.checked(dataset, "datasets")  # it becomes a folder
        section = sections.get(dataset) if isinstance(sections, dict) else None
        if not isinstance(section, dict) or "path" not in section:
            continue  # not the user's own images; `pipeline check` reports other faults
        source = source_format(str(section.get("format", "")))
        if not hasattr(source, "find") and not hasattr(source, "local_files"):
            continue  # a format without a path: `pipeline check` reports this too
        path = _resolved(dataset, section["path"], root)
        if not path.exists() and section.get("files"):
            print(f"{dataset}: {path} does not exist; using the pinned file", file=sys.stderr)
            if renumber and section.get("classes") != (ordered := class_names.natural(section.get("classes") or ())):
                settings.append(f"download.{dataset}.classes={json.dumps(ordered, ensure_ascii=False)}")
            continue
        store = project / "data" / "own" / dataset
        try:
            if hasattr(source, "find"):
                numbered = [] if renumber else _known(section, dataset, project)
                values = _pinned(dataset, section, source, path, store, numbered, skip_damaged)
            else:
                values = _copied(dataset, section, source, path, store)
        except PermissionError as error:
            raise DataError(f"{dataset}: {error.filename} cannot be accessed", found=error.strerror) from None
        values |= {
            "path": str(section["path"] if root == project else path),
            "mirrors": [f"file:data/own/{dataset}/"],
        }
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


def _pinned(
    dataset: str,
    section: Mapping[str, Any],
    source: ModuleType,
    path: Path,
    store: Path,
    numbered: Sequence[str],
    skip_damaged: bool,
) -> dict[str, Any]:
    """Pack the images of one dataset, and return the settings that pin them.

    Args:
        dataset: Its name.
        section: Its section of params.
        source: Its format.
        path: Where its images are.
        store: The folder of its packed files.
        numbered: Classes that keep their order.
        skip_damaged: Leave out what cannot be read.
    """
    settings = _settings(dataset, section, source)
    collection: Collection = source.find(path, section)
    entries = grouped(dataset, collection.entries, section.get("group"), path)
    found, known = collection.found, section.get("files")
    survey, table = Survey(), store / DAMAGED
    skips = skip_damaged or settings.skip_damaged
    if skips or found.faults or found.empty:
        entries, survey = readable(entries, settings.reading, found, path)
    if skips:
        found.leave_out(table)
        lost = {entry.label for entry in collection.entries} - {entry.label for entry in entries}
        found.empty += [Fault(f"class {label}", "none of its pictures can be read") for label in sorted(lost)]
    found.require(dataset, len(entries), path, table, _SKIP)
    names = class_names.in_order(classes(dataset, entries), numbered)
    for note in (*found.lines(path), *_alike(names)):
        print(f"{dataset}: {note}", file=sys.stderr)

    def check() -> None:
        nonlocal survey
        if not skips:
            survey = readable(entries, settings.reading, found, path)[1]
            found.require(dataset, len(entries) - len(found.faults), path, table, _SKIP)
        survey.require_plain(dataset, settings.reading, f"download.{dataset}")

    pin = pack(dataset, entries, store, section.get("group"), known, check)
    if known != [pin]:
        print(f"{dataset}: {len(entries):,} pictures of {len(names)} classes pinned as {pin['name']}", file=sys.stderr)
        print(f"{dataset}: {class_names.listed(names)}", file=sys.stderr)
        size = getattr(settings, "size", None)
        if size and settings.reading.fit == "pad" and (line := bars.advice(survey.shapes, size)):
            print(f"{dataset}: {line}", file=sys.stderr)
    if names != class_names.natural(names):
        kept = "classes keep the order in which they were pinned before"
        print(f"{dataset}: {kept}; `pipeline ingest --renumber` numbers them in natural order", file=sys.stderr)
    return {"files": [pin], "classes": names, **({"skip_damaged": True} if found.left_out else {})}


def _alike(names: Sequence[str]) -> list[str]:
    """Return a line for each two classes that may be one, written in two ways."""
    first: dict[str, str] = {}
    both = [(first.setdefault(name.casefold(), name), name) for name in names]
    return [
        f"{faults.quoted(one)} and {faults.quoted(name)} differ by capitals alone, and are two classes"
        for one, name in both
        if one != name
    ]


def _copied(dataset: str, section: Mapping[str, Any], source: ModuleType, path: Path, store: Path) -> dict[str, Any]:
    """Copy files that already are a dataset, under names with their sha256, and return the settings that pin them."""
    found: list[Path] = source.local_files(path, section)
    pins = []
    for file in found:
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        name = f"{sha256[:16]}-{source.plain_name(file.name)}"
        pins.append({"name": name, "bytes": file.stat().st_size, "sha256": sha256})
        if not (store / name).exists():
            with files.new_file(store / name) as partial:
                shutil.copyfile(file, partial)
    names = source.local_classes(found, section)
    if section.get("files") != pins:
        settings = params.parse(f"download.{dataset}", {**section, "files": pins, "classes": names}, source.Settings)
        raw: RawImages = source.read(store, settings)
        count = f"{len(raw.train):,} and {len(raw.test):,} images"
        print(f"{dataset}: {count} of {len(names)} classes pinned as {len(pins)} files", file=sys.stderr)
    return {"files": pins, "classes": names}


def readable(entries: Sequence[Entry], reading: Reading, found: Found, root: Path) -> tuple[list[Entry], Survey]:
    """Decode every picture, and return those that can be read, and what they show; the others are faults."""
    kept, survey = [], Survey()
    for entry in entries:
        try:
            survey.add(str(entry.path).removeprefix(f"{root}{os.sep}"), look(entry.source.content(), reading))
        except PermissionError:
            raise
        except Exception as error:  # noqa: BLE001 - Pillow raises many kinds for damaged files and odd EXIF data
            found.faults.append(Fault(str(entry.path), reason(error)))
        else:
            kept.append(entry)
    return kept, survey


def _settings(dataset: str, section: Mapping[str, Any], source: ModuleType) -> OwnSettings:
    """Return the section of a dataset as its format reads it, before it is pinned."""
    settings: OwnSettings = params.parse(f"download.{dataset}", as_pinned(section), source.Settings)
    return settings


def as_pinned(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section of a dataset as if its images were pinned, so that its other settings can be checked."""
    pinned = section.get("files") or "path" not in section
    return {**section} if pinned else {**section, "files": [_NO_PIN], "classes": ["", " "]}


def classes(dataset: str, entries: list[Entry]) -> list[str]:
    """Return the names of the classes, in natural order."""
    names = class_names.natural({entry.label for entry in entries})
    wrong = [name for name in names if not _CLASS.fullmatch(name)]
    if wrong or len(names) < 2:
        expected = "at least two classes with names of at most 80 characters, without slashes or a leading dot"
        raise DataError(f"{dataset}: classes", expected=expected, found=wrong or names)
    return names


def grouped(dataset: str, entries: list[Entry], pattern: Any, path: Path) -> list[Entry]:
    """Return pictures with the groups that a pattern finds in their paths, relative to the folder of all."""
    if not isinstance(pattern, str):
        return entries  # `pipeline check` reports another type
    if any(entry.group for entry in entries):
        expected = "groups from the column group, or from the pattern"
        raise DataError(f"download.{dataset}.group", expected=expected, found="both", next_step="remove one of them")
    home = path if all(entry.path.is_relative_to(path) for entry in entries) else path.parent  # of a table
    try:
        below = [entry.path.resolve().relative_to(home.resolve()).as_posix() for entry in entries]
        found = grouping.of_paths(dataset, pattern, below)
    except re.error as error:
        raise ParamsError(f"download.{dataset}.group", expected="a regular expression", found=error) from None
    return [replace(entry, group=group) for entry, group in zip(entries, found, strict=True)]


def pack(
    dataset: str,
    entries: list[Entry],
    store: Path,
    pattern: str | None = None,
    known: object = None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Write pictures unchanged to one file named by its sha256, and return its pin.

    Equal pictures with equal groups give an equal file.

    Args:
        dataset: Its name.
        entries: The pictures.
        store: The folder of the file.
        pattern: That of the groups.
        known: The pins of the dataset so far.
        check: Called before a file is stored that is new; what it raises prevents that.

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
        final = store / f"{dataset}-{sha256[:16]}.zip"
        pin = {"name": final.name, "bytes": partial.stat().st_size, "sha256": sha256}
        if known != [pin] and not final.exists():
            check()
        files.publish(partial, final)
    return pin


def _add(archive: zipfile.ZipFile, entry: Entry) -> None:
    archive.writestr(_info(_member(entry)), entry.source.content())


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
