"""Measures the gain from bfloat16: images per second in mixed precision compared with single precision.

It uses one thread, as a worker does, and excludes the first epoch, in which Keras traces. Prints a row for each
architecture.

    python benchmarks/precision.py --data data/prepared/cifar10 [--images 6400]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.backend import configure
from pipeline.backend.mixed_precision import native_bfloat16
from pipeline.datasets.arrays import Splits, load_splits
from pipeline.models import loading
from pipeline.models.base import Span
from pipeline.search.enqueued import centre

EPOCHS = 3
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "fast, width 32": {"architecture": "fast", "fast_width": 32},
    "fast, width 16": {"architecture": "fast", "fast_width": 16},
    "plain, 32 and 64 filters": {"architecture": "plain", "plain_filters": 32, "plain_blocks": 2},
}


def images_per_second(space: dict[str, Any], precision: str, data: Splits) -> float:
    """Return the training speed of the centre of a space."""
    family = loading.load("cnn", {"space": space, "precision": precision})
    point = centre(family.suggest)
    fitted = family.fit(point, data, Span(0, EPOCHS, EPOCHS), seed=0, state=None, on_epoch=lambda _: None)
    return len(data.train) / min(epoch.seconds for epoch in fitted.history[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared dataset")
    parser.add_argument("--images", type=int, default=6400, help="number of training images")
    arguments = parser.parse_args()
    configure.configure("tensorflow", threads=1)
    whole = load_splits(arguments.data)
    data = Splits(whole.train.take(np.arange(arguments.images)), whole.val.take(np.arange(64)), whole.class_names, "")
    print(f"the device computes with bfloat16: {'yes' if native_bfloat16() else 'no'}")
    for name, space in CONFIGURATIONS.items():
        single, mixed = (images_per_second(space, precision, data) for precision in ("float32", "mixed_bfloat16"))
        print(f"{name:<26} {single:8,.0f} images/s in float32 {mixed:8,.0f} in bfloat16  {mixed / single:.2f}")


if __name__ == "__main__":
    main()
