"""Grids of images as PNG."""

from __future__ import annotations

import io

from pipeline.datasets.arrays import Images

_LARGER = 2


def sheet(images: Images, columns: int) -> bytes:
    """Return images, uint8 (N, H, W, C), as one PNG, twice as large, row by row; what fills no row is left out."""
    from PIL import Image

    count, height, width, channels = images.shape
    rows = images[: count // columns * columns].reshape(-1, columns, height, width, channels)
    pixels = rows.swapaxes(1, 2).reshape(-1, columns * width, channels)
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels[..., :3])
    picture = picture.resize((_LARGER * picture.width, _LARGER * picture.height), Image.Resampling.NEAREST)
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()
