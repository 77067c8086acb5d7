"""Decoding of pictures into arrays of one size, with limits for untrusted files.

Only PNG and JPEG are tried. The size is read from the header and checked before decoding, and pictures that cannot be
decoded are listed by name. The source formats `folder` and `table` and incoming batches share this module.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Images

SUFFIXES = (".png", ".jpg", ".jpeg")
MOST_BYTES = 64 << 20  # of one file
_MOST_PIXELS = 50_000_000  # of one picture; cameras produce 12 to 50 million
_NAMED = 5
_STRIP = 256  # rows
_FORMATS = ("PNG", "JPEG")
_TURNS: dict[object, Image.Transpose] = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_all(what: str, pictures: Iterable[tuple[str, bytes]], size: tuple[int, int], channels: int) -> Images:
    """Return named pictures as (N, height, width, channels); see `decode`.

    Raises:
        DataError: Some pictures cannot be decoded. The message has their count and the names and faults of the first.
    """
    arrays, faults = [], []
    for name, content in pictures:
        try:
            arrays.append(decode(content, size, channels))
        except Exception as error:  # noqa: BLE001 - Pillow raises many kinds for damaged files and odd EXIF data
            faults.append(f"{name} ({' '.join(str(error).split()) or type(error).__name__})")
    if faults:
        more = f" and {len(faults) - _NAMED:,} more" if len(faults) > _NAMED else ""
        raise DataError(
            f"{what}: {len(faults):,} of {len(faults) + len(arrays):,} pictures cannot be read",
            expected="complete PNG or JPEG files",
            found=", ".join(faults[:_NAMED]) + more,
            next_step="fix or remove them",
        )
    return np.stack(arrays) if arrays else np.empty((0, *size, channels), np.uint8)


def decode(content: bytes, size: tuple[int, int], channels: int) -> Images:
    """Return one picture as (height, width, channels), padded with black to keep its aspect ratio.

    The picture is scaled to fit inside the frame and centred (bilinear; Pillow widens the filter when it shrinks a
    picture, which avoids aliasing). EXIF orientation is applied, transparency is composited on black, and 16-bit grey
    keeps its upper 8 bits.

    Raises:
        ValueError: The picture is too large, or is not PNG or JPEG. For damaged files and odd EXIF data Pillow raises
            many other errors.
    """
    height, width = size
    with _opened(io.BytesIO(content)) as opened:
        if opened.width * opened.height > _MOST_PIXELS:
            raise ValueError(f"declares {opened.width:,} × {opened.height:,} pixels, more than {_MOST_PIXELS:,}")
        upright = _upright(opened, "L" if channels == 1 else "RGB")  # may be `opened` itself, which is read when used
        fitted = ImageOps.contain(upright, (width, height), Image.Resampling.BILINEAR)
    framed = Image.new(upright.mode, (width, height))
    framed.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
    return np.asarray(framed, np.uint8).reshape(height, width, channels)


def declared_pixels(path: Path) -> int:
    """Return the number of pixels to decode that the header of a picture declares.

    It is 0 for what `decode` refuses by its header: too large a picture, or none.
    """
    try:
        with _opened(path) as opened:
            pixels = opened.width * opened.height
            return pixels if pixels <= _MOST_PIXELS else 0
    except Exception:  # noqa: BLE001 - Pillow raises many kinds; `decode_all` names the fault
        return 0


@contextmanager
def _opened(source: Path | io.BytesIO) -> Iterator[Image.Image]:
    """Open a picture: Pillow reads the header only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures, whose limit is lower here, and of odd EXIF data
        try:
            opened = Image.open(source, formats=_FORMATS)
        except UnidentifiedImageError:
            raise ValueError("not a PNG or JPEG file") from None
        with opened:
            yield opened


def _upright(opened: Image.Image, mode: str) -> Image.Image:
    """Return a picture in a mode, turned by its EXIF orientation, on black; a large one is not copied in vain.

    `ImageOps.exif_transpose` would also write the EXIF data anew, which fails where another entry of it is odd.
    """
    turn = _TURNS.get(opened.getexif().get(ExifTags.Base.Orientation))
    picture = opened if turn is None else opened.transpose(turn)
    if picture.mode.startswith("I"):  # 16 bits: `convert` would clip
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = _on_black(picture, mode)
    return picture if picture.mode == mode else picture.convert(mode)


def _on_black(picture: Image.Image, mode: str) -> Image.Image:
    """Composite a picture on black, in strips: each step is a copy, and a large picture has 200 MB."""
    composed = Image.new(mode, picture.size)
    for top in range(0, picture.height, _STRIP):
        box = (0, top, picture.width, min(top + _STRIP, picture.height))
        strip = picture.crop(box).convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, (0, 0, 0, 255)), strip)
        composed.paste(strip.convert(mode), box)
    return composed
