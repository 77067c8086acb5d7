"""Measures the gate: how often it refuses clean images, how many it names, and how much planted damage it finds.

    python benchmarks/gate.py --mirror MIRROR --sets SETS [--draws 200]

Protocol, fixed before the first run:

- Sets: MNIST (28×28 grey) and CIFAR-10 photographs (32×32 colour) of MIRROR; of SETS, which holds `<set>.zip` with
  `given/<class>/*.png`, Korean characters (32×32 grey) and spectrograms of spoken digits (64×64 grey).
- A draw takes pictures of a set without replacement: 100, 200, 500, 1,000 or 2,000, where there are as many. It has a
  class for each 50 pictures, at least two and at most ten; a fifth of each is test. Korean has 16 pictures of each
  character, too few for the least class size of params.yaml, so halves of its alphabet are its two classes: class sizes
  are the draw's here, and no damage.
- Settings are those of params.yaml, `gate: strict`. A picture counts as named if a failed expectation, a warning or a
  note lists it, as the stage prints them.
- 200 clean draws, and half as many of each damage.
- Clean: the share of draws that are refused, and the mean share of pictures that are named.
- Damage: one picture in a hundred, at least one, of train and test alike, is replaced: blank (one random grey level),
  noise (each value random), inverted (255 minus the value), stranger (a photograph among drawings and spectrograms, a
  handwritten digit among photographs). A picture is found if it is named, and in all at most twice as many are named
  as were planted. The figure is the mean share of planted pictures that are found.
- Limits: refused ≤ 1 % and named ≤ 1 % of clean draws; found ≥ 95 % for blank and noise at every size, for inverted on
  MNIST, Korean and spoken, and for strangers from 500 pictures on.
- What the gate measures of a picture, and its bounds, were designed on other draws of the same pictures.

Statistics of pictures are computed once for each set; a few lines of this file evaluate expectations on the
rows of each draw. The first clean draw of each set and size is judged by Great Expectations, too,
and must get the same result. Rows that the output has already are not measured again.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.core import params
from pipeline.datasets.arrays import Images, Labelled
from pipeline.validation import near_duplicates, negatives, reference, statistics, suites
from pipeline.validation.suites import ValidateSettings

SIZES = (100, 200, 500, 1000, 2000)
POOL = 4000  # pictures of a set, so that draws differ
DAMAGES = ("clean", "blank", "noise", "inverted", "stranger")
LIMITS = {"refused": 0.01, "named": 0.01, "found": 0.95}


@dataclass(frozen=True)
class Pool:
    """The pictures of a set with their statistics, and those of damaged pictures behind them."""

    name: str
    images: Images
    labels: np.ndarray
    table: pd.DataFrame
    clean: int
    damaged: dict[str, np.ndarray]
    near: Any


def sources(mirror: Path, sets: Path) -> Iterator[tuple[str, Images, np.ndarray]]:
    """Yield the name, pictures and labels of each set."""
    content = gzip.decompress((mirror / "mnist" / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((mirror / "mnist" / "train-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28, 1)
    yield "mnist", images[:POOL], np.frombuffer(labels, np.uint8, offset=8)[:POOL].astype(np.int64)
    with tarfile.open(mirror / "cifar10" / "cifar-10-binary.tar.gz") as archive:
        batch = archive.extractfile("cifar-10-batches-bin/data_batch_1.bin")
        rows = np.frombuffer(batch.read() if batch else b"", np.uint8).reshape(-1, 3073)[:POOL]
    photographs = np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    yield "photographs", photographs, rows[:, 0].astype(np.int64)
    for name, side, halves in (("korean", 32, True), ("spoken", 64, False)):
        with zipfile.ZipFile(sets / f"{name}.zip") as archive:
            files = [file for file in archive.namelist() if "given" in file.split("/") and file.endswith(".png")]
            pixels = [framed(Image.open(io.BytesIO(archive.read(file))), (side, side, 1)) for file in files]
        classes = sorted({file.split("/")[-2] for file in files})
        numbers = np.array([classes.index(file.split("/")[-2]) for file in files])
        yield name, np.stack(pixels), numbers * 2 // len(classes) if halves else numbers


def framed(picture: Image.Image, shape: tuple[int, ...]) -> Images:
    """Return a picture in the shape of a set."""
    height, width, channels = shape
    resized = picture.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8).reshape(shape)


def pool(name: str, images: Images, labels: np.ndarray, strangers: Images, settings: ValidateSettings) -> Pool:
    """Return the pictures of a set and 200 damaged ones of each kind."""
    generator = np.random.default_rng(1)
    shape, some = images.shape[1:], generator.permutation(len(images))[:200]
    grey = generator.integers(0, 256, (200, 1, 1, 1), dtype=np.uint8)
    kinds = {
        "blank": np.broadcast_to(grey, (200, *shape)),
        "noise": generator.integers(0, 256, (200, *shape), dtype=np.uint8),
        "inverted": 255 - images[some],
        "stranger": np.stack([framed(Image.fromarray(one.squeeze()), shape) for one in strangers[:200]]),
    }
    everything = np.concatenate([images, *kinds.values()])
    table = statistics.image_table({"train": Labelled(everything, np.zeros(len(everything), np.int64))})
    places = {kind: len(images) + 200 * number + np.arange(200) for number, kind in enumerate(kinds)}
    near = near_duplicates.search(images, settings.distance_of("benchmark"))
    return Pool(name, everything, labels, table, len(images), places, near)


def draw(pool: Pool, size: int, damage: str, generator: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray, int]:
    """Return the table of a draw, a mask of its damaged pictures, and the number of its classes."""
    known = np.unique(pool.labels)
    chosen = generator.permutation(known)[: min(10, max(2, size // 50))]
    rows, labels, test = [], [], []
    for number, label in enumerate(chosen):
        count = size // len(chosen) + (number < size % len(chosen))
        mine = generator.permutation(np.flatnonzero(pool.labels == label))[:count]
        rows.append(mine)
        labels.append(np.full(len(mine), number))
        test.append(np.arange(len(mine)) < round(len(mine) / 5))
    places, held_out = np.concatenate(rows), np.concatenate(test)
    bad = np.zeros(len(places), dtype=bool)
    if damage != "clean":
        bad[generator.permutation(len(places))[: max(1, len(places) // 100)]] = True
    replaced = places.copy()
    if damage != "clean":
        replaced[bad] = generator.choice(pool.damaged[damage], int(bad.sum()), replace=False)
    order = np.argsort(held_out, kind="stable")  # train first
    places, bad, held_out, replaced = places[order], bad[order], held_out[order], replaced[order]
    table = pool.table.iloc[replaced].reset_index(drop=True)
    train = int((~held_out).sum())
    table["split"] = np.where(held_out, "test", "train")
    table["index"] = np.where(held_out, np.arange(len(table)) - train, np.arange(len(table)))
    table["label"] = np.concatenate(labels)[order]
    images = pool.images[replaced]
    table["negative"] = negatives.find(images, images[:train])
    table["repeats"] = table.duplicated(["split", "sha256"])
    table["leaked"] = held_out & table["sha256"].isin(table["sha256"][:train]).to_numpy()
    here = np.full(len(pool.images), -1)
    here[replaced] = np.arange(len(replaced))
    one, other = here[pool.near.first], here[pool.near.second]
    both = (one >= 0) & (other >= 0)
    one, other = np.maximum(one[both], other[both]), np.minimum(one[both], other[both])
    same = held_out[one] == held_out[other]
    table["near"], table["near_leaked"] = np.isin(table.index, one[same]), np.isin(table.index, one[~same])
    table["group"] = np.arange(len(table))
    return table, bad, len(chosen)


def misses(expectation: Any, table: pd.DataFrame) -> tuple[np.ndarray, bool]:
    """Return a mask of the rows that miss an expectation, and whether it is met."""
    kind, values = type(expectation).__name__, table.get(getattr(expectation, "column", ""))
    if values is None or "Regex" in kind:
        return np.zeros(len(table), dtype=bool), True
    split = expectation.meta["name"].removesuffix("-some").rpartition("-")[2]
    judged = (
        (table["split"] == split).to_numpy() if expectation.row_condition is not None else np.full(len(table), True)
    )
    if "BeInSet" in kind:
        wrong = ~values.isin(expectation.value_set).to_numpy()
    else:
        low, high = expectation.min_value, expectation.max_value
        wrong = ((values < low) if low is not None else False) | ((values > high) if high is not None else False)
        judged = judged & values.notna().to_numpy()
    wrong = np.asarray(wrong) & judged
    return wrong, bool(wrong.sum() <= (1 - float(expectation.mostly)) * judged.sum() + 1e-6)


def judge(table: pd.DataFrame, classes: int, settings: ValidateSettings) -> tuple[bool, np.ndarray, list[str]]:
    """Return whether a draw is refused, a mask of the pictures that are named, and the expectations that fail."""
    scale = reference.learn(table)
    sizes = {split: int((table["split"] == split).sum()) for split in suites.SPLITS}
    tables = {"images": table, "classes": statistics.class_table(table, classes, suites.SPLITS, scale)}
    named, failed, refused = np.zeros(len(table), dtype=bool), [], False
    for which, suite in suites.suites(settings, scale, classes, sizes).items():
        for expectation in suite:
            wrong, passed = misses(expectation, tables[which])
            name = expectation.meta["name"]
            if not passed:
                failed.append(name)
                refused |= "warning" not in str(expectation.severity).lower()
            if which == "images" and (not passed or suites.names_all(name)):
                named |= wrong
    return refused, named, sorted(failed)


def measure(pool: Pool, size: int, damage: str, draws: int, settings: ValidateSettings) -> dict[str, Any]:
    """Return the figures of a row."""
    generator = np.random.default_rng([size, DAMAGES.index(damage)])
    refusals, shares, found, reasons = [], [], [], {}
    for number in range(draws):
        table, bad, classes = draw(pool, size, damage, generator)
        refused, named, failed = judge(table, classes, settings)
        if number == 0 and damage == "clean":
            outcomes = suites.check(table, settings, classes, None)
            expected = sorted(outcome.name for outcome in outcomes if not outcome.passed)
            assert failed == expected, f"{pool.name} {size} {damage}: {failed} here, {expected} by Great Expectations"
        refusals.append(refused)
        shares.append(named.mean())
        planted = int(bad.sum())
        found.append((named & bad).sum() / planted if planted and named.sum() <= 2 * planted else 0.0)
        for name in failed:
            reasons[name] = reasons.get(name, 0) + 1
    row = {"set": pool.name, "pictures": size, "damage": damage, "draws": draws}
    row |= {"refused": round(float(np.mean(refusals)), 4), "named": round(float(np.mean(shares)), 5)}
    return row | ({} if damage == "clean" else {"found": round(float(np.mean(found)), 4)}) | {"failed": reasons}


def within_limits(row: dict[str, Any]) -> bool | None:
    """Return whether a row is within the limits; None if none is set for it."""
    if row["damage"] == "clean":
        return bool(row["refused"] <= LIMITS["refused"] and row["named"] <= LIMITS["named"])
    drawings = row["set"] != "photographs"
    limited = {"blank": True, "noise": True, "inverted": drawings, "stranger": row["pictures"] >= 500}
    return bool(row["found"] >= LIMITS["found"]) if limited[row["damage"]] else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, required=True, help="folder with mnist/ and cifar10/")
    parser.add_argument("--sets", type=Path, required=True, help="folder with korean.zip and spoken.zip")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gate.json")
    arguments = parser.parse_args()
    settings = params.load("validate", ValidateSettings, Path(__file__).parents[1] / "params.yaml")
    loaded = {name: (images, labels) for name, images, labels in sources(arguments.mirror, arguments.sets)}
    rows: list[dict[str, Any]] = json.loads(arguments.output.read_text())["rows"] if arguments.output.exists() else []
    known = {(row["set"], row["pictures"], row["damage"], row["draws"]) for row in rows}
    for name, (images, labels) in loaded.items():
        strangers = loaded["mnist" if name == "photographs" else "photographs"][0]
        mine = pool(name, images, labels, strangers, settings)
        for size in (size for size in SIZES if size <= len(images)):
            for damage in DAMAGES:
                draws = arguments.draws if damage == "clean" else max(1, arguments.draws // 2)
                if (name, size, damage, draws) in known:
                    continue
                row = measure(mine, size, damage, draws, settings)
                row["within_limits"] = within_limits(row)
                rows.append(row)
                found = f"{row['found']:7.1%}" if "found" in row else "      –"
                mark = {True: "yes", False: "NO", None: "–"}[row["within_limits"]]
                print(
                    f"{name:12}{size:6}  {damage:9}{row['refused']:8.1%}{row['named']:8.2%}{found}  {mark:4}"
                    f"{row['failed'] if damage == 'clean' else ''}",
                    flush=True,
                )
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                content = {"limits": LIMITS, "rows": rows}
                arguments.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
