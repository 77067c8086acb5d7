"""Stage register: a candidate per task becomes a version of its registered model; a paired test decides who leads.

What decides is in `registry.promotion`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pydantic

from pipeline.core import params, process
from pipeline.core.files import write_json
from pipeline.evaluation import base as scores
from pipeline.registry import promotion
from pipeline.registry.versions import registered_name
from pipeline.tracking.runs import Tracker


class RegisterSettings(params.Settings):
    """Section `register` of params.

    Attributes:
        alpha: Level of the paired test.
    """

    alpha: float = pydantic.Field(default=0.05, gt=0, lt=1)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.stages.register", description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--models", required=True, type=Path, help="folder of the trained families")
    parser.add_argument("--predictions", required=True, type=Path, help="folder of their answers")
    parser.add_argument("--report", required=True, type=Path, help="JSON file for the decisions")
    arguments = parser.parse_args()
    settings = params.load("register", RegisterSettings)
    families = list(params.section("families"))
    candidates = promotion.find_candidates(families, arguments.models, arguments.predictions)
    tracker = Tracker(arguments.dataset)
    report = {}
    for name, candidate in candidates.items():
        registered = registered_name(arguments.dataset, name)
        decided = promotion.register(tracker, registered, scores.load(name), candidate, settings.alpha)
        report[name] = decided
        text = f"{decided['decision']}, because {decided['reason']}"
        print(f"{registered} version {decided['version']} ({candidate.family}): {text}")
    write_json(arguments.report, report)


if __name__ == "__main__":
    process.stage(main)
