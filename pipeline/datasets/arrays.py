"""Dataset types and their storage: memory-mapped `.npy` files of uint8 images, with their labels.

Pixels stay uint8 on disk and in memory, and models rescale them on the device. That is a quarter of the bytes of
float32 to read and move. Arrays are memory-mapped, so any number of worker processes share one copy.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pydantic

from pipeline.core.errors import DataError, nearest
from pipeline.core.files import new_folder
from pipeline.core.params import Settings

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Covers = npt.NDArray[np.int16]
Fit = Literal["pad", "crop", "stretch"]
Background = Literal["black", "white", "refuse"]


def nfc(name: str) -> str:
    """Return the name of a class in Unicode's composed form: macOS may write é as two characters, Linux as one."""
    return unicodedata.normalize("NFC", name)


ClassName = Annotated[str, pydantic.AfterValidator(nfc)]
Sha256 = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]

_CHUNK = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"


class Pin(Settings):
    """The expected size and sha256 of a file, as served or unpacked.

    A file passes if either checksum matches, because a mirror may serve the same content in another gzip wrapping.
    """

    bytes: pydantic.PositiveInt
    sha256: Sha256
    unpacked_bytes: pydantic.PositiveInt | None = None
    unpacked_sha256: Sha256 | None = None

    @pydantic.model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.unpacked_bytes is None) != (self.unpacked_sha256 is None):
            raise ValueError("set both unpacked_bytes and unpacked_sha256, or neither")
        return self


class PinnedFile(Pin):
    """A file of a dataset."""

    name: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # a name, never a path


class Source(Pin):
    """An alternative edition of a file, with its own pin: a repacked archive or the copy on a company mirror.

    `url` is a URL of the same kinds as a mirror, or a path. A relative path is searched for in MIRROR, then in the
    folder where the command was started.
    """

    file: str
    url: Annotated[str, pydantic.Field(min_length=1)]


class SourceSettings(Settings):
    """The settings of one dataset under ``download``; a format may declare more.

    Mirrors are tried in order: ``https://…``, ``file:///folder/``, or ``package:<name>/<path>/`` for data inside an
    installed Python package. Sources are tried before mirrors. `gate` is what unusual images, class sizes and imbalance
    do: ``warn``, which is the default for your own images, or ``strict``, which stops.
    """

    format: str
    mirrors: tuple[Annotated[str, pydantic.Field(pattern="^(https?://|file:|package:)")], ...] = ()
    files: tuple[PinnedFile, ...] = ()  # empty for a format that generates its images
    classes: Annotated[tuple[ClassName, ...], pydantic.Field(min_length=2)]
    sources: tuple[Source, ...] = ()
    gate: Literal["warn", "strict"] | None = None

    @property
    def strict(self) -> bool:
        """Whether unusual images, class sizes and imbalance stop the gate: as ``gate`` says, else if not your own."""
        return self.gate == "strict" if self.gate else getattr(self, "path", None) is None

    @pydantic.field_validator("sources")
    @classmethod
    def _of_known_files(cls, sources: tuple[Source, ...], info: pydantic.ValidationInfo) -> tuple[Source, ...]:
        names = [pin.name for pin in info.data.get("files", ())]
        for source in sources:
            if source.file not in names:
                raise ValueError(f"file: {nearest(source.file, names)}")
        return sources

    def unpacked_limit(self, file: str) -> int | None:
        """Return the largest unpacked size of any edition of a file, or None if a pin does not state it."""
        pins = [pin for pin in self.files if pin.name == file] + [pin for pin in self.sources if pin.file == file]
        sizes = [pin.unpacked_bytes for pin in pins]
        return None if None in sizes else max(size for size in sizes if size)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _pinned(cls, section: Any) -> Any:
        if isinstance(section, dict) and "path" in section and not section.get("files"):
            raise ValueError("own images are not pinned: run `pipeline ingest`, `pipeline run` or `make repro`")
        return section


