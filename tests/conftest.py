"""Fixtures that several test modules share."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import params
from pipeline.datasets.arrays import Labelled, Splits, load_splits, save_splits
from pipeline.datasets.formats import digits
from tests import http_server

ROOT = Path(__file__).resolve().parents[1]

# A shell that runs the tests in the background ignores Ctrl-C, and what ignores it passes that on: tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# One thread for each process: tests run beside each other, and small models gain little from a second thread.
for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# Files that take longest, in this order: parallel workers begin with them, so that none is left with one at the end.
LONGEST = ("test_end_to_end", "test_own_data_end_to_end", "test_search", "test_validate", "test_models", "test_ingest",
           "test_seeds", "test_gan", "test_chance", "test_cli", "test_termination", "test_search_replay",
           "test_add_dataset")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first; those of a file stay in their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of real files, laid out as MIRROR; tests that need it are skipped where there is none."""
    folder = ROOT.parent / "shared" / "mirror"
    if not folder.is_dir():
        pytest.skip("no local mirror of the datasets")
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow with its tables, which take seconds to create, and nothing in them."""
    from pipeline.tracking.runs import Connection

    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
        Connection()
    return file


@pytest.fixture
def database(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database of MLflow of the test's own, which MLFLOW_TRACKING_URI names."""
    file = tmp_path / "mlflow.db"
    shutil.copyfile(empty_database, file)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def prepared_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits, prepared: 700 to train on and 160 to validate."""
    folder = tmp_path_factory.mktemp("prepared") / "digits"
    source = params.load("download.digits", digits.Settings, ROOT / "params.yaml")
    sklearn = importlib.util.find_spec("sklearn")
    assert sklearn is not None
    assert sklearn.origin is not None
    raw = digits.read(Path(sklearn.origin).parent / "datasets" / "data", source)
    order = np.random.default_rng(0).permutation(len(raw.train))
    train, val = raw.train.take(order[:700]), raw.train.take(order[700:860])
    save_splits(folder, Splits(train, val, raw.class_names, train.digest()))
    return folder


@pytest.fixture(scope="session")
def few_digits(prepared_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of the prepared digits, 256 and 64: for tests of how training goes, not of how well."""
    data = load_splits(prepared_digits)
    train = Labelled(data.train.images[:256], data.train.labels[:256])
    val = Labelled(data.val.images[:64], data.val.labels[:64])
    folder = tmp_path_factory.mktemp("few") / "digits"
    save_splits(folder, Splits(train, val, data.class_names, "few"))
    return folder


@pytest.fixture(scope="session")
def tiny_digits(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of them, 64 and 32: for tests of whether a step is trained."""
    data, folder = load_splits(few_digits), tmp_path_factory.mktemp("tiny") / "digits"
    train, val = data.train.take(np.arange(64)), data.val.take(np.arange(32))
    save_splits(folder, Splits(train, val, data.class_names, "tiny"))
    return folder


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Keras train without graphs, which take a second for each network."""
    from pipeline.backend import compile_options

    monkeypatch.setattr(compile_options, "options", lambda: {"run_eagerly": True})


@pytest.fixture
def serve() -> Iterator[http_server.Serve]:
    """Start real HTTP servers that act by script; see `http_server`."""
    with http_server.servers() as start:
        yield start
