"""Stage features: train the network in whose features generated images are compared with real ones.

Only families that declare it need it; for any other the stage writes a note and ends. The network's architecture and
seed are fixed, and it is trained on the training split: see `pipeline.evaluation.feature_network`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pydantic

from pipeline.backend import configure
from pipeline.core import names, params, process
from pipeline.core.seeds import fold
from pipeline.datasets.arrays import load_splits
from pipeline.evaluation import feature_network
from pipeline.models import loading


class FeaturesSettings(params.Settings):
    """Section `features` of params.

    Attributes:
        steps: Training steps of 64 images.
        seed: Decides initial weights and the order of the images.
    """

    steps: int = pydantic.Field(ge=1, le=10_000_000)
    seed: params.Seed


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.stages.features", description=__doc__)
    parser.add_argument("--dataset", required=True, type=names.dataset)
    parser.add_argument("--family", required=True, type=names.family)
    parser.add_argument("--data", required=True, type=Path, help="folder written by prepare")
    parser.add_argument("--output", required=True, type=Path, help="folder for the network and what it sees")
    arguments = parser.parse_args()
    settings = params.load("features", FeaturesSettings)
    if not loading.load(arguments.family, {}).needs_feature_network:  # no settings: they rerun nothing here
        feature_network.not_needed(arguments.output)
        print(f"{arguments.dataset} {arguments.family}: scored without features")
        return
    configure.configure(configure.load_settings().backend, threads=1)  # one thread: the same weights in every run
    data = load_splits(arguments.data)
    accuracy = feature_network.train(data, arguments.output, steps=settings.steps, seed=fold(settings.seed))
    found = feature_network.load(arguments.output)
    print(
        f"{arguments.dataset} {arguments.family}: features {found.digest[:12]} label {accuracy:.2%} of validation"
        f" images right; real images score FID {found.floor.fid:.3f} and KID {found.floor.kid:.4f} against others"
    )


if __name__ == "__main__":
    process.stage(main)