@dataclass(frozen=True)
class Labelled:
    """Images of shape (N, H, W, C), uint8, with integer labels of shape (N,).

    Attributes:
        files: The file of each image, such as ``cat/1.png``; empty where images come from no files.
        groups: The group of each image, such as its author; ``""`` for an image without one, empty where none has one.
        covers: What of each image its picture covers, (N, 4): top, left, bottom and right; None where that is all.
    """

    images: Images
    labels: Labels
    files: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    covers: Covers | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            found = f"{self.images.dtype} {self.images.shape}"
            raise DataError("images", expected="uint8 of shape (N, H, W, C)", found=found)
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int64:
            expected = f"one int64 per image ({len(self.images)})"
            raise DataError("labels", expected=expected, found=f"{self.labels.dtype} {self.labels.shape}")
        for what, texts in (("files", self.files), ("groups", self.groups)):
            if len(texts) not in (0, len(self.images)):
                raise DataError(what, expected=f"none, or one per image ({len(self.images)})", found=len(texts))

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: npt.NDArray[np.int64]) -> Labelled:
        """Return a copy in memory of the images and labels at the given indices, in that order."""
        files, groups = (
            tuple(texts[index] for index in indices) if texts else () for texts in (self.files, self.groups)
        )
        covers = None if self.covers is None else self.covers[indices]
        return Labelled(self.images[indices], self.labels[indices], files, groups, covers)

    def digest(self) -> str:
        """Return the sha256 of shape, pixels, labels and groups: the identity of the data, independent of its files."""
        sha = hashlib.sha256(str(self.images.shape).encode())
        sha.update(np.ascontiguousarray(self.images).data)
        sha.update(np.ascontiguousarray(self.labels).data)
        if any(self.groups):
            sha.update(json.dumps(self.groups).encode())
        return sha.hexdigest()


def concatenated(parts: Sequence[Labelled]) -> Labelled:
    """Return the images of several parts as one; those of a part without files or groups have ``""``."""
    texts = {
        name: tuple(text for part in parts for text in getattr(part, name) or ("",) * len(part))
        for name in ("files", "groups")
        if any(getattr(part, name) for part in parts)
    }
    images, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return Labelled(images, labels, **texts, covers=_covers(parts))


def _covers(parts: Sequence[Labelled]) -> Covers | None:
    if all(part.covers is None for part in parts):
        return None
    whole = [np.array([(0, 0, *part.images.shape[1:3])] * len(part), np.int16).reshape(-1, 4) for part in parts]
    return np.concatenate(
        [all_ if part.covers is None else part.covers for all_, part in zip(whole, parts, strict=True)]
    )


@dataclass(frozen=True)
class Reading:
    """How pictures become arrays.

    Attributes:
        depth: Bits of the values in 16-bit files; None for 16, unless the values of the whole set fill fewer.
        background: What lies behind transparent pixels; None for black, unless dark ink would be lost on it.
        fit: Whether a picture of another shape is padded, cropped or stretched.
    """

    depth: int | None = None
    background: Background | None = None
    fit: Fit = "pad"

    @property
    def level(self) -> int:
        """The level of the background in every channel."""
        return 255 if self.background == "white" else 0


PLAIN = Reading()


@dataclass(frozen=True)
class RawImages:
    """A dataset split into train and test, as a source format reads it.

    Attributes:
        group: The pattern that finds the group of a picture in its path; pictures of a batch are grouped likewise.
        validation: Which images of train the publisher set apart for validation; None where `prepare` chooses them.
        reading: How its pictures became arrays; pictures of a batch are read likewise.
    """

    train: Labelled
    test: Labelled
    class_names: tuple[str, ...]
    group: str | None = None
    validation: npt.NDArray[np.bool_] | None = None
    reading: Reading = PLAIN


@dataclass(frozen=True)
class Splits:
    """The splits for training and model selection. The test split is stored separately; see `load_test`.

    Attributes:
        digest: Identity of train and val.
        batches: Digests of the accepted batches among the images.
    """

    train: Labelled
    val: Labelled
    class_names: tuple[str, ...]
    digest: str
    batches: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


