"""Measures the validation accuracy of the reference classifiers, each trained for its published number of epochs.

Test images are not used: only the stage `evaluate` reads them. Each core runs a worker with one thread, and the workers
train in parallel, so the times are those of a training on one core.

    python benchmarks/references.py [--data data/prepared] [--epochs 1] [--only R4 R11]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.backend import configure
from pipeline.executors.base import Done, Failed
from pipeline.executors.local import LocalExecutor
from pipeline.models import loading
from pipeline.models.base import Preset, Span
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.training import task
from pipeline.models.training.task import TrainingTask

ROOT = Path(__file__).resolve().parents[1]
# As published; the number for R3 is unknown, and 5 was chosen.
EPOCHS = {"R1": 5, "R2": 10, "R3": 5, "R4": 10, "R5": 10, "R6": 5, "R7": 2, "R8": 5, "R9": 5, "R10": 5, "R11": 5}


def references() -> dict[str, tuple[str, Preset]]:
    """Return the family and the preset of every reference image classifier, by name."""
    found = {}
    for family in ("mlp", "cnn"):
        for preset in loading.load(family, {}).presets:
            found[preset.name] = (family, preset)
    return {name: found[name] for name in EPOCHS}


def train(names: list[str], data: Path, epochs: int | None, scratch: Path) -> Iterator[dict[str, Any]]:
    """Train reference classifiers, and yield a row for each when it finishes."""
    known = references()
    with LocalExecutor(task.work("tensorflow"), configure.worker_environments(0)) as executor:
        for key, name in enumerate(names):
            family, preset = known[name]
            count = epochs or EPOCHS[name]
            folder = data / preset.dataset
            if not (folder / "meta.json").exists():
                raise SystemExit(f"error: {folder} does not exist: prepare {preset.dataset} first, or omit {name}")
            span = Span(0, count, count)
            point = preset.hyperparameters
            executor.submit(
                key, TrainingTask(family, {}, point, folder, 0, span, scratch / name, scratch / "epochs.log")
            )
        left = set(range(len(names)))
        while left:
            for event in executor.wait(1.0):
                if isinstance(event, Failed):
                    raise SystemExit(f"error: {names[event.key]}: {event.reason}")
                if isinstance(event, Done):
                    left.discard(event.key)
                    yield row(names[event.key], *known[names[event.key]], event.result.epochs)


def row(name: str, family: str, preset: Preset, epochs: list[EpochMetrics]) -> dict[str, Any]:
    """Return the row of a reference classifier."""
    return {
        "name": name,
        "family": family,
        "dataset": preset.dataset,
        "what": preset.title,
        "epochs": len(epochs),
        "val_accuracy": epochs[-1]["val_accuracy"],
        "first_epoch": epochs[0]["val_accuracy"],
        "seconds": round(sum(epoch.seconds for epoch in epochs), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "prepared", help="folder of prepared datasets")
    parser.add_argument("--epochs", type=int, help="epochs of every classifier; default: as published")
    parser.add_argument("--only", nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "references.json")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    rows = []
    try:
        for one in train(arguments.only, arguments.data, arguments.epochs, scratch):
            rows.append(one)
            print(f"{one['name']:<4} {one['dataset']:<8} {one['epochs']:>2} epochs  {one['val_accuracy']:7.2%}"
                  f"  {one['seconds']:6.0f} s  {one['what']}", flush=True)  # fmt: skip
    finally:
        shutil.rmtree(scratch)
    rows.sort(key=lambda one: list(EPOCHS).index(one["name"]))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
