"""The reference models that families offer as presets, with the size of each: built, not remembered."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

HELP = "the reference models that a search can try, and their size"


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


@dataclass(frozen=True)
class Row:
    """A preset and how many numbers training changes in it."""

    id: str
    name: str
    family: str
    dataset: str
    trainable_parameters: int


def rows() -> list[Row]:
    """Return every preset of every family, by number. Builds each on the backend that Keras finds by itself."""
    from pipeline.models import loading
    from pipeline.models.base import Spec

    found = []
    for name in loading.family_names():
        family = loading.load(name, {})
        for preset in family.presets:
            size = family.trainable_parameters(preset.hyperparameters, Spec(preset.image_shape, preset.classes))
            found.append(Row(preset.name, preset.title, name, preset.dataset, size))
    return sorted(found, key=lambda row: int(row.id.removeprefix("R")))


def table(found: list[Row]) -> Table:
    """Return the presets as a table for a terminal."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "family", "dataset"):
        shown.add_column(column, no_wrap=True)
    shown.add_column("parameters", justify="right", no_wrap=True)
    shown.add_column("what")
    for row in found:
        shown.add_row(row.id, row.family, row.dataset, f"{row.trainable_parameters:,}", row.name)
    return shown


def main(arguments: argparse.Namespace) -> int:
    """Print the presets, as a table or as JSON."""
    from rich.console import Console

    from pipeline.backend import configure

    console = Console()
    with console.status("building every preset (10 s)"):
        configure.configure(configure.load_settings().backend)
        found = rows()
    if arguments.json:
        print(json.dumps([asdict(row) for row in found], indent=2))
    else:
        console.print(table(found))
    return 0