@dataclass(frozen=True)
class TestSplit:
    """The held-out images: `evaluate` scores models on them, and no model is selected by them."""

    test: Labelled
    class_names: tuple[str, ...]
    digest: str


def image_digests(images: Images) -> list[bytes]:
    """Return the sha256 of each image's pixels."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]


def read_unpacked(path: Path, limit: int) -> bytes:
    """Return a file's content, gunzipped if it is gzip, with bounded memory.

    Reading stops at the first chunk past `limit` bytes.

    Raises:
        DataError: The file is missing, its gzip data is truncated or damaged, or it unpacks to more than `limit` bytes.
    """
    content = io.BytesIO()
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        with gzip.open(path) if packed else path.open("rb") as source:
            while content.tell() <= limit and (chunk := source.read(_CHUNK)):
                content.write(chunk)
    except FileNotFoundError:
        raise DataError(f"{path} is missing", next_step="dvc repro download") from None
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(
            f"{path} cannot be unpacked",
            expected="a complete gzip file",
            found=str(error),
            next_step="dvc repro -f download",
        ) from None
    if content.tell() > limit:
        raise DataError(f"{path} unpacks to too many bytes", expected=f"at most {limit:,} bytes", found="more")
    return content.getvalue()


def save_splits(folder: Path, splits: Splits) -> None:
    """Write train and val to a folder, atomically."""
    with new_folder(folder) as partial:
        _save_labelled(partial, "train", splits.train)
        _save_labelled(partial, "val", splits.val)
        _save_meta(partial, splits.class_names, splits.digest, splits.batches)


def load_splits(folder: Path) -> Splits:
    """Return train and val, memory-mapped.

    Raises:
        DataError: The folder is missing, or `save_splits` did not write it.
    """
    meta = _load_meta(folder)
    return Splits(
        train=_load_labelled(folder, "train"),
        val=_load_labelled(folder, "val"),
        class_names=tuple(meta["class_names"]),
        digest=meta["digest"],
        batches=tuple(meta.get("batches", ())),
    )


def save_test(folder: Path, split: TestSplit) -> None:
    """Write the test split to a folder, atomically."""
    with new_folder(folder) as partial:
        _save_labelled(partial, "test", split.test)
        _save_meta(partial, split.class_names, split.digest)


def load_test(folder: Path) -> TestSplit:
    """Return the test split, memory-mapped; raises the same errors as `load_splits`."""
    meta = _load_meta(folder)
    return TestSplit(_load_labelled(folder, "test"), tuple(meta["class_names"]), meta["digest"])


def _save_labelled(folder: Path, name: str, data: Labelled) -> None:
    np.save(folder / f"{name}_images.npy", data.images)
    np.save(folder / f"{name}_labels.npy", data.labels)
    if any(data.groups):
        np.save(folder / f"{name}_groups.npy", np.array(data.groups, dtype=str))


def _load_labelled(folder: Path, name: str) -> Labelled:
    try:
        images = np.load(folder / f"{name}_images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / f"{name}_labels.npy", mmap_mode="r", allow_pickle=False)
        grouped = folder / f"{name}_groups.npy"  # there if images have groups
        groups = np.load(grouped, allow_pickle=False).tolist() if grouped.exists() else ()
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}: {name} cannot be loaded",
            expected="arrays written by prepare",
            found=str(error),
            next_step="dvc repro prepare",
        ) from None
    return Labelled(images, labels, groups=tuple(groups))


def _save_meta(folder: Path, class_names: tuple[str, ...], digest: str, batches: tuple[str, ...] = ()) -> None:
    meta = {"class_names": class_names, "digest": digest, **({"batches": batches} if batches else {})}
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def _load_meta(folder: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} is not a dataset", expected="meta.json", found=str(error), next_step="dvc repro prepare"
        ) from None
    return meta
