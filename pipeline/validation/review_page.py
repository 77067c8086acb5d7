"""The review page, one offline HTML file: images that did not meet an expectation, and the nearest pairs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from pipeline.datasets.arrays import Images, Labelled
from pipeline.validation.duplicate_pairs import Pairs
from pipeline.validation.naming import Names
from pipeline.validation.plots import shown

_MOST_PAIRS = 100
_MOST_IN_STRIP = 25
_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Doubt:
    """An expectation that some images do not meet, even if their number is allowed.

    `rows` are (split, index); `pairs` are positions in all splits one after another, of both images of each pair.
    """

    name: str
    expected: str
    state: str
    count: int
    rows: Sequence[tuple[str, int]]
    pairs: Sequence[tuple[int, int]] = ()


def page(
    dataset: str,
    parts: Mapping[str, Labelled],
    class_names: tuple[str, ...],
    doubts: Sequence[Doubt],
    near: Pairs,
    distance: float,
    plots: Mapping[str, bytes],
    reasons: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the page as HTML.

    Args:
        dataset: The name of the dataset.
        parts: The splits, in the order that the positions of pairs refer to.
        class_names: Names of the labels.
        doubts: Expectations to show, in this order.
        near: Pairs, nearest first; the first hundred are shown.
        distance: The largest distance at which a pair counts as one image.
        plots: PNG plots of the dataset, by name.
        reasons: What is not met, as whether it stops the data ("failed" or "warned") and a text.
    """
    names = Names(parts, class_names)
    strips = [_strip(names, doubt) for doubt in doubts]
    shown_pairs = [
        _pair(names, (int(near.second[place]), int(near.first[place])), float(near.distance[place]), distance)
        for place in range(min(len(near), _MOST_PAIRS))
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("images.html.j2").render(
        style=Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),
        dataset=dataset,
        summary=_summary(reasons, len(doubts)),
        reasons=reasons,
        strips=strips,
        distance=distance,
        counts=f"{len(near.within(distance)):,} pairs do; {len(shown_pairs)} of {len(near):,} pairs found are shown.",
        pairs=shown_pairs,
        plots=[(name, _source(content)) for name, content in plots.items()],
    )


def _summary(reasons: Sequence[tuple[str, str]], doubts: int) -> str:
    failed = sum(state == "failed" for state, _ in reasons)
    if failed:
        return f"The gate refused this data for {failed} reason{'s' if failed > 1 else ''}."
    warned = f"with {len(reasons)} warning{'s' if len(reasons) > 1 else ''}" if reasons else "without a warning"
    return f"The gate passed this data {warned}. {doubts} expectations list images."


def _strip(names: Names, doubt: Doubt) -> dict[str, object]:
    rows = [row for row in doubt.rows if row[0] in names.parts and 0 <= row[1] < len(names.parts[row[0]])]
    return {
        "name": doubt.name,
        "state": doubt.state,
        "expected": doubt.expected,
        "count": doubt.count,
        "images": [] if doubt.pairs else [_image(names, *row) for row in rows],
        "pairs": [_pair(names, pair) for pair in doubt.pairs[:_MOST_IN_STRIP]],
    }


def _image(names: Names, split: str, index: int) -> dict[str, str]:
    part = names.parts[split]
    return {
        "name": names.image(split, index),
        "label": names.of_label(int(part.labels[index])),
        "source": _source(_png(part.images[index])),
    }


def _pair(names: Names, pair: tuple[int, int], apart: float = 0.0, distance: float = -1.0) -> dict[str, object]:
    images = [_image(names, *names.place(position)) for position in pair]
    return {
        "names": [image["name"] for image in images],
        "labels": [image["label"] for image in images],
        "sources": [image["source"] for image in images],
        "distance": f"{apart:.3f}",
        "same": apart <= distance,
    }


def _png(image: Images) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(shown(image))).save(content, format="PNG")
    return content.getvalue()


def _source(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
