"""Stage search: find a family's best hyperparameters on a dataset's validation split.

This process alone decides and writes to MLflow; workers only train. The next run of the stage resumes a search that was
killed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.backend import configure
from pipeline.backend.mixed_precision import device_class
from pipeline.core import names, params, process
from pipeline.datasets.arrays import Splits, load_splits
from pipeline.models import loading
from pipeline.models.base import BaseFamily
from pipeline.models.training.seeds import TrainSettings
from pipeline.search import lengths
from pipeline.search import run as search
from pipeline.search.settings import SearchSettings
from pipeline.search.study_definition import Definition
from pipeline.tracking.runs import ended_runs


def main() -> None:
    """Run the stage from the command line."""
    arguments = _parse()
    backend = configure.load_settings()
    settings = params.load("search", SearchSettings)
    training = params.load("train", TrainSettings)
    family = loading.load(arguments.family, dataset=arguments.dataset)
    data = load_splits(arguments.data)
    family.require_fit(min(data.image_shape[:2]))
    definition = _definition(arguments, family, settings, backend.backend, data)
    folders = search.Folders(arguments.data, arguments.features, arguments.studies)
    local = settings.engine != "ray"  # Ray places workers by itself
    environments = configure.worker_environments(backend.workers) if local else []
    with ended_runs():
        finished = search.run(definition, settings, training, family, folders, environments)
        result, mirror = finished.result, finished.mirror
        search.tidy(definition, arguments.studies, settings.keep_studies, mirror.tracker)
        search.save_finalist(finished, arguments.finalist)
        files = search.save(result, finished.study, definition, arguments.output)
        mirror.close(result.best, result.counts, result.epochs, files, cut_by_deadline=result.cut_by_deadline)
    counts = ", ".join(f"{count} {state}" for state, count in result.counts.items() if count)
    print(
        f"{arguments.dataset} {arguments.family}: best {family.objective} {result.best.value:.4f} (trial"
        f" {result.best.number}); {counts}; {result.epochs} epochs in {result.seconds:.0f} s"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.stages.search", description=__doc__)
    parser.add_argument("--dataset", required=True, type=names.dataset)
    parser.add_argument("--family", required=True, type=names.family)
    parser.add_argument("--data", required=True, type=Path, help="folder written by prepare")
    parser.add_argument("--features", required=True, type=Path, help="folder written by features")
    parser.add_argument("--studies", required=True, type=Path, help="folder of all studies")
    parser.add_argument("--output", required=True, type=Path, help="folder for best.json, summary.json, trials.csv")
    parser.add_argument("--finalist", required=True, type=Path, help="folder for the training of the best trial")
    return parser.parse_args()


def _definition(
    arguments: argparse.Namespace,
    family: BaseFamily,
    settings: SearchSettings,
    backend: configure.Backend,
    data: Splits,
) -> Definition:
    """Return everything that decides the result of the search."""
    steps = lengths.steps_per_epoch(family, len(data.train))
    return Definition(
        dataset=arguments.dataset,
        family=arguments.family,
        data=data.digest,
        code=loading.training_digest(family),
        settings=family.settings.model_dump(mode="json"),
        search=settings.defining(),
        trial_epochs=settings.budget_for(arguments.dataset, arguments.family, steps).trial_epochs,
        backend=backend,
        device=device_class(),
    )


if __name__ == "__main__":
    process.stage(main)
