"""Draws docs/architecture.svg: the packages of `pipeline` on their floors, and what each imports.

Floors come from the contract in pyproject.toml, arrows from the import graph. An arrow that follows from others (an
import of what is imported anyway further down) is left out. A test compares the committed picture with this script's.

    python docs/draw_architecture.py
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout's package, whichever is installed
PICTURE = ROOT / "docs" / "architecture.svg"
ASIDE = 96
BOX, HEIGHT, GAP, ROW, MARGIN, WIDTH = 138, 34, 14, 84, 24, 808
MARKER = (
    '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8Z"/></marker></defs>'
)
STYLE = """
text{font:600 14px system-ui,sans-serif;fill:#1b1f24;text-anchor:middle}
rect{fill:#eef3f8;stroke:#7a8fa6}path{fill:none;stroke:#7a8fa6;stroke-width:1.2;marker-end:url(#a)}
marker path{fill:#7a8fa6;stroke:none}.ground{fill:#fff}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}rect{fill:#1f2a36;stroke:#6b7f95}.ground{fill:#0d1117}}
"""


def floors() -> list[list[str]]:
    """Return the packages of each floor, the highest floor first; `serving` stands beside the lowest but one."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(contract for contract in settings["contracts"] if contract["name"] == "floors")["layers"]
    return [[name.strip() for name in layer.replace("|", ":").split(":")] for layer in layers]


def arrows() -> set[tuple[str, str]]:
    """Return which package imports which, without arrows that follow from others."""
    graph = grimp.build_graph("pipeline", exclude_type_checking_imports=True, cache_dir=None)
    found = {
        (importer.split(".")[1], imported.split(".")[1])
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
        if importer.count(".") and imported.count(".") and importer.split(".")[1] != imported.split(".")[1]
    }
    below = {package: _reachable(package, found) for package, _ in found}
    return {
        (above, imported)
        for above, imported in found
        if not any(imported in below.get(other, ()) for start, other in found if start == above and other != imported)
    }


def _reachable(package: str, found: set[tuple[str, str]]) -> set[str]:
    seen: set[str] = set()
    todo = {package}
    while todo:
        todo = {imported for above, imported in found if above in todo} - seen
        seen |= todo
    return seen


def draw() -> str:
    """Return the picture."""
    places: dict[str, tuple[float, float]] = {}
    rows = floors()
    for row, packages in enumerate(rows):
        left = (WIDTH - len(packages) * BOX - (len(packages) - 1) * GAP) / 2
        if len(packages) == 1:  # beside each other, so that no arrow hides behind a box
            left += ASIDE if row % 2 else -ASIDE
        for column, package in enumerate(packages):
            places[package] = (left + column * (BOX + GAP), MARGIN + row * ROW)
    height = MARGIN * 2 + (len(rows) - 1) * ROW + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>Packages of pipeline and what each imports</title>",
        f"<style>{''.join(STYLE.splitlines())}</style>",
        MARKER,
        f'<rect class="ground" width="{WIDTH}" height="{height}" stroke="none"/>',
    ]
    parts += [_arrow(places[above], places[below]) for above, below in sorted(arrows())]
    for package, (x, y) in places.items():
        parts.append(f'<rect x="{x:g}" y="{y:g}" width="{BOX}" height="{HEIGHT}" rx="6"/>')
        parts.append(f'<text x="{x + BOX / 2:g}" y="{y + 22:g}">{package}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """Return a curve from one box to another: down, or sideways below both on one floor."""
    (x1, y1), (x2, y2) = ((x + BOX / 2, y + HEIGHT) for x, y in (start, end))
    if y1 == y2:
        sag = HEIGHT / 2 + abs(x2 - x1) / 12
        return f'<path d="M{x1:g} {y1:g}C{x1:g} {y1 + sag:g} {x2:g} {y2 + sag:g} {x2:g} {y2 + 2:g}"/>'
    top = y2 - HEIGHT - 2
    bend = (top - y1) / 2
    return f'<path d="M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {top - bend:g} {x2:g} {top:g}"/>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))
