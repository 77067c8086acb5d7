"""Compares this project's search with a plain Optuna loop and KerasTuner's Hyperband at equal wall time.

All search the same space with the same networks, optimizer and schedule, on the same 30,000 + 5,000 MNIST training
images. Each runs in its own processes and is killed at the time limit; start-up time counts. Ours is the unchanged
search stage without presets: rungs, one worker per core, averaged weights. The plain loop follows Optuna's own Keras
examples: one process, `model.fit`, and a report to MedianPruner after each epoch. KerasTuner is not a pinned package:
`make bench` installs requirements/bench.txt.

    python benchmarks/search.py [--data data/prepared/mnist] [--seconds 300] [--seeds 0 1 2] [--systems ours optuna …]
    python benchmarks/search.py --show benchmarks/results/search.json [--picture searches.png]

Writes one row per system and seed, and prints, as medians over the seeds, when ours reached the final accuracy of each
other system. `--show` prints this for rows from an earlier run, and `--picture` draws them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.datasets.arrays import Splits, load_splits, save_splits
from pipeline.project import dvc, workspace
from pipeline.search import plot_axes

ROOT = Path(__file__).resolve().parents[1]
# Perceptrons, as in tutorials, so that each system tries dozens in five minutes. This choice is ours and not neutral:
# with convolutional networks, a plain loop tries a dozen on two cores, and luck with the first ones decides. The range
# of the learning rate is that of Optuna's own Keras example (keras_simple.py); our families use a narrower one.
FAMILY, TRIAL_EPOCHS = "mlp", 9
SETTINGS: dict[str, Any] = {"space": {"learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}}}
TRAIN, VAL = 30_000, 5_000
OTHERS = ("optuna", "kerastuner")
Epoch = tuple[float, float]  # seconds since the start, validation accuracy


# ---------------------------------------------------------------- runs in a separate process


class EpochLog:
    """Logs every epoch and trial to a file that the parent reads after a kill."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", encoding="utf-8")

    def epoch(self, value: float) -> None:
        self.write({"at": time.time(), "value": value})

    def trial(self) -> None:
        self.write({"trial": 1})

    def write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()


def compiled(hyperparameters: dict[str, Any], splits: Splits) -> Any:
    """Return a compiled model as our families train it, without the optimizations for speed."""
    import keras

    from pipeline.models.base import Spec
    from pipeline.models.loading import load

    model = load(FAMILY, SETTINGS).build(hyperparameters, Spec.of(splits))
    steps = TRIAL_EPOCHS * -(-len(splits.train) // int(hyperparameters["batch_size"]))
    schedule = keras.optimizers.schedules.CosineDecay(float(hyperparameters["learning_rate"]), steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=float(hyperparameters["weight_decay"]))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def search_optuna(splits: Splits, seed: int, log: EpochLog, folder: Path) -> None:
    """Search as Optuna's Keras examples do, without end."""
    import keras
    import optuna

    from pipeline.models.loading import load

    del folder
    images, labels = np.asarray(splits.train.images), np.asarray(splits.train.labels)
    validation = (np.asarray(splits.val.images), np.asarray(splits.val.labels))
    family = load(FAMILY, SETTINGS)

    class Pruning(keras.callbacks.Callback):
        def __init__(self, trial: optuna.Trial) -> None:
            super().__init__()
            self.trial = trial

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            value = (logs or {})["val_accuracy"]
            log.epoch(value)
            self.trial.report(value, epoch)
            if self.trial.should_prune():
                raise optuna.TrialPruned

    def objective(trial: optuna.Trial) -> float:
        log.trial()
        keras.backend.clear_session()
        hyperparameters = family.suggest(trial)
        model = compiled(hyperparameters, splits)
        model.fit(
            images, labels, batch_size=hyperparameters["batch_size"], epochs=TRIAL_EPOCHS, shuffle=True,
            validation_data=validation, verbose=0, callbacks=[Pruning(trial)],
        )  # fmt: skip
        return float(model.evaluate(*validation, verbose=0)[1])

    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=optuna.pruners.MedianPruner())
    study.optimize(objective)


