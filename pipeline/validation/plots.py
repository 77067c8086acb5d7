"""Plots of a dataset: a labelled sample, class balance, mean image of each class, distribution of grey levels.

The PNG files are deterministic: the same data gives the same bytes, so DVC detects a change only if the data changes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.datasets.arrays import Images, Labelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 5  # of the sample, in images
_COLOURS = ("#1f5fbf", "#c2410c", "#11703f", "#7a3fb0")
_CHANNELS = {1: ("#1f5fbf",), 3: ("#c62828", "#2e7d32", "#1f5fbf")}
_TITLE: dict[str, Any] = {"loc": "left", "fontsize": 11}
_BINS = 64
_MOST = 10_000  # images whose levels are counted, evenly spaced: precise enough for a plot


def draw(parts: Mapping[str, Labelled], class_names: tuple[str, ...], seed: int) -> dict[str, bytes]:
    """Return the plots by name, as PNG; the seed selects the sample of train."""
    train = next(iter(parts.values()))
    figures = {
        "samples": _samples(train, class_names, seed),
        "balance": _balance(parts, class_names),
        "means": _means(train, class_names),
        "levels": _levels(parts),
    }
    return {name: _png(figure) for name, figure in figures.items()}


def shown(image: Images) -> Images:
    """Return an image in the shape for plots: (H, W, 3) for three channels, else (H, W) of the first."""
    return image[..., 0] if image.shape[2] != 3 else image


def _samples(data: Labelled, class_names: tuple[str, ...], seed: int) -> Figure:
    count = min(_SIDE**2, len(data))
    chosen = np.sort(np.random.default_rng(seed).choice(len(data), count, replace=False))
    figure = _figure(6, 6.9)
    figure.suptitle(f"{count} of {len(data):,} images of train, with labels", x=0.02, ha="left", fontsize=11)
    for place, index in enumerate(chosen):
        name = _named(class_names, int(data.labels[index]))
        _image(figure, (_SIDE, _SIDE, place + 1), data.images[index], name)
    return figure


def _means(data: Labelled, class_names: tuple[str, ...]) -> Figure:
    columns = min(len(class_names), _SIDE)
    rows = -(-len(class_names) // columns)
    figure = _figure(1.2 * max(columns, 3), 1.38 * rows + 0.4)  # room for the title above two classes
    figure.suptitle("Mean image of each class of train", x=0.02, ha="left", fontsize=11)
    for label, name in enumerate(class_names):
        inside = data.images[data.labels == label]
        mean = inside.mean(axis=0) if len(inside) else np.zeros(data.images.shape[1:])
        _image(figure, (rows, columns, label + 1), mean.round().astype(np.uint8), name)
    return figure


def _balance(parts: Mapping[str, Labelled], class_names: tuple[str, ...]) -> Figure:
    figure = _figure(6.4, 1.2 + 0.28 * len(class_names))
    places = np.arange(len(class_names))
    for place, (split, data) in enumerate(parts.items()):
        axes = figure.add_subplot(1, len(parts), place + 1)
        inside = data.labels[(data.labels >= 0) & (data.labels < len(class_names))]
        bars = axes.barh(places, np.bincount(inside, minlength=len(class_names)), color=_COLOURS[0])
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=2)
        axes.set_yticks(places, [_short(name) for name in class_names] if not place else [""] * len(places))
        axes.invert_yaxis()
        axes.margins(x=0.22)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(f"{split}: images per class", **_TITLE)
    return figure


def _levels(parts: Mapping[str, Labelled]) -> Figure:
    """Draw the share of values at each level, on a log axis because the background of drawings dominates."""
    figure = _figure(6.4, 3.4)
    axes = figure.add_subplot()
    edges = np.linspace(0, 256, _BINS + 1)
    for data, style in zip(parts.values(), ("-", "--"), strict=False):
        some, channels = data.images[:: -(-len(data) // _MOST) or 1], data.images.shape[3]
        for channel, colour in enumerate(_CHANNELS.get(channels, _COLOURS)[:channels]):
            counts = np.bincount(np.ravel(some[..., channel]), minlength=256)
            shares = counts.reshape(_BINS, -1).sum(axis=1) / max(counts.sum(), 1)
            axes.stairs(shares, edges, color=colour, linestyle=style, linewidth=1.4)
    axes.set_yscale("log")
    axes.set_xlabel("level of a value, 0 to 255")
    axes.set_ylabel("share of values")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"Levels of all values, by channel; {_legend(parts)}", **_TITLE)
    return figure


def _legend(parts: Mapping[str, Labelled]) -> str:
    return ", ".join(f"{split} {style}" for split, style in zip(parts, ("solid", "dashed"), strict=False))


def _named(class_names: tuple[str, ...], label: int) -> str:
    return class_names[label] if 0 <= label < len(class_names) else f"label {label}"


def _short(name: str) -> str:
    """Return the start of a class name as text for matplotlib, which reads what stands between two $ as mathematics."""
    return name[:14].replace("$", r"\$")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _image(figure: Figure, place: tuple[int, int, int], image: Images, name: str) -> None:
    axes = figure.add_subplot(*place)
    axes.imshow(shown(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(_short(name), fontsize=9, pad=3)
    axes.set_axis_off()


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the font lacks emoji, and draws a box
        figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
