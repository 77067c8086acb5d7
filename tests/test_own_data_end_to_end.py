"""A folder of one's own pictures becomes a registered classifier; batches of them that come later retrain it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image, ImageDraw

from pipeline.project import dvc

PIPELINE = [sys.executable, "-m", "pipeline.cli.main"]
DVC = [sys.executable, "-m", "dvc"]
CLASSES = ("low", "middle", "top")
POINT = (
    "{layers: 1, units: 64, batch_norm: true, dropout: 0.1, learning_rate: 0.003, weight_decay: 0.0001, batch_size: 32}"
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def draw(folder: Path, per_class: int, seed: int) -> None:
    """Draw noisy colour pictures of many sizes, PNG and JPEG, in which a disc lies where the class says."""
    random = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            width, height = (int(side) for side in random.integers(28, 65, 2))
            noise = random.integers(0, 110, (height, width, 3), dtype=np.uint8)
            picture = Image.fromarray(noise)
            x, y = random.uniform(0.25, 0.75) * width, (0.83 - 0.33 * label) * height
            radius, colour = 0.16 * height, tuple(int(level) for level in random.integers(190, 256, 3))
            ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
            picture.save(folder / name / f"{seed}-{index:03}.{('png', 'jpg')[index % 4 == 0]}")


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder."""
    env = dvc.environment(folder)
    env.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)


def put(folder: Path, name: str) -> None:
    """Leave a truncated batch among the incoming ones."""
    (folder / "data/incoming/pets").mkdir(parents=True, exist_ok=True)
    (folder / "data/incoming/pets" / name).write_bytes(b"PK")


def ran(folder: Path) -> set[str]:
    """Run `dvc repro` and return the stages that really ran."""
    done = command(folder, *DVC, "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"Running stage '([^'@]+)", done.stdout))


def report(folder: Path, name: str) -> Any:
    """Return the content of a report."""
    return json.loads((folder / "reports" / name).read_text())


def run(home: Path) -> subprocess.CompletedProcess[str]:
    """Call `pipeline run` for the pictures in a folder."""
    settings = [
        "datasets=[pets]",
        "families=[mlp]",
        f"download.pets={{format: folder, path: {home / 'pets'}, size: [24, 20], channels: 3}}",
        "search.budget.pets={trials: 1, epochs: 5, trial_epochs: 5}",
        "search.reduction=5",
        "runtime.workers=1",
        "train.seeds=1",
        f"mlp.space={POINT}",
    ]
    words = [*PIPELINE, "run", "--workspace", str(home / "ws"), *(part for each in settings for part in ("-S", each))]
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished `pipeline run` on 360 pictures of one's own."""
    home = tmp_path_factory.mktemp("own")
    draw(home / "pets", 120, 1)
    assert "v1 @champion" in run(home).stdout
    return home / "ws"


def test_a_folder_of_pictures_becomes_a_registered_classifier(pets: Path) -> None:
    scores = report(pets, "evaluate/pets/mlp/summary.json")
    assert report(pets, "validate/pets.json")["images"] == {"train": 288, "test": 72}
    assert scores["accuracy"] > 0.8
    version = MlflowClient(f"sqlite:///{pets / 'mlflow.db'}").get_model_version_by_alias("pets-classifier", "champion")
    assert version.run_id == report(pets, "register/pets.json")["classify"]["run"]
    assert np.load(pets / "data/test/pets/test_images.npy").shape == (72, 24, 20, 3)
    assert report(pets, "validate/pets.json")["classes"]["test"] == dict.fromkeys(CLASSES, 24)


def test_unchanged_pictures_run_nothing_again(pets: Path) -> None:
    before = (pets / "params.yaml").read_bytes()
    done = command(pets, *PIPELINE, "ingest")
    nothing = "ingest: 0 accepted (0 images), 0 quarantined, 0 known already"
    assert (done.returncode, done.stdout.splitlines()) == (0, ["1 file added to DVC; next: dvc push", nothing])
    again = command(pets, *PIPELINE, "ingest")
    assert (again.returncode, again.stdout.splitlines()) == (0, [nothing])
    assert (pets / "params.yaml").read_bytes() == before
    assert ran(pets) == set()


def test_a_good_batch_retrains_and_a_bad_one_explains_itself(pets: Path) -> None:
    test_before = report(pets, "validate/pets.json")["digest"]["test"]
    draw(pets / "data/incoming/pets/good", 40, 2)
    draw(pets / "data/incoming/pets/bad", 40, 3)
    names = [pets / "data/incoming/pets/bad" / name for name in ("low", "top", "was-low")]
    for source, target in ((0, 2), (1, 0), (2, 1)):  # low and top are each other
        names[source].rename(names[target])
    done = command(pets, *PIPELINE, "ingest")
    assert done.returncode == 0, done.stderr
    bad, good, added, summary = done.stdout.splitlines()
    assert added == "1 file added to DVC; next: dvc push"
    assert re.match("pets: bad quarantined: class 'low' does not look like itself: .*; most look like 'top'", bad)
    assert bad.endswith("see data/quarantine/pets/bad/report.json")
    assert re.match("pets: good accepted.*: 120 images, digest", good)
    assert summary == "ingest: 1 accepted (120 images), 1 quarantined, 0 known already; next: dvc repro"
    assert len(list((pets / "data/quarantine/pets/bad/batch/bad").glob("*/*"))) == 120

    assert ran(pets) == {"prepare", "features", "search", "train", "evaluate", "register", "report"}
    sizes = [len(np.load(pets / f"data/prepared/pets/{side}_labels.npy")) for side in ("train", "val")]
    assert sum(sizes) == 288 + 120
    assert len(np.load(pets / "data/test/pets/test_labels.npy")) == 72
    assert report(pets, "validate/pets.json")["digest"]["test"] == test_before
    assert ran(pets) == set()


def test_retraining_takes_in_what_has_come_first(pets: Path) -> None:
    put(pets, "broken.npz")
    done = command(pets, *PIPELINE, "retrain")
    assert done.returncode == 11, done.stderr
    answer = json.loads(done.stdout)
    assert answer["outcome"] == "nothing to do"
    assert answer["ingested"] == {"accepted": 0, "quarantined": 1, "known": 0, "left": 0, "images": 0}
    assert (
        "broken.npz quarantined: broken.npz is damaged: expected a complete .npz file, found only the start"
        in done.stderr
    )


def test_a_second_run_takes_in_what_has_come_first(pets: Path) -> None:
    put(pets, "cut.npz")
    done = run(pets.parent)
    assert "cut.npz quarantined: cut.npz is damaged" in done.stdout
    assert not (pets / "data/incoming/pets/cut.npz").exists()
