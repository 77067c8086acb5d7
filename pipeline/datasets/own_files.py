"""Your own files as they lie in a folder or in a zip archive: pictures, litter of other programs, and the rest."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import DataError
from pipeline.datasets import faults
from pipeline.datasets.decoding import MOST_BYTES, SUFFIXES
from pipeline.datasets.faults import Fault

UNREAD = (  # suffixes of pictures in formats that are not read
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".svg", ".psd"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"),
)
_LITTER = {  # of Windows, macOS, Synology and Picasa
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("__macosx", "icon\r", "@eadir", "picasa.ini", "lost+found"),
}
_ABOUT = {"readme", "license", "licence", "copying", "citation", "changelog"}  # texts that published sets bring
_TEXTS = {"", ".txt", ".md", ".rst", ".html", ".pdf", ".cff", ".bib"}


@dataclass(frozen=True)
class OwnFile:
    """A file: on disk, or a member of a zip archive."""

    name: str
    path: Path  # of a member: the archive's path, then its own
    archive: zipfile.ZipFile | None = field(default=None, compare=False)
    member: str = ""

    @property
    def suffix(self) -> str:
        """The suffix in small letters."""
        return Path(self.name).suffix.lower()

    def content(self) -> bytes:
        """Return what is in it.

        Raises:
            DataError: It is too large, or cannot be read.
        """
        size = self.path.stat().st_size if self.archive is None else self.archive.getinfo(self.member).file_size
        if size > MOST_BYTES:
            raise DataError(f"{self.path} is too large", expected=f"at most {MOST_BYTES:,} bytes", found=f"{size:,}")
        if self.archive is None:
            return self.path.read_bytes()
        try:
            return self.archive.read(self.member)
        except Exception as error:  # noqa: BLE001 - zipfile and zlib raise many kinds for damaged and encrypted members
            raise DataError(f"{self.path} cannot be unpacked", found=" ".join(str(error).split())) from None


@dataclass(frozen=True)
class OwnFolder:
    """A folder: on disk, or in a zip archive."""

    name: str
    path: Path
    inside: dict[str, OwnFolder | OwnFile] | None = None  # of a folder in an archive


@dataclass
class Found:
    """What was found beside the pictures that are used.

    Attributes:
        faults: Files that cannot be used, but may be left out.
        left_out: Whether they are.
        empty: Classes without a picture: to leave one out would change the task.
        litter: Names of files of other programs.
        unread: Pictures in formats that are not read.
        notes: What else a person should know.
    """

    faults: list[Fault] = field(default_factory=list)
    left_out: bool = False
    empty: list[Fault] = field(default_factory=list)
    litter: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def require(
        self,
        what: str,
        count: int,
        root: Path,
        table: Path | None = None,
        next_step: str = "fix or remove them",
    ) -> None:
        """Check that there are no faults beside `count` pictures in the folder `root`.

        Raises:
            DataError: There are; the table then lists all of them.
        """
        wrong = [*self.empty, *([] if self.left_out else self.faults)]
        if wrong:
            files = "1 file" if len(wrong) == 1 else f"{len(wrong):,} files"
            where = f"{what}: {files} beside {count:,} pictures cannot be used"
            expected = f"pictures that can be read ({' '.join(SUFFIXES)}), in a folder per class"
            next_step = next_step if not self.empty else "fix them, or remove their folders and rows"
            raise faults.error(where, wrong, expected=expected, next_step=next_step, table=table, root=root)

    def leave_out(self, table: Path) -> None:
        """Leave faults out, and list them in a table."""
        if self.faults:
            self.left_out = True
            faults.save(table, self.faults)
            count = "1 file" if len(self.faults) == 1 else f"{len(self.faults):,} files"
            self.notes.append(f"{count} left out that cannot be used, see {table}")

    def lines(self, root: Path) -> list[str]:
        """Return a line for each kind of file below `root` that was passed over, with its count, and the notes."""
        lines = list(self.notes)
        if self.litter:
            count = "1 file" if len(self.litter) == 1 else f"{len(self.litter):,} files"
            names = [faults.escaped(name) for name in dict.fromkeys(self.litter)]
            lines.append(f"{count} of other programs passed over: {faults.some(names)}")
        if self.unread:
            kinds = sorted({Path(name).suffix.lower().removeprefix(".").upper() for name in self.unread})
            count = "1 picture" if len(self.unread) == 1 else f"{len(self.unread):,} pictures"
            names = [faults.escaped(name.removeprefix(f"{root}{os.sep}")) for name in self.unread]
            not_read = f"{kinds[0]} is" if len(kinds) == 1 else f"{' and '.join(kinds)} are"
            lines.append(
                f"{count} passed over, because {not_read} not read: {faults.some(names)};"
                " next: save a copy as JPEG or PNG in the same folder of each that shall count, and call this again"
            )
        return lines


def opened(path: Path) -> OwnFolder:
    """Return a folder, or the root of a zip archive.

    Raises:
        DataError: There is none.
    """
    if path.is_dir():
        return OwnFolder(path.name, path)
    if not path.is_file():
        raise DataError(f"{path}: no such folder", expected="a folder per class, or a zip file of them", found="none")
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no folder", expected="a folder per class, or a zip file", found=error) from None
    root = OwnFolder(path.name, path, {})
    for info in archive.infolist():
        _add(root, info, archive)
    return root


def listing(folder: OwnFolder, home: OwnFolder, found: Found) -> tuple[list[OwnFolder], list[OwnFile]]:
    """Return the folders and files in a folder, each sorted by name, without litter, which is counted.

    A link that leads out of `home`, or around in a circle, is a fault.
    """
    if folder.inside is not None:
        children: list[OwnFolder | OwnFile] = list(folder.inside.values())
    else:
        every = [_child(path, folder, home, found) for path in folder.path.iterdir()]
        children = [child for child in every if child is not None]
    kept = sorted(children, key=lambda child: child.name)
    found.litter += [child.name for child in kept if is_litter(child)]
    kept = [child for child in kept if not is_litter(child)]
    folders = [child for child in kept if isinstance(child, OwnFolder)]
    return folders, [child for child in kept if isinstance(child, OwnFile)]


def pictures(files: Iterable[OwnFile], found: Found) -> list[OwnFile]:
    """Return the pictures among files, by their suffixes; others are counted as unread or as faults."""
    kept = []
    for file in files:
        if file.suffix in SUFFIXES:
            kept.append(file)
        elif file.suffix in UNREAD:
            found.unread.append(str(file.path))
        else:
            found.faults.append(Fault(str(file.path), "does not have the suffix of a picture"))
    return kept


def is_litter(child: OwnFolder | OwnFile) -> bool:
    """Return whether a file or folder is hidden, of another program, or a text about the set."""
    name = child.name.casefold()
    stem, dot, suffix = name.rpartition(".")
    about = isinstance(child, OwnFile) and (stem or name) in _ABOUT and dot + suffix * bool(dot) in _TEXTS
    return name.startswith(".") or name in _LITTER or about


def _child(path: Path, folder: OwnFolder, home: OwnFolder, found: Found) -> OwnFolder | OwnFile | None:
    if path.is_symlink():
        target = Path(os.path.realpath(path))  # Path.resolve raises on a loop of links
        if not target.is_relative_to(os.path.realpath(home.path)):
            found.faults.append(Fault(str(path), f"is a link out of the folder, to {target}"))
            return None
        if Path(os.path.realpath(folder.path)).is_relative_to(target) or not target.exists():
            found.faults.append(Fault(str(path), "is a link to nothing, or to a folder around it"))
            return None
    return OwnFolder(path.name, path) if path.is_dir() else OwnFile(path.name, path)


def _add(root: OwnFolder, info: zipfile.ZipInfo, archive: zipfile.ZipFile) -> None:
    """Put a member of an archive into the tree of its folders."""
    parts = [part for part in info.filename.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if not parts:
        return
    place = root
    for part in parts if info.is_dir() else parts[:-1]:
        assert place.inside is not None
        child = place.inside.setdefault(part, OwnFolder(part, place.path / part, {}))
        if isinstance(child, OwnFile):
            raise DataError(f"{child.path} is a file and a folder", expected="a zip file of folders")
        place = child
    if not info.is_dir():
        assert place.inside is not None
        place.inside[parts[-1]] = OwnFile(parts[-1], place.path / parts[-1], archive, info.filename)
