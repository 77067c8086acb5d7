"""A contact sheet: a few pictures of each class as models see them, and one of them mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.core.files import new_file
from pipeline.datasets.arrays import Images

ACROSS = 8  # pictures of a class
CLASSES = 24  # at most
_SIDE = 96  # pixels of a picture on the sheet, about
_GAP, _LINE = 6, 18


def save(path: Path, classes: Sequence[tuple[str, Images]]) -> None:
    """Write a PNG file with a row for each class, up to a limit.

    Args:
        path: The file.
        classes: The caption of each class, and pictures of it, (N, H, W, C).
    """
    rows = [(caption, images[:ACROSS]) for caption, images in classes[:CLASSES]]
    height, width = rows[0][1].shape[1:3]
    scale = max(1, round(_SIDE / max(height, width)))
    high, wide = height * scale, width * scale
    sheet = Image.new(
        "RGB", ((wide + _GAP) * (ACROSS + 1) + 2 * _GAP, (high + _LINE + _GAP) * len(rows) + _GAP), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, (caption, images) in enumerate(rows):
        top = _GAP + row * (high + _LINE + _GAP)
        draw.text((_GAP, top), caption, "black", font=font)
        for column, image in enumerate(images):
            _paste(sheet, image, (_GAP + column * (wide + _GAP), top + _LINE), (wide, high))
        if len(images):
            left = 2 * _GAP + ACROSS * (wide + _GAP)
            draw.text((left, top), "mirrored", "gray", font=font)
            _paste(sheet, images[0][:, ::-1], (left, top + _LINE), (wide, high))
    with new_file(path) as partial:
        sheet.save(partial, "PNG")


def _paste(sheet: Image.Image, image: Images, place: tuple[int, int], size: tuple[int, int]) -> None:
    shown = Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image))
    sheet.paste(shown.resize(size, Image.Resampling.NEAREST).convert("RGB"), place)
