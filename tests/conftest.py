"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of real files, laid out as MIRROR; tests that need it are skipped where there is none."""
    folder = ROOT.parent / "shared" / "mirror"
    if not folder.is_dir():
        pytest.skip("no local mirror of the datasets")
    return folder
