"""Run by test_ingest.py in a process of its own: kills an ingest before every single change to the disk, and goes on.

    python ingest_killed.py <folder to work in>     prints JSON: [[exit code, what is there after a rerun], …]

It forks, so it loads nothing that starts threads: the gate and DVC are replaced by stand-ins.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.arrays import Labelled, RawImages
from pipeline.project import workspace
from pipeline.retraining import ingest
from pipeline.validation.batch_checks import BatchDecision

KILLED = -signal.SIGKILL
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def drawn(seed: int, count: int = 6) -> Labelled:
    images = np.random.default_rng(seed).integers(0, 255, (count, 5, 5, 1), dtype=np.uint8)
    return Labelled(images, np.arange(count, dtype=np.int64) % 2)


def judged(dataset: str, batch: Labelled, known: RawImages, *_: Any) -> BatchDecision:
    return BatchDecision(("looks bad",) if batch.images[0, 0, 0, 0] == 255 else ())


def make(root: Path) -> None:
    """A good file, a good folder, a bad file, a damaged file, and the good file again under another name."""
    from PIL import Image

    box = root / "data/incoming/toy"
    box.mkdir(parents=True)
    good, bad = drawn(1), drawn(2)
    bad.images[0] = 255
    for name, data in (("a-good", good), ("c-bad", bad), ("e-again", good)):
        np.savez(box / name, images=data.images, labels=data.labels)
    (box / "d-damaged.npz").write_bytes((box / "a-good.npz").read_bytes()[:-40])
    for label in ("x", "y"):
        (box / "b-folder" / label).mkdir(parents=True)
        for index, image in enumerate(drawn(ord(label), 2).images):
            Image.fromarray(image[..., 0]).save(box / "b-folder" / label / f"{index}.png")


def take(root: Path, kill_before: int | None) -> int:
    """Ingest in a child that dies before its nth change; return its exit code."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or writes) and str(root) in str(arguments[0]) and ".lock" not in str(arguments[0]):
            seen += 1
            if seen == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    ingest.run(root, lambda line: None)
    os._exit(0)


def state(root: Path) -> dict[str, Any]:
    """Return where the batches are."""
    entries = [json.loads(file.read_text()) for file in (root / "reports/ingest/toy").glob("*.json")]
    manifest = sorted(entries, key=lambda entry: entry["order"])
    quarantine = sorted((root / "data/quarantine/toy").glob("*/batch/*"))
    reports = [json.loads((path.parent.parent / "report.json").read_text()) for path in quarantine]
    waiting = [str(path) for path in (root / "data/incoming/toy").rglob("*") if path.is_file()]
    stored = sorted(path.stem for path in (root / "data/accepted/toy").glob("*.npz"))
    return {
        "manifest": [(line["batch"], line["images"]) for line in manifest],
        "stored": stored == sorted(line["digest"] for line in manifest),
        "quarantine": [path.name for path in quarantine],
        "reports": [report["batch"] for report in reports],
        "waiting": waiting,
    }


def main(folder: Path) -> None:
    raw = RawImages(drawn(10), drawn(11), ("x", "y"))
    workspace.settle = settled
    ingest.judge = judged
    ingest._reference = lambda places: (raw, None)
    ingest.GateSettings = type("Settings", (), {"model_validate": staticmethod(lambda value: None)})
    results, number, code = [], 0, KILLED
    while code == KILLED:
        number += 1
        root = folder / f"{number:03}"
        make(root)
        code = take(root, number)
        assert take(root, None) == 0
        results.append([code, state(root)])
        shutil.rmtree(root)
    print(json.dumps(results))


def settled(root: Path, **more: Any) -> dict[str, Any]:
    workspace.make_manifests(root, {"datasets": ["toy"]})
    return {"datasets": ["toy"], "validate": None}


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
