"""Fixtures that several test modules share."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import sklearn

from pipeline.core import params
from pipeline.datasets.arrays import Splits, save_splits
from pipeline.datasets.formats import digits

ROOT = Path(__file__).resolve().parents[1]

# A shell that runs the tests in the background ignores Ctrl-C, and what ignores it passes that on: tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of real files, laid out as MIRROR; tests that need it are skipped where there is none."""
    folder = ROOT.parent / "shared" / "mirror"
    if not folder.is_dir():
        pytest.skip("no local mirror of the datasets")
    return folder


@pytest.fixture(scope="session")
def prepared_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits, prepared: 700 to train on and 160 to validate."""
    folder = tmp_path_factory.mktemp("prepared") / "digits"
    source = params.load("download.digits", digits.Settings, ROOT / "params.yaml")
    shipped = Path(sklearn.__file__).parent / "datasets" / "data"
    raw = digits.read(shipped, source)
    order = np.random.default_rng(0).permutation(len(raw.train))
    train, val = raw.train.take(order[:700]), raw.train.take(order[700:860])
    save_splits(folder, Splits(train, val, raw.class_names, train.digest()))
    return folder
