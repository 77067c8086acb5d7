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
from pipeline.validation.plots import shown

_MOST_PAIRS = 100
_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Doubt:
    """An expectation that some images do not meet, even if their number is allowed; `rows` are (split, index)."""

    name: str
    expected: str
    state: str
    count: int
    rows: Sequence[tuple[str, int]]


def page(
    dataset: str,
    parts: Mapping[str, Labelled],
    class_names: tuple[str, ...],
    doubts: Sequence[Doubt],
    near: Pairs,
    distance: float,
    plots: Mapping[str, bytes],
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
    """
    strips = [_strip(parts, class_names, doubt) for doubt in doubts]
    shown_pairs = [_pair(parts, class_names, near, place, distance) for place in range(min(len(near), _MOST_PAIRS))]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("images.html.j2").render(
        style=Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),
        dataset=dataset,
        summary=_summary(doubts),
        strips=strips,
        distance=distance,
        counts=f"{len(near.within(distance)):,} pairs do; {len(shown_pairs)} of {len(near):,} pairs found are shown.",
        pairs=shown_pairs,
        plots=[(name, _source(content)) for name, content in plots.items()],
    )


def _summary(doubts: Sequence[Doubt]) -> str:
    failed = [doubt.name for doubt in doubts if doubt.state == "failed"]
    if failed:
        return f"The gate refused this data: {', '.join(failed)}."
    return f"The gate passed this data. {len(doubts)} expectations list images, within the allowed share."


def _strip(parts: Mapping[str, Labelled], class_names: tuple[str, ...], doubt: Doubt) -> dict[str, object]:
    rows = [(split, index) for split, index in doubt.rows if split in parts and 0 <= index < len(parts[split])]
    images = [
        {
            "name": f"{split}[{index}]",
            "label": _label(class_names, int(parts[split].labels[index])),
            "source": _source(_png(parts[split].images[index])),
        }
        for split, index in rows
    ]
    return {
        "name": doubt.name,
        "state": doubt.state,
        "expected": doubt.expected,
        "count": doubt.count,
        "images": images,
    }


def _pair(
    parts: Mapping[str, Labelled], class_names: tuple[str, ...], near: Pairs, place: int, distance: float
) -> dict[str, object]:
    found = [_at(parts, int(position)) for position in (near.second[place], near.first[place])]
    apart = float(near.distance[place])
    return {
        "names": [f"{split}[{index}]" for split, index in found],
        "labels": [_label(class_names, int(parts[split].labels[index])) for split, index in found],
        "sources": [_source(_png(parts[split].images[index])) for split, index in found],
        "distance": f"{apart:.3f}",
        "same": apart <= distance,
    }


def _at(parts: Mapping[str, Labelled], position: int) -> tuple[str, int]:
    for split, data in parts.items():
        if position < len(data):
            return split, position
        position -= len(data)
    raise IndexError(position)


def _label(class_names: tuple[str, ...], label: int) -> str:
    return class_names[label] if 0 <= label < len(class_names) else f"label {label}"


def _png(image: Images) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(shown(image))).save(content, format="PNG")
    return content.getvalue()


def _source(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
