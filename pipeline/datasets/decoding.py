"""Decoding of pictures into arrays of one size, with limits for untrusted files.

Only PNG and JPEG are tried. The size is read from the header and checked before decoding, and pictures that cannot be
decoded are listed by name. The source formats `folder` and `table` and incoming batches share this module.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Images

SUFFIXES = (".png", ".jpg", ".jpeg")
MOST_BYTES = 64 << 20  # of one file
_MOST_PIXELS = 50_000_000  # of one picture; cameras produce 12 to 50 million
_NAMED = 5
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def decode_all(what: str, pictures: Iterable[tuple[str, bytes]], size: tuple[int, int], channels: int) -> Images:
    """Return named pictures as (N, height, width, channels); see `decode`.

    Raises:
        DataError: Some pictures cannot be decoded. The message has their count and the names and faults of the first.
    """
    arrays, faults = [], []
    for name, content in pictures:
        try:
            arrays.append(decode(content, size, channels))
        except _DAMAGE as error:
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
        ValueError: The picture is too large, or is not PNG or JPEG. For damaged files Pillow raises other errors; see
            `_DAMAGE`.
    """
    height, width = size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
        try:
            opened = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        except UnidentifiedImageError:
            raise ValueError("not a PNG or JPEG file") from None
    with opened:
        if opened.width * opened.height > _MOST_PIXELS:
            raise ValueError(f"declares {opened.width:,} × {opened.height:,} pixels, more than {_MOST_PIXELS:,}")
        upright = _upright(opened, "L" if channels == 1 else "RGB")
    fitted = ImageOps.contain(upright, (width, height), Image.Resampling.BILINEAR)
    framed = Image.new(upright.mode, (width, height))
    framed.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
    return np.asarray(framed, np.uint8).reshape(height, width, channels)


def _upright(opened: Image.Image, mode: str) -> Image.Image:
    picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I"):  # 16 bits: `convert` would clip
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return picture.convert(mode)
