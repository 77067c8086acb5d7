"""Stage register: a candidate per task becomes a version of its registered model; a paired test decides who leads.

The decision is made in `registry.promotion`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.artifacts import base as artifacts
from pipeline.artifacts import register as report
from pipeline.core import names, params, process
from pipeline.evaluation import base as scores
from pipeline.registry import promotion
from pipeline.registry.candidates import find_candidates
from pipeline.registry.settings import RegisterSettings
from pipeline.tracking.runs import Tracker


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.stages.register", description=__doc__)
    parser.add_argument("--dataset", required=True, type=names.dataset)
    parser.add_argument("--models", required=True, type=Path, help="folder of the trained families")
    parser.add_argument("--predictions", required=True, type=Path, help="folder of their predictions")
    parser.add_argument("--report", required=True, type=Path, help="JSON file for the decisions")
    arguments = parser.parse_args()
    settings = params.load("register", RegisterSettings)
    families = [names.checked(name, "families") for name in params.section("families")]
    candidates = find_candidates(families, arguments.models, arguments.predictions)
    tracker = Tracker(arguments.dataset)
    decisions = {}
    for name, candidate in candidates.items():
        task = scores.load(name)
        registered = task.registered_name(arguments.dataset, settings.prefix)
        decided = promotion.register(tracker, registered, task, candidate, settings.alpha)
        decisions[name] = decided
        decision = decided.decision if decided.champion else "registered as challenger"
        beside = f"; {clause}" if (clause := task.beside(candidate.kept)) else ""
        text = f"{decision}, because {decided.reason}{beside}"
        print(f"{registered} version {decided.version} ({candidate.family}): {text}")
    artifacts.write(arguments.report, report.Report(decisions))


if __name__ == "__main__":
    process.stage(main)
