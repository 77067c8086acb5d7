"""Decoding of pictures into arrays of one size, with limits for untrusted files.

PNG, JPEG, WebP, TIFF, BMP and GIF are read, of several pages or frames the first. The size is read from the header and
checked before decoding, and pictures that cannot be decoded are listed by name. The source formats of your own pictures
and incoming batches share this module.

What a whole set shows decides how it may be read: 16-bit files that hold 12-bit values would lose most of their grey
levels, and dark ink on a transparent ground would vanish on black. `Survey` finds both.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from pipeline.core.errors import DataError
from pipeline.datasets import faults
from pipeline.datasets.arrays import PLAIN, Covers, Images, Reading
from pipeline.datasets.faults import Fault

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif")
EXPECTED = "complete PNG, JPEG, WebP, TIFF, BMP or GIF files"
MOST_BYTES = 64 << 20  # of one file
_MOST_PIXELS = 50_000_000  # of one picture; cameras produce 12 to 50 million
_STRIP = 256  # rows
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")  # PPM: of the format `pixels`
_FULL_DEPTH = 16  # bits
_LEAST_FILLED = 15  # bits: a set whose values need fewer is not taken for one of 16 bits
_SAMPLED = 256  # pixels of a side that are looked at for ink: of larger pictures, every nth
_FAINT = 0.5  # ink is lost on black if its contrast there is less than this share of that on white
_MOST_LOST = 0.05  # share of the transparent pictures whose ink may be lost on black
_LOOKED_AT = (64, 64)
_COLOURFUL = 16  # levels between the channels of a pixel: JPEG gives grey pixels a few
_MOST_COLOURFUL = 0.01  # share of the pixels of a grey picture
_TURNS: dict[object, Image.Transpose] = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Sight:
    """What one picture shows.

    Attributes:
        height: Rows, once it is upright.
        width: Columns, once it is upright.
        peak: The largest value of a 16-bit file, else 0.
        in_colour: Whether it is a 16-bit file in colour or with transparency: of those, only the upper 8 bits are read.
        transparent: Whether some of its pixels are transparent.
        lost: Whether it has far less contrast on black than on white.
        coloured: Whether it is more than grey; `look` finds out.
    """

    height: int
    width: int
    peak: int = 0
    in_colour: bool = False
    transparent: bool = False
    lost: bool = False
    coloured: bool = False


@dataclass
class Survey:
    """What the pictures of a set show together."""

    deep: int = 0
    peak: int = 0
    peak_in_colour: int = 0
    in_colour: list[str] = field(default_factory=list)
    transparent: int = 0
    lost: list[str] = field(default_factory=list)
    coloured: int = 0
    shapes: list[tuple[int, int]] = field(default_factory=list)

    def add(self, name: str, sight: Sight) -> None:
        """Count one picture."""
        self.shapes.append((sight.height, sight.width))
        if sight.peak:
            self.deep += 1
            self.peak = max(self.peak, sight.peak)
            if sight.in_colour:
                self.in_colour.append(name)
                self.peak_in_colour = max(self.peak_in_colour, sight.peak)
        self.transparent += sight.transparent
        self.lost += [name] * sight.lost
        self.coloured += sight.coloured

    @property
    def inked(self) -> bool:
        """Whether pictures hold dark ink on a transparent ground, which would be lost on black."""
        return len(self.lost) > _MOST_LOST * self.transparent

    def require_plain(self, what: str, reading: Reading, section: str) -> None:
        """Check that the settings say what the pictures leave open.

        Args:
            what: The set.
            reading: Its settings.
            section: Where they stand.

        Raises:
            DataError: 16-bit files hold values of fewer or more bits than the settings say, or ink would be lost.
        """
        self._require_depth(what, reading, section)
        if reading.background is None and self.inked:
            raise DataError(
                f"{what}: {len(self.lost):,} of {self.transparent:,} transparent pictures hold dark ink, which is all"
                " but lost on black",
                found=faults.some([faults.escaped(name) for name in self.lost]),
                next_step=f"set background: white in {section}, or background: black to keep it so",
            )

    def _require_depth(self, what: str, reading: Reading, section: str) -> None:
        depth = reading.depth or _FULL_DEPTH
        bits = max(self.peak.bit_length(), 8)
        found = f"at most {self.peak:,} in the whole set, which is {bits} bits"
        if bits > depth:
            raise DataError(
                f"{what}: {self.deep:,} pictures are 16-bit files",
                expected=f"values of {depth} bits, 0 to {2**depth - 1:,} (depth)",
                found=found,
                next_step=f"set depth: {bits} in {section}",
            )
        in_colour = max(self.peak_in_colour.bit_length(), 8)
        if self.in_colour and in_colour < _LEAST_FILLED and reading.depth != _FULL_DEPTH:
            raise DataError(
                f"{what}: {len(self.in_colour):,} pictures are 16-bit files in colour, read by their upper 8 bits",
                expected="values that fill 16 bits",
                found=f"{in_colour} bits in {faults.some([faults.escaped(name) for name in self.in_colour])}",
                next_step=f"convert them to 8 bits a channel, or set depth: 16 in {section} to read them so",
            )
        if self.deep and reading.depth is None and bits < _LEAST_FILLED:
            raise DataError(
                f"{what}: {self.deep:,} pictures are 16-bit files",
                expected="values that fill 16 bits, or a depth",
                found=found,
                next_step=f"set depth: {bits} in {section} (or that of the camera, 8 to 16)",
            )


@dataclass(frozen=True)
class Decoded:
    """Pictures as arrays.

    Attributes:
        images: (N, height, width, channels).
        covers: The part of each image that the picture covers: top, left, bottom and right; bars are outside of it.
    """

    images: Images
    covers: Covers


def decode_all(
    what: str,
    pictures: Iterable[tuple[str, bytes]],
    size: tuple[int, int],
    channels: int,
    reading: Reading = PLAIN,
    section: str = "the dataset's section of params.yaml",
    next_step: str = "fix or remove them",
) -> Decoded:
    """Return named pictures as arrays of one size; see `decode`.

    Raises:
        DataError: Some pictures cannot be decoded: the message has their count and the names and faults of the first.
            Or the settings do not say what the whole set leaves open, see `Survey`.
    """
    arrays, covers, wrong, survey = [], [], [], Survey()
    for name, content in pictures:
        try:
            array, cover, sight = _decode(content, size, channels, reading)
        except Exception as error:  # noqa: BLE001 - Pillow raises many kinds for damaged files and odd EXIF data
            wrong.append(Fault(name, reason(error)))
        else:
            arrays.append(array)
            covers.append(cover)
            survey.add(name, sight)
    if wrong:
        count = f"{len(wrong):,} of {len(wrong) + len(arrays):,} pictures cannot be read"
        raise faults.error(f"{what}: {count}", wrong, expected=EXPECTED, next_step=next_step)
    survey.require_plain(what, reading, section)
    if not arrays:
        return Decoded(np.empty((0, *size, channels), np.uint8), np.empty((0, 4), np.int16))
    return Decoded(np.stack(arrays), np.array(covers, np.int16))


def decode(content: bytes, size: tuple[int, int], channels: int, reading: Reading = PLAIN) -> Images:
    """Return one picture as (height, width, channels), padded to keep its aspect ratio.

    The picture is scaled to fit inside the frame and centred (bilinear; Pillow widens the filter when it shrinks a
    picture, which avoids aliasing). EXIF orientation is applied, transparency is composited on the background, and
    16-bit grey keeps the upper 8 bits of its depth. Other settings of `reading` crop or stretch it.

    Raises:
        ValueError: The picture is too large, or is no picture of a known format. For damaged files and odd EXIF data
            Pillow raises many other errors.
    """
    return _decode(content, size, channels, reading)[0]


def decode_sizes(
    content: bytes, sizes: Iterable[tuple[int, int]], channels: int, reading: Reading = PLAIN
) -> list[Images]:
    """Return one picture in several sizes, each as `decode` returns it; it is decoded once."""
    with _opened(io.BytesIO(content)) as opened:
        _require_small(opened)
        upright, _ = _upright(opened, "L" if channels == 1 else "RGB", reading, opened.size)
        return [_framed(upright, size, reading)[0] for size in sizes]


def look(content: bytes, reading: Reading) -> Sight:
    """Return what a picture shows; raise the same errors as `decode`, for all of its damage. JPEG is decoded small."""
    with _opened(io.BytesIO(content)) as opened:
        _require_small(opened)
        size = opened.size
        opened.draft("RGB", _LOOKED_AT)
        upright, sight = _upright(opened, "RGB", reading, size)
        opened.load()
        return replace(sight, coloured=_coloured(upright))


def _coloured(picture: Image.Image) -> bool:
    values = np.asarray(picture.resize(_LOOKED_AT, Image.Resampling.NEAREST), np.int16)
    return bool((np.ptp(values, axis=2) > _COLOURFUL).mean() > _MOST_COLOURFUL)


def size_of(content: bytes) -> tuple[int, int]:
    """Return height and width of a picture as its header declares them."""
    with _opened(io.BytesIO(content)) as opened:
        return opened.height, opened.width


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


def reason(error: Exception) -> str:
    """Return in one line why a picture cannot be read."""
    return " ".join(str(error).split()) or type(error).__name__


def _decode(
    content: bytes, size: tuple[int, int], channels: int, reading: Reading
) -> tuple[Images, tuple[int, int, int, int], Sight]:
    """Return the array of a picture, the part of it that the picture covers, and what it shows."""
    with _opened(io.BytesIO(content)) as opened:
        _require_small(opened)
        mode = "L" if channels == 1 else "RGB"
        upright, sight = _upright(opened, mode, reading, opened.size)  # may be `opened` itself, which is read when used
        return *_framed(upright, size, reading), sight


def _framed(upright: Image.Image, size: tuple[int, int], reading: Reading) -> tuple[Images, tuple[int, int, int, int]]:
    """Return a picture in a frame as an array, and the part of it that the picture covers."""
    height, width = size
    if reading.fit == "crop":
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
    elif reading.fit == "stretch":
        fitted = upright.resize((width, height), Image.Resampling.BILINEAR)
    else:
        fitted = ImageOps.contain(upright, (width, height), Image.Resampling.BILINEAR)
    left, top = (width - fitted.width) // 2, (height - fitted.height) // 2
    framed = Image.new(upright.mode, (width, height), (reading.level,) * len(upright.mode))
    framed.paste(fitted, (left, top))
    pixels = np.asarray(framed, np.uint8).reshape(height, width, len(upright.mode))
    return pixels, (top, left, top + fitted.height, left + fitted.width)


def _require_small(opened: Image.Image) -> None:
    if opened.width * opened.height > _MOST_PIXELS:
        raise ValueError(f"declares {opened.width:,} × {opened.height:,} pixels, more than {_MOST_PIXELS:,}")


@contextmanager
def _opened(source: Path | io.BytesIO) -> Iterator[Image.Image]:
    """Open a picture: Pillow reads the header only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures, whose limit is lower here, and of odd EXIF data
        try:
            opened = Image.open(source, formats=_FORMATS)
        except UnidentifiedImageError:
            raise ValueError("not a PNG, JPEG, WebP, TIFF, BMP or GIF file") from None
        with opened:
            yield opened


