"""A page of pictures, whole in one file: the images that an expectation names, and the nearest pairs of images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
import numpy as np

from pipeline.datasets.arrays import Images, Labelled
from pipeline.validation.duplicate_pairs import Pairs
from pipeline.validation.plots import shown

_MOST_PAIRS = 100

_MARKUP = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ dataset }}: images in doubt</title>
<style>
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;max-width:72rem;margin:1.5rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin:1.8rem 0 .3rem}
p{margin:.2rem 0 .7rem}.soft,figcaption{opacity:.78;font-size:.8rem}
.row{display:flex;flex-wrap:wrap;gap:.7rem}.row.wide img.plot{max-width:100%;background:#fff}
figure{margin:0;padding:.35rem;border:1px solid #8886;border-radius:8px}
figure img{width:72px;height:72px;object-fit:contain;image-rendering:pixelated;vertical-align:top}
figcaption{max-width:150px;overflow-wrap:anywhere}.single figcaption{max-width:6.4rem}
.failed{color:#b3261e;font-weight:600}.warned{color:#a15c00;font-weight:600}.over{border-color:#b3261e;border-width:2px}
@media (prefers-color-scheme:dark){.failed,.warned{color:#ffab91}}
</style></head><body>
<h1>{{ dataset }}: images in doubt</h1>
<p>{{ told }}</p>
{% for strip in strips %}
<h2>{{ strip.name }} <span class="{{ strip.state }}">{{ strip.state }}</span></h2>
<p class="soft">expected {{ strip.expected }}; {{ "{:,}".format(strip.count) }} unexpected
{%- if strip.count > strip.images | length %}, the first {{ strip.images | length }} shown{% endif %}</p>
<div class="row single">{% for image in strip.images %}
<figure><img alt="{{ image.name }}" src="{{ image.source }}">
<figcaption>{{ image.name }}<br>{{ image.label }}</figcaption></figure>
{%- endfor %}</div>
{% endfor %}
<h2>Nearest pairs</h2>
<p class="soft">Patterns of images: brightness, tint and contrast do not count. 0 is the same, 1.41 unrelated.
At most {{ "%g" | format(distance) }} counts as one image (framed). {{ counts }}</p>
<div class="row">{% for pair in pairs %}
<figure{% if pair.same %} class="over"{% endif %}><img alt="{{ pair.names[0] }}" src="{{ pair.sources[0] }}">
<img alt="{{ pair.names[1] }}" src="{{ pair.sources[1] }}">
<figcaption>{{ pair.names | join(" ") }}<br>{{ pair.distance }}, {{ pair.labels | join(" / ") }}</figcaption></figure>
{%- else %}<p>None.</p>{% endfor %}</div>
<h2>The data</h2>
<div class="row wide">{% for name, source in plots %}<img class="plot" alt="{{ name }}" src="{{ source }}">
{% endfor %}</div>
</body></html>
"""


@dataclass(frozen=True)
class Doubt:
    """An expectation that some images did not meet, if only few enough to be allowed; `rows` as split and index."""

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
        dataset: Its name.
        parts: The splits, in the order in which the positions of pairs count.
        class_names: Names of the labels.
        doubts: What to show, in this order.
        near: Pairs, nearest first; the first hundred are shown.
        distance: Up to which a pair counts as one image.
        plots: PNG pictures of the whole, by name.
    """
    strips = [_strip(parts, class_names, doubt) for doubt in doubts]
    shown_pairs = [_pair(parts, class_names, near, place, distance) for place in range(min(len(near), _MOST_PAIRS))]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_MARKUP).render(
        dataset=dataset,
        told=_told(doubts),
        strips=strips,
        distance=distance,
        counts=f"{len(near.within(distance)):,} pairs do; {len(shown_pairs)} of {len(near):,} found are shown.",
        pairs=shown_pairs,
        plots=[(name, _source(content)) for name, content in plots.items()],
    )


def _told(doubts: Sequence[Doubt]) -> str:
    failed = [doubt.name for doubt in doubts if doubt.state == "failed"]
    if failed:
        return f"The gate refused this data: {', '.join(failed)}."
    return f"The gate passed this data. {len(doubts)} expectations name images, few enough to be allowed."


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