def search_kerastuner(splits: Splits, seed: int, log: EpochLog, folder: Path) -> None:
    """Search with KerasTuner's Hyperband, without end."""
    import keras
    import keras_tuner

    from pipeline.models.loading import load

    family = load(FAMILY, SETTINGS)

    class TunerTrial:
        """KerasTuner's hyperparameters with the interface of a trial."""

        def __init__(self, hp: Any) -> None:
            self.hp = hp

        def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
            return self.hp.Float(name, low, high, sampling="log" if log else "linear")

        def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
            return self.hp.Int(name, low, high, sampling="log" if log else "linear")

        def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:
            return self.hp.Choice(name, list(choices))

    class Models(keras_tuner.HyperModel):
        def build(self, hp: Any) -> Any:
            return compiled(family.suggest(TunerTrial(hp)), splits)

        def fit(self, hp: Any, model: Any, *arguments: Any, **named: Any) -> Any:
            log.trial()
            return model.fit(*arguments, batch_size=hp.get("batch_size"), **named)

    class Recording(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            log.epoch((logs or {})["val_accuracy"])

    tuner = keras_tuner.Hyperband(
        Models(), objective="val_accuracy", max_epochs=TRIAL_EPOCHS, factor=3, hyperband_iterations=1000, seed=seed,
        directory=folder, project_name="search",
    )  # fmt: skip
    validation = (np.asarray(splits.val.images), np.asarray(splits.val.labels))
    tuner.search(
        np.asarray(splits.train.images), np.asarray(splits.train.labels), validation_data=validation, verbose=0,
        callbacks=[Recording()],
    )  # fmt: skip


def other(system: str, data: Path, seed: int, folder: Path) -> None:
    """Run one of the other searches in this process."""
    from pipeline.backend import configure

    configure.configure("tensorflow")
    import keras

    keras.utils.set_random_seed(seed)
    searches: dict[str, Callable[[Splits, int, EpochLog, Path], None]] = {
        "optuna": search_optuna,
        "kerastuner": search_kerastuner,
    }
    searches[system](load_splits(data), seed, EpochLog(folder / "epochs.jsonl"), folder)


# ---------------------------------------------------------------- the parent


def measure(system: str, data: Path, seed: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Run a search until the time limit, and return its row."""
    if system == "ours":
        command, directory, environment = ours(data, seed, folder)
    else:
        arguments = ["--one", system, "--data", str(data), "--seeds", str(seed), "--folder", str(folder)]
        command, directory, environment = [sys.executable, __file__, *arguments], ROOT, dict(os.environ)
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        began = time.time()
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass  # expected: it searches without end
        else:
            log = (folder / "log.txt").read_text(encoding="utf-8")
            raise SystemExit(f"{system} ended before the time limit:\n{log[-3000:]}")
        finally:
            wall = time.time() - began
            kill_group(process)
    epochs, trials = our_epochs(folder, began) if system == "ours" else other_epochs(folder, began)
    return row(system, seed, wall, [epoch for epoch in epochs if epoch[0] <= seconds], trials)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a search with all its workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ours(data: Path, seed: int, folder: Path) -> tuple[list[str], Path, dict[str, str]]:
    """Return the command, folder and environment of the search stage, in its own workspace."""
    budget = {"trials": 100_000, "epochs": 1_000_000, "trial_epochs": TRIAL_EPOCHS}
    settings = [f"search.seed={seed}", f"search.budget={json.dumps({'default': budget})}", "search.presets=false"]
    settings += [f"{FAMILY}={json.dumps(SETTINGS)}"]  # not narrowed for MNIST: the others use the family's space
    workspace.prepare(folder / "ours", [*settings, f"families=[{FAMILY}]"])
    command = [
        sys.executable,
        "-m",
        "pipeline.stages.search",
        "--dataset",
        "mnist",
        "--family",
        FAMILY,
        "--data",
        str(data),
    ]
    command += ["--features", "data/features", "--studies", "data/studies", "--output", "reports/search"]
    environment = dvc.environment(folder / "ours")
    environment.pop("MLFLOW_TRACKING_URI", None)
    return command, folder / "ours", environment


def our_epochs(folder: Path, began: float) -> tuple[list[Epoch], int]:
    """Return the epochs of our study and the number of its trials."""
    [results] = (folder / "ours").glob("data/studies/*/results")
    trials = list(results.iterdir())
    rungs = [json.loads(path.read_text(encoding="utf-8")) for path in results.glob("*/epoch-*.json")]
    history = [epoch for rung in rungs for epoch in rung["epochs"]]
    return sorted((epoch["at"] - began, epoch["val_accuracy"]) for epoch in history), len(trials)


def other_epochs(folder: Path, began: float) -> tuple[list[Epoch], int]:
    """Return the epochs that another search has logged, and the number of its trials."""
    log = folder / "epochs.jsonl"
    lines = (
        [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        if log.exists()
        else []
    )
    return [(line["at"] - began, line["value"]) for line in lines if "at" in line], sum(
        "trial" in line for line in lines
    )


def row(system: str, seed: int, wall: float, epochs: list[Epoch], trials: int) -> dict[str, Any]:
    """Return the result row of a search."""
    curve: list[list[float]] = []
    for seconds, exact in epochs:
        value = round(exact, 6)  # a framework's single precision is not a better result
        if not curve or value > curve[-1][1]:
            curve.append([round(seconds, 2), value])
    return {
        "system": system,
        "seed": seed,
        "wall_seconds": round(wall, 1),
        "best": curve[-1][1] if curve else None,
        "curve": curve,
        "epochs": len(epochs),
        "images_per_second": round(len(epochs) * TRAIN / wall),
        "trials": trials,
    }


def reached(curve: list[list[float]], value: float) -> float:
    """Return when a curve first reached a value; infinity if it never did."""
    return next((seconds for seconds, best in curve if best >= value), float("inf"))


def compare(rows: list[dict[str, Any]]) -> None:
    """Print every row, and the medians of the comparison."""
    for one in rows:
        best = "-" if one["best"] is None else f"{one['best']:.4f} at {one['curve'][-1][0]:5.0f} s"
        print(f"{one['system']:<11} seed {one['seed']}: {best}, {one['trials']:3} trials, {one['epochs']:3} epochs,"
              f" {one['images_per_second']:6,} images/s")  # fmt: skip
    by = {(one["system"], one["seed"]): one for one in rows if one["curve"]}
    for system in OTHERS:
        seeds = [seed for found, seed in by if found == system and ("ours", seed) in by]
        if not seeds:
            continue
        pairs = [(by["ours", seed], by[system, seed]) for seed in seeds]
        their_s = statistics.median(reached(theirs["curve"], theirs["best"]) for _, theirs in pairs)
        our_s = statistics.median(reached(mine["curve"], theirs["best"]) for mine, theirs in pairs)
        ends = [statistics.median(one["best"] for one in side) for side in zip(*pairs, strict=True)]
        print(f"medians over {len(seeds)} seeds: {system} reached its best after {their_s:.0f} s, ours reached that"
              f" after {our_s:.0f} s ({our_s / their_s:.2f} of the time) and ended with {ends[0]:.4f} against"
              f" {ends[1]:.4f}")  # fmt: skip


def draw(rows: list[dict[str, Any]], picture: Path) -> None:
    """Draw the best accuracy so far of every search over time."""
    figure, axes = plot_axes.titled(
        f"Best validation accuracy so far, {TRAIN:,} MNIST images, one line per seed", height=3.8
    )
    for name, colour in {"kerastuner": "#bf8700", "optuna": "#8250df", "ours": "#1a7f37"}.items():
        for place, one in enumerate(one for one in rows if one["system"] == name):
            curve = [*one["curve"], [one["wall_seconds"], one["best"]]]
            axes.step(*zip(*curve, strict=True), where="post", color=colour, lw=1.4, label=None if place else name)
    plot_axes.measure(axes, "val_accuracy", [0.9, *(one["best"] for one in rows)])
    axes.set_ylim(0.9, max(one["best"] for one in rows) + 0.0005)
    axes.set_xlim(0, None)
    axes.set_xlabel("seconds, start-up included")
    axes.legend(loc="lower right", frameon=False)
    picture.write_bytes(plot_axes.png(figure))


def subset(folder: Path, into: Path) -> None:
    """Write the subset of prepared MNIST that all searches use."""
    splits = load_splits(folder)
    random = np.random.default_rng(0)
    train, val = (np.sort(random.permutation(len(part))[:count]) for part, count in
                  ((splits.train, TRAIN), (splits.val, VAL)))  # fmt: skip
    taken = splits.train.take(train), splits.val.take(val)
    save_splits(into, Splits(*taken, splits.class_names, taken[0].digest()))


def measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every search with every seed; return their rows, each of which is written when it is complete."""
    scratch = Path(tempfile.mkdtemp())
    rows = []
    try:
        subset(arguments.data, scratch / "data")
        for seed in arguments.seeds:
            for system in arguments.systems:  # alternate the systems, because the machine's load may vary over time
                folder = scratch / f"{system}-{seed}"
                folder.mkdir()
                rows.append(measure(system, scratch / "data", seed, arguments.seconds, folder))
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
                print(f"{system}, seed {seed}: {rows[-1]['best']}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(scratch)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "prepared" / "mnist", help="prepared MNIST")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--systems", nargs="+", default=["ours", *OTHERS], choices=["ours", *OTHERS])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "search.json")
    parser.add_argument("--show", type=Path, help="JSON of earlier rows to print and draw, without measuring")
    parser.add_argument("--picture", type=Path, help="PNG to draw")
    parser.add_argument("--one", choices=OTHERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        other(arguments.one, arguments.data, arguments.seeds[0], arguments.folder)
        return
    rows = json.loads(arguments.show.read_text(encoding="utf-8")) if arguments.show else measured(arguments)
    compare(rows)
    if arguments.picture:
        draw(rows, arguments.picture)


if __name__ == "__main__":
    main()