def _upright(opened: Image.Image, mode: str, reading: Reading, size: tuple[int, int]) -> tuple[Image.Image, Sight]:
    """Return a picture in a mode, turned by its EXIF orientation, on the background; a large one is not copied in vain.

    `ImageOps.exif_transpose` would also write the EXIF data anew, which fails where another entry of it is odd.
    """
    deep_colour = _bits(opened) > 8 and not opened.mode.startswith(("I", "F"))
    in_tiff = isinstance(opened, TiffImagePlugin.TiffImageFile)  # which Pillow turns itself
    orientation = None if in_tiff else opened.getexif().get(ExifTags.Base.Orientation)
    turn = _TURNS.get(orientation)
    width, height = size[::-1] if orientation in _SIDEWAYS else size
    picture = opened if turn is None else opened.transpose(turn)
    peak, transparent, lost = 0, False, False
    if picture.mode.startswith("F"):
        raise ValueError("holds floating-point values: save it with 8 or 16 bits")
    if picture.mode.startswith("I"):  # 16 bits: `convert` would clip
        values = np.asarray(picture)
        if values.min() < 0 or values.max() >= 2**_FULL_DEPTH:
            raise ValueError(f"holds values of {values.min():,} to {values.max():,}, outside of 16 bits")
        peak = max(int(values.max()), 1)
        shift = (reading.depth or _FULL_DEPTH) - 8
        picture = Image.fromarray((values >> shift).clip(0, 255).astype(np.uint8))
    elif deep_colour:
        peak = max(max(high for _, high in _extrema(picture)) * 257, 1)
    if picture.has_transparency_data:
        transparent, lost = _transparency(picture)
        if transparent and reading.background == "refuse":
            raise ValueError("has transparent pixels, and background is refuse")
        picture = _on_background(picture, mode, reading)
    sight = Sight(height, width, peak, deep_colour, transparent, lost)
    return picture if picture.mode == mode else picture.convert(mode), sight


