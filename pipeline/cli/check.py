"""Check params.yaml as the stages will read it, and that the pipeline can run here."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "check params.yaml as the stages will read it"


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: there are none."""
    del parser


def main(arguments: argparse.Namespace) -> int:
    """Check the file and print what it chooses."""
    from pipeline.project import check, machine

    del arguments
    content = check.check()
    machine.require(Path())
    print(f"params.yaml is fine: datasets {', '.join(content['datasets'])}; families {', '.join(content['families'])}")
    return 0
