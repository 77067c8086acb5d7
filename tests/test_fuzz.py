"""Damaged and hostile files of every kind that is read: the only exception is a PipelineError of bounded length.

Inputs come from a fixed seed. FUZZ_INPUTS sets how many each kind gets in the long form (default 3,000), FUZZ_SEED the
seed of both forms; each kind stops after FUZZ_SECONDS (default 60) in the long form.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core import params
from pipeline.core.errors import PipelineError
from pipeline.datasets import batches, decoding, manifest
from pipeline.datasets.formats import cifar
from pipeline.project import params_edit
from pipeline.validation.suites import ValidateSettings

ROOT = Path(__file__).resolve().parents[1]
SHORT, SHORT_SECONDS = 60, 0.7
LONG, LONG_SECONDS = int(os.environ.get("FUZZ_INPUTS", "3000")), float(os.environ.get("FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
SHAPE, NAMES = (6, 5, 3), ("x", "y")
TOKENS = (b"'descr'", b"'shape'", b"'fortran_order'", b"True", b"(", b")", b"-", b"1", b",", b"{", b"}", b"'|u1'")
TOKENS += (b"'|O'", b"[", b"lambda:0", b"9" * 30, b"'<i8'", b"\xff", b"\0", b"\\", b"'''", b"#", b"\n", b"0x")


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Flip, cut, repeat, overwrite or insert some bytes."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        place = chance.randrange(len(data) + 1)
        length = chance.choice((1, 2, 4, 8, 64))
        match chance.randrange(6):
            case 0:
                data[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = data[place : place + length] * chance.randrange(4)
            case 3:
                data[place : place + length] = chance.choice((b"\0", b"\xff")) * length
            case 4:
                data[place:place] = chance.choice(TOKENS)
            case _:
                data[place : place + 4] = struct.pack(
                    chance.choice("<>") + "I", chance.choice((0, 1, 2**31, 2**32 - 1))
                )
    return bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.1 else data)


def npz(chance: random.Random, header: Callable[[bytes], bytes] = bytes) -> bytes:
    images = np.arange(4 * 90, dtype=np.int64).astype(np.uint8).reshape(4, *SHAPE)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, array in (("images", images), ("labels", np.arange(4) % 2)):
            file = io.BytesIO()
            np.save(file, array)
            archive.writestr(f"{name}.npy", header(file.getvalue()))
    return content.getvalue()


def odd_header(chance: random.Random) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        text = mutated(content[10:128], chance)
        if chance.random() < 0.5:
            text = b"".join(chance.choice(TOKENS) * chance.choice((1, 1, 500)) for _ in range(chance.randrange(20)))
        length = chance.choice((len(text), len(text), chance.randrange(1 << 16)))
        start = b"\x93NUMPY" + bytes([chance.choice((1, 1, 2, 3)), 0]) + struct.pack("<H", length % 65536)
        return start + text + content[128:]

    return change


def picture(chance: random.Random) -> bytes:
    mode = chance.choice(("L", "RGB", "RGBA", "P", "1", "I;16", "CMYK"))
    kind = "JPEG" if mode in ("L", "RGB", "CMYK") and chance.random() < 0.6 else "PNG" if mode != "CMYK" else "JPEG"
    entries = [(0x0112, 3, 1, chance.randrange(10) << 16)]
    entries += [
        (chance.choice((0x010E, 0x8769, 0x8825, 0x0111, 0x014A)), chance.randrange(15), chance.choice((0, 1, 2, 9999)),
         chance.choice((0, 8, 26, 2**30)))
        for _ in range(chance.randrange(4))
    ]  # fmt: skip
    packed = b"".join(struct.pack(">HHII", *entry) for entry in entries)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + packed + bytes(4) + b"AB" * 9
    content = io.BytesIO()
    Image.new(mode, (9, 7)).save(content, kind, exif=exif)
    return content.getvalue() if chance.random() < 0.3 else mutated(content.getvalue(), chance)


def tar(chance: random.Random) -> bytes:
    content = io.BytesIO()
    with tarfile.open(
        fileobj=content, mode="w", format=chance.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    ) as archive:
        for name in ("data_batch_1.bin", "batches.meta.txt", "x" * chance.choice((3, 120, 300))):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = 3073
            archive.addfile(info, io.BytesIO(bytes(3073)))
    return mutated(content.getvalue(), chance)


def long_names(count: int) -> bytes:
    """A tar file that begins with GNU long names, one after the other."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 200
    return (info.tobuf(tarfile.GNU_FORMAT) + b"n" * 200 + bytes(312)) * count + bytes(1024)