def _bits(opened: Image.Image) -> int:
    """Return the bits of a value in a file, where Pillow reads fewer: of colours it keeps the upper 8."""
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        return int(max(opened.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))))
    deep = opened.format == "PNG" and any("16" in str(tile[3]) for tile in getattr(opened, "tile", ()))
    return 16 if deep else 8


def _extrema(picture: Image.Image) -> list[tuple[int, int]]:
    """Return the lowest and highest value of each channel but alpha."""
    bands = [band for band in picture.getbands() if band != "A"]
    return [picture.getchannel(band).getextrema() for band in bands]  # type: ignore[misc]


def _transparency(picture: Image.Image) -> tuple[bool, bool]:
    """Return whether pixels are transparent, and whether what is not has far less contrast on black than on white."""
    if "A" in picture.getbands() and picture.getchannel("A").getextrema()[0] == 255:
        return False, False
    small = picture
    if max(picture.size) > _SAMPLED:
        scale = _SAMPLED / max(picture.size)
        small = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.NEAREST)
    colours = np.asarray(small.convert("RGBA"), np.float32)
    share = colours[..., 3] / 255
    on_black = colours[..., :3].mean(axis=2) * share
    on_white = on_black + 255 * (1 - share)
    transparent = bool(share.min() < 1) or "A" in picture.getbands()
    return transparent, transparent and bool(on_black.std() < _FAINT * on_white.std())


def _on_background(picture: Image.Image, mode: str, reading: Reading) -> Image.Image:
    """Composite a picture on its background, in strips: each step is a copy, and a large picture has 200 MB."""
    composed = Image.new(mode, picture.size)
    for top in range(0, picture.height, _STRIP):
        box = (0, top, picture.width, min(top + _STRIP, picture.height))
        strip = picture.crop(box).convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, (*[reading.level] * 3, 255)), strip)
        composed.paste(strip.convert(mode), box)
    return composed
