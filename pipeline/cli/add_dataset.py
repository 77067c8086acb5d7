"""Look at your own pictures, propose how they are read, and write that into params.yaml.

Shows a contact sheet and counts, asks, and ends with the command that runs the pipeline on them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.project.own_pictures import Proposal

HELP = "look at your own pictures and write their section of params.yaml"
_LISTED = 12  # classes


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder, a zip file, or a CSV file")
    parser.add_argument("--name", help="the name of the dataset; default: made of PATH")
    parser.add_argument(
        "--workspace", type=Path, metavar="DIR", help="change the params.yaml of this workspace, not the checkout's"
    )
    parser.add_argument("--yes", action="store_true", help="ask nothing: write what is proposed")
    parser.add_argument("--skip-damaged", action="store_true", help="leave out files that cannot be read")


def main(arguments: argparse.Namespace) -> int:
    """Propose, ask, and write; an answer of no leaves params.yaml as it was."""
    import os
    import sys

    from pipeline.core import params
    from pipeline.core.errors import PipelineError
    from pipeline.project import add_dataset, check, dvc, lock, own_pictures, workspace

    root = dvc.project_root()
    folder = root if arguments.workspace is None else arguments.workspace.resolve()
    if folder != root:
        workspace.require_usable(folder, [])
    own = folder / params.PARAMS_FILE
    file = own if own.exists() else root / params.PARAMS_FILE
    if file.is_relative_to(folder):
        add_dataset.require_writable(file)
    path = Path(os.path.abspath(arguments.path.expanduser()))  # noqa: PTH100 - a link stays one, `..` does not
    if not str(path).isprintable():
        expected = "a path that can be written into params.yaml"
        raise PipelineError("the path has characters that cannot be printed", expected=expected, found=ascii(str(path)))
    content = params.read(file)
    name = add_dataset.name_of(path, arguments.name, content)
    if not arguments.yes and not sys.stdin.isatty():
        expected = "a terminal in which to ask, or --yes"
        raise PipelineError("nobody can be asked", expected=expected, found="neither", next_step="add --yes")
    found = own_pictures.propose(
        path,
        name,
        root / "data" / "own" / name,
        skip_damaged=arguments.skip_damaged,
        distance=add_dataset.distance_of(name, content),
    )
    check.check(file, unpinned=True)  # what it lacks is named before anybody is asked
    _print(found, path, content)
    flip = False
    if not arguments.yes:
        print("The last column of the contact sheet is mirrored. A mirrored cat is a cat; a mirrored 3 is no 3.")
        flip = _yes("Are mirrored pictures still of their class?", default=False)
        if not _yes(f"Write this to {file if file == own else own}?", default=True):
            print("nothing was written")
            return 1
    chosen = add_dataset.settings(found, content, flip=flip)
    folder.mkdir(parents=True, exist_ok=True)
    with lock.hold(folder, "pipeline add-dataset"):
        add_dataset.write(found, folder, file, chosen)
    print(f"{own}: download.{name} written, datasets: [{name}]; next:")
    print(add_dataset.run_command(found, None if folder == root else arguments.workspace, chosen))
    return 0


def _print(found: Proposal, path: Path, content: dict[str, Any]) -> None:
    """Print what was found, and what is proposed."""
    import textwrap

    from pipeline.datasets import faults
    from pipeline.project import add_dataset

    total = sum(splits.total() for splits in found.counts.values())
    print(f"{found.name}: {total:,} pictures of {len(found.counts)} classes in {faults.escaped(str(path))}")
    for label, splits in list(found.counts.items())[:_LISTED]:
        parts = ", ".join(f"{splits[split]:,} {split}" for split in ("train", "val", "test") if splits[split])
        print(f"  {faults.escaped(label)}: {splits.total():,} ({parts})")
    if len(found.counts) > _LISTED:
        sizes = [splits.total() for splits in found.counts.values()]
        print(f"  … {len(sizes) - _LISTED:,} more; classes have {min(sizes):,} to {max(sizes):,} pictures")
    for note in found.notes:
        print(f"  {note}")
    if found.groups:
        print(f"  {len(found.groups):,} groups in the names of files: {faults.some(found.groups)}")
    for tried in found.tried:
        size = f"{tried.size[0]}×{tried.size[1]}"
        about = add_dataset.minutes(found, tried.size, content)
        mark = "  <- proposed" if tried.size == found.size else ""
        print(f"  {size}: nearest neighbours {tried.accuracy:.0%}, a run takes about {about:,} minutes{mark}")
    if not found.tried:
        about = add_dataset.minutes(found, found.size, content)
        print(f"  {found.size[0]}×{found.size[1]}, as in the files: a run takes about {about:,} minutes")
    print(f"Contact sheet: {found.sheet}\n")
    print(f"download:\n  {found.name}:\n{textwrap.indent(add_dataset.section_text(found), '    ')}")


def _yes(question: str, *, default: bool) -> bool:
    """Ask a question, and return the answer.

    Raises:
        PipelineError: There is no answer: standard input has ended.
    """
    from pipeline.core.errors import PipelineError

    while True:
        try:
            answer = input(f"{question} [{'Y/n' if default else 'y/N'}] ").strip().casefold()
        except EOFError:
            print()
            raise PipelineError("no answer", done="nothing was written", next_step="answer, or add --yes") from None
        if answer in ("", "y", "yes", "n", "no"):
            return default if not answer else answer.startswith("y")
        print("please answer y or n")