def entry(chance: random.Random) -> bytes:
    line = manifest.ManifestEntry(digest="0" * 64, batch="b\u2028é", images=4, classes=("x", "y"))
    return mutated((line.model_dump_json() + "\n").encode() * 2, chance)


def read_manifest(path: Path) -> None:
    """Read a damaged file as a batch of a manifest, then as a manifest of an earlier release."""
    folder = path.with_name("manifest")
    folder.mkdir(exist_ok=True)
    try:
        (folder / f"{'0' * 64}.json").write_bytes(path.read_bytes())
        manifest.read_manifest(folder)
    finally:
        shutil.rmtree(folder)
        path.rename(manifest.earlier_file(folder))
        manifest.convert(folder)


def yaml(chance: random.Random) -> bytes:
    _, start, rest = (ROOT / "params.yaml").read_bytes().partition(b"\nvalidate:")
    text = mutated((start + rest)[:1500], chance)
    odd = (
        "[" * 3000,
        "2001-99-99",
        "!!python/object:os.system",
        "&a [*a]",
        "{<<: 3}",
        "? [a]",
        "1e999",
        "\t",
        "%YAML 9",
    )
    return text + (f"\nodd: {chance.choice(odd)}\n".encode() if chance.random() < 0.3 else b"")


def read_npz(path: Path) -> None:
    batches.read(path.rename(path.with_suffix(".npz")), SHAPE, NAMES)


def read_picture(path: Path) -> None:
    decoding.declared_pixels(path)
    decoding.decode_all("a", [("b", path.read_bytes())], (6, 5), 3)


def read_tar(path: Path) -> None:
    pin = {"name": path.name, "bytes": 1, "sha256": "0" * 64}
    section = {"format": "cifar", "files": [pin], "classes": ["x", "y"], "batch_images": 1}
    cifar.read(path.parent, cifar.Settings.model_validate(section))


def read_params(path: Path) -> None:
    text = path.read_bytes().decode(errors="replace")
    try:
        params.load("validate", ValidateSettings, path)
    finally:
        params_edit.override(text, ["validate.max_shift=1"])


@dataclass(frozen=True)
class Kind:
    """A kind of file: how an input is made, and how it is read."""

    make: Callable[[random.Random], bytes]
    read: Callable[[Path], object]


KINDS = {
    "npz": Kind(lambda chance: mutated(npz(chance), chance), read_npz),
    "npy-header": Kind(lambda chance: npz(chance, odd_header(chance)), read_npz),
    "picture": Kind(picture, read_picture),
    "tar": Kind(tar, read_tar),
    "manifest": Kind(entry, read_manifest),
    "params": Kind(yaml, read_params),
}


def fuzz(kind: Kind, folder: Path, count: int, seconds: float) -> tuple[int, int]:
    """Read inputs until the count or the time is used up; return how many were read and how many refused."""
    end, refusals = time.monotonic() + seconds, []
    tried = 0
    for number in range(count):
        if time.monotonic() > end:
            break
        tried += 1
        path = folder / "input"
        path.write_bytes(kind.make(random.Random(f"{SEED}-{number}")))
        try:
            kind.read(path)
        except PipelineError as error:
            refusals.append(str(error))
        except BaseException as error:
            error.add_note(f"input {number} of seed {SEED}")
            raise
    assert [line for line in refusals if len(line) > 10_000 or "\n" in line] == []
    return tried, len(refusals)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_raise_no_other_exception(tmp_path: Path, name: str) -> None:
    tried, refused = fuzz(KINDS[name], tmp_path, SHORT, SHORT_SECONDS)
    assert tried > 0
    assert refused > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_many_damaged_files_raise_no_other_exception(tmp_path: Path, name: str) -> None:
    tried, refused = fuzz(KINDS[name], tmp_path, LONG, LONG_SECONDS)
    print(f"{name}: {tried:,} inputs, {refused:,} refused")
    assert refused > 0


@pytest.mark.parametrize("count", [3, 2_000])
def test_a_tar_file_of_long_names_is_one_bounded_line(tmp_path: Path, count: int) -> None:
    (tmp_path / "input").write_bytes(long_names(count))
    with pytest.raises(PipelineError) as raised:
        read_tar(tmp_path / "input")
    assert len(str(raised.value)) < 1000


def test_a_message_is_bounded_whatever_a_file_holds() -> None:
    assert len(str(PipelineError("n" * 10**6, expected="e" * 10**6, found="f" * 10**6))) < 10_000
