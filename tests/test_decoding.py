"""Pictures of every mode and format are decoded to the arrays that Pillow's own steps give."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.datasets import decoding

MODES = [("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")] + [("JPEG", m) for m in ("L", "RGB", "CMYK")]


def encoded(form: str, mode: str) -> bytes:
    """Return a noisy picture, 40 pixels high and 50 wide."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert("RGB" if form == "JPEG" else "RGBA").convert(mode).save(content, form)
    return content.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("form", "mode"), MODES)
def test_a_picture_of_any_mode_is_decoded(form: str, mode: str, channels: int) -> None:
    content = encoded(form, mode)
    rgba = Image.open(io.BytesIO(content)).convert("RGBA")
    black = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    direct = Image.open(io.BytesIO(content)) if mode == "L" else black
    for size in [(24, 20), (40, 50), (80, 100)]:
        expected = ImageOps.pad(
            direct.convert("L" if channels == 1 else "RGB"), size[::-1], Image.Resampling.BILINEAR, color=0
        )
        found = decoding.decode(content, size, channels)
        assert found.shape == (*size, channels)
        np.testing.assert_allclose(found.squeeze(), np.asarray(expected), atol=1)
