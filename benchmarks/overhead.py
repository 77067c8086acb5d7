"""Measures the overhead of a search: its wall time divided by that of the same trainings in bare processes.

Both train the same trials of two rungs with two started workers of one thread each. The search is the real one: study,
pruner, MLflow, checkpoints and pipes. The bare processes get fixed shares of the trials and only train, until the last
has finished. The ratio to their mean working time is also printed; it includes the idle time of a worker at the end.

    python benchmarks/overhead.py [--images 12000] [--data data/prepared/mnist]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import throughput

from pipeline.core import params
from pipeline.datasets.arrays import save_splits
from pipeline.executors.local import LocalExecutor
from pipeline.models.base import Span
from pipeline.models.loading import load
from pipeline.models.training.task import TrainingTask, run, work
from pipeline.search.mlflow_mirror import MlflowMirror
from pipeline.search.progress import Expected, SearchProgress
from pipeline.search.rung_results import RungResults
from pipeline.search.scheduler import TrialScheduler
from pipeline.search.settings import SearchSettings
from pipeline.search.study import Study
from pipeline.search.study_definition import Definition
from pipeline.tracking.runs import Tracker

WORKERS, TRIAL_EPOCHS = 2, 3
TRIALS = throughput.CONFIGURATIONS
WARM_UP = throughput.WARM_UP


def rung(folder: Path, data: Path, number: int, point: dict[str, Any], start: int, stop: int) -> TrainingTask:
    """Return the task of one rung of a trial."""
    span = Span(start, stop, TRIAL_EPOCHS)
    return TrainingTask("cnn", {}, point, data, abs(number), span, folder / f"trial-{number}", folder / "epochs.log")


def searched(folder: Path, data: Path) -> float:
    """Return the duration of a search with the trials, in seconds."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    budget = {"trials": len(TRIALS), "epochs": 10_000, "trial_epochs": TRIAL_EPOCHS}
    section = params.section("search", Path(__file__).parents[1] / "params.yaml") | {
        "pruner": "none",
        "presets": True,
        "budget": {"default": budget},
    }
    settings = params.parse("search", section, SearchSettings)
    family = load("cnn", {})
    family.presets_for = lambda dataset: {str(n): point for n, point in enumerate(TRIALS)}  # type: ignore[method-assign]
    definition = Definition("bench", "cnn", "", "", {}, settings.defining(), TRIAL_EPOCHS, "tensorflow")
    study = Study(folder / "study", definition, settings, family, steps=1000)
    results = RungResults(folder / "study")
    record = MlflowMirror(Tracker("bench"), definition.name, "cnn", {"stage": "search"})

    def task(number: int, point: dict[str, Any], start: int, stop: int) -> TrainingTask:
        return rung(folder, data, number, point, start, stop)

    def discard(number: int) -> None:
        shutil.rmtree(folder / f"trial-{number}", ignore_errors=True)

    with LocalExecutor(work("tensorflow"), [{} for _ in range(WORKERS)]) as executor:
        throughput.run_all(executor, {-1 - n: rung(folder, data, -1 - n, WARM_UP, 0, 1) for n in range(WORKERS)})
        limits = settings.budget["default"]
        progress = SearchProgress("overhead", Expected(limits, len(TRIALS) * TRIAL_EPOCHS, WORKERS, None))
        started = time.monotonic()
        TrialScheduler(
            study, limits, settings.slots, lambda _: 1.0, results, executor, lambda: record, task, discard, progress
        ).run()
        taken = time.monotonic() - started
    assert study.status().counts["complete"] == len(TRIALS), study.status()
    return taken


def bare(folder: Path, data: Path) -> list[float]:
    """Return the working time of each bare process for the same trainings, in seconds."""
    spawn = multiprocessing.get_context("spawn")
    ready, taken = spawn.Barrier(WORKERS), spawn.SimpleQueue()
    shares = [list(range(place, len(TRIALS), WORKERS)) for place in range(WORKERS)]
    processes = [spawn.Process(target=train, args=(folder, data, share, ready, taken)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0, process
    return [round(taken.get(), 2) for _ in processes]


def train(folder: Path, data: Path, share: list[int], ready: Any, taken: Any) -> None:
    """Train some trials one after the other, and send the duration in seconds to a queue."""
    from pipeline.backend import configure

    configure.configure("tensorflow", threads=1)
    run(rung(folder, data, -1 - share[0], WARM_UP, 0, 1), lambda _: None)
    ready.wait()
    started = time.monotonic()
    for number in share:
        for start, stop in ((0, 1), (1, TRIAL_EPOCHS)):
            run(rung(folder, data, number, TRIALS[number], start, stop), lambda _: None)
    taken.put(time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--data", type=Path, help="prepared MNIST; default: noise of the same shape")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "overhead.json")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    searches, bares = [], []
    try:
        save_splits(scratch / "data", throughput.data(arguments.data, arguments.images))
        for repeat in range(arguments.repeats):
            for name in ("search", "bare"):
                (scratch / f"{name}-{repeat}").mkdir()
            searches.append(round(searched(scratch / f"search-{repeat}", scratch / "data"), 2))
            bares.append(bare(scratch / f"bare-{repeat}", scratch / "data"))
    finally:
        shutil.rmtree(scratch)
    ratio = min(searches) / min(max(each) for each in bares)
    to_mean = min(searches) / min(statistics.mean(each) for each in bares)
    print(f"search {searches} s\nbare   {bares} s\nratio  {ratio:.3f}, to the mean {to_mean:.3f}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    found = {"seconds": {"search": searches, "bare": bares}, "overhead_ratio": ratio, "ratio_to_mean": to_mean}
    arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
