"""The commands that test_faults.py kills, in the order in which each finds what it needs: on a tiny set, with knn."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from pipeline.artifacts import base as artifacts
from pipeline.artifacts.validate import NearDuplicates, Reference, Report
from pipeline.core import params, process
from pipeline.datasets import manifest
from pipeline.datasets.formats import shapes
from pipeline.project import params_edit, workspace
from pipeline.validation import duplicate_pairs

ROOT = Path(__file__).resolve().parents[1]
DATASET, SIDE = "tiny", 8
SETTINGS = (
    f"datasets=[{DATASET}]",
    "families=[knn]",
    "runtime.workers=2",
    "train.seeds=1",
    "download.tiny={format: shapes, train: 60, test: 30, seed: 0, classes: [disc, bar]}",
    "search.budget.default={trials: 2, epochs: 8, trial_epochs: 2}",
)
ARGUMENTS = {
    "validate": "--raw data/raw/tiny --report reports/validate/tiny.json --details reports/validate/tiny --docs docs",
    "prepare": "--raw data/raw/tiny --validated reports/validate/tiny.json"
    " --near-duplicates reports/validate/tiny/near_duplicates.csv --manifest reports/ingest/tiny"
    " --accepted data/accepted/tiny --output data/prepared/tiny --test data/test/tiny",
    "features": "--family {family} --data data/prepared/tiny --output data/features/tiny/{family}",
    "search": "--family {family} --data data/prepared/tiny --features data/features/tiny/{family}"
    " --studies data/studies --output reports/search/tiny/{family} --finalist data/finalists/tiny/{family}",
    "train": "--family {family} --data data/prepared/tiny --studies data/studies"
    " --features data/features/tiny/{family} --best reports/search/tiny/{family}/best.json"
    " --finalist data/finalists/tiny/{family} --model data/models/tiny/{family} --report reports/train/tiny/{family}",
    "evaluate": "--family {family} --test data/test/tiny --features data/features/tiny/{family}"
    " --model data/models/tiny/{family} --predictions data/predictions/tiny/{family}"
    " --report reports/evaluate/tiny/{family}",
    "register": "--models data/models/tiny --predictions data/predictions/tiny --report reports/register/tiny.json",
}


@dataclass(frozen=True)
class Command:
    """A command in the working directory.

    Attributes:
        name: Of the command, or of what it does when it is called again in another situation.
        run: Runs it; it exits as the command does.
        before: Puts what it finds in place.
        kills: False runs it only, because a later command needs it.
        new_only: Kills only at lines at which no earlier command was killed.
    """

    name: str
    run: Callable[[], None]
    before: Callable[[Path], None] = lambda root: None
    kills: bool = True
    new_only: bool = False


def stage(name: str, family: str = "knn") -> Callable[[], None]:
    """Return a function that runs a stage as dvc.yaml does."""

    def run() -> None:
        given = "--reports reports --output reports/index.html"
        if name != "report":
            given = f"--dataset {DATASET} " + ARGUMENTS[name].format(family=family)
        sys.argv = [name, *given.split()]
        process.stage(importlib.import_module(f"pipeline.stages.{name}").main)

    return run


def ingest() -> None:
    """Run `pipeline ingest` with the validation that is there: DVC is left out."""
    from pipeline.cli import main
    from pipeline.project import dvc

    dvc.reproduce = lambda root, **more: 0
    Path("dvc.yaml").touch()
    sys.argv = ["pipeline", "ingest"]
    main.main()


def database() -> None:
    """Make MLflow's database, which takes seconds, as a user's first command does."""
    from mlflow import MlflowClient

    MlflowClient("sqlite:///mlflow.db").search_experiments()


def pack() -> None:
    """Pin own images, as every command does first."""
    process.run(lambda: workspace.settle(Path()) and None)


def set_params(*settings: str) -> Callable[[Path], None]:
    """Return a function that changes settings in params.yaml."""

    def change(root: Path) -> None:
        path = root / "params.yaml"
        path.write_text(params_edit.override(path.read_text(), settings))

    return change


def new_project(root: Path) -> None:
    """Make the folder in which the commands run."""
    root.mkdir(parents=True)
    (root / "tmp").mkdir()
    (root / "data/raw/tiny").mkdir(parents=True)
    yaml = YAML(typ="safe")
    content = yaml.load(params_edit.override((ROOT / "params.yaml").read_text(), SETTINGS))
    content["download"] = {DATASET: content["download"][DATASET]}
    content["search"]["budget"] = {"default": content["search"]["budget"]["default"]}
    for unused in ("cnn", "rnn", "transfer", "gan", "seq2seq"):  # every command reads the file, some write it
        del content[unused]
    with (root / "params.yaml").open("w") as file:
        yaml.dump(content, file)
    manifest.make(root / "reports/ingest/tiny")


def own_images(root: Path) -> None:
    """Put a folder of pictures beside, as a dataset of its own."""
    random = np.random.default_rng(0)
    for label in ("left", "right"):
        (root / "pictures" / label).mkdir(parents=True)
        for number in range(3):
            image = random.integers(0, 255, (SIDE, SIDE), dtype=np.uint8)
            Image.fromarray(image).save(root / "pictures" / label / f"{number}.png")
    set_params("datasets=[tiny, own]", "download.own={format: folder, path: pictures, size: [8, 8], channels: 1}")(root)


def incoming(root: Path) -> None:
    """Put a good batch and a damaged one into the folder of incoming batches."""
    box = root / "data/incoming/tiny"
    box.mkdir(parents=True)
    drawn = shapes.draw(("disc", "bar"), 40, [7, 7])
    np.savez(box / "good.npz", images=drawn.images, labels=drawn.labels)
    (box / "torn.npz").write_bytes((box / "good.npz").read_bytes()[:-100])


def validated(root: Path) -> None:
    """Write what the stage validate reports of a set that has passed; the stage itself takes seconds."""
    settings = shapes.Settings.model_validate(params.section(f"download.{DATASET}", root / "params.yaml"))
    raw = shapes.read(root, settings)
    digests = {"train": raw.train.digest(), "test": raw.test.digest()}
    by_split: dict[str, Any] = {"images": {}, "classes": {}, "imbalance": {}, "duplicates": {}, "digest": digests}
    near = NearDuplicates(threshold=0.05, counts={}, pairs=())
    reference = Reference(shape=(32, 32, 3), bounds={}, levels={})
    further: dict[str, Any] = {"warnings": (), "leaked": 0, "expectations": {}, "near_duplicates": near}
    report = Report(dataset=DATASET, passed=True, reference=reference, **by_split, **further)
    artifacts.write(root / "reports/validate/tiny.json", report)
    lengths = {"train": len(raw.train), "test": len(raw.test)}
    duplicate_pairs.save(root / "reports/validate/tiny/near_duplicates.csv", duplicate_pairs.NONE, lengths)


ADDED = "search.budget.default={trials: 2, epochs: 20, trial_epochs: 3}"
LIGHT = (
    Command("prepare", stage("prepare"), validated),
    Command("features", stage("features")),
    Command("pack", pack, own_images),
)
HEAVY = (
    Command("validate", stage("validate"), set_params(f"datasets=[{DATASET}]"), kills=False),
    Command("ingest", ingest, incoming),
    Command("prepare with a batch", stage("prepare"), lambda root: (root / "dvc.yaml").unlink(), kills=False),
    Command("database", database, kills=False),
    Command("search", stage("search")),
    Command("train", stage("train")),
    Command("evaluate", stage("evaluate")),
    Command("register", stage("register")),
    Command("report", stage("report")),
    Command("train another", stage("train"), set_params("train.seed=5"), kills=False),
    Command("evaluate another", stage("evaluate"), kills=False),
    Command("register another", stage("register")),
    Command(
        "search networks",
        stage("search", "mlp"),
        set_params(ADDED, "search.sampler=grid", "mlp.space={layers: 1, units: 16}"),
        new_only=True,
    ),
)
