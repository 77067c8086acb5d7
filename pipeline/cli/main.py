"""The `pipeline` command: parses the command line and calls one subcommand.

A subcommand is a module of this package with `HELP`, `declare`, which adds its arguments to a parser, and `main`. None
imports anything heavy before its `main` runs, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.cli import add_dataset, check, doctor, ingest, models, presets, references, retrain, run, schema
from pipeline.core import process, streams

COMMANDS = {
    "add-dataset": add_dataset,
    "run": run,
    "check": check,
    "models": models,
    "presets": presets,
    "references": references,
    "ingest": ingest,
    "retrain": retrain,
    "schema": schema,
    "doctor": doctor,
}


def main() -> None:
    """Parse the command line, run the command, and exit with its code."""
    streams.open_closed()
    arguments = parser().parse_args()
    process.run(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    """Run the command with the code of the folder that it works on."""
    if arguments.command != "doctor":  # which reports another's code
        from pipeline.project import own_code

        replaces_code = arguments.command in ("run", "add-dataset")
        folder = Path() if replaces_code else getattr(arguments, "workspace", Path())
        own_code.require(folder, start_again=not replaces_code)
    code: int = COMMANDS[arguments.command].main(arguments)
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    whole = argparse.ArgumentParser(
        prog="pipeline",
        description="Data, searches, models and a registry for small vision models.",
        epilog="`dvc repro` runs the stages themselves; `make` lists what else there is.",
    )
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    for name, module in COMMANDS.items():
        module.declare(commands.add_parser(name, help=module.HELP, description=module.__doc__))
    return whole


if __name__ == "__main__":
    main()
