"""Killed before any of its writes, a command leaves what its next run turns into what an undisturbed one would leave.

The same files, studies, runs and registry; nothing RUNNING, no process, no temporary file. Not promised, and not
compared: times, ids, plots of time, which worker did what, and the system's folder for temporary files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
linux = pytest.mark.skipif(sys.platform != "linux", reason="commands are forked, and orphans are found, on Linux only")


def outcomes(form: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Run the harness, print its report, and return what it has found of each command."""
    command = [sys.executable, "-m", "tests.fault_harness", form, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads((folder / "outcomes.json").read_text())
    return found


def assert_recovered(found: dict[str, dict[str, Any]]) -> None:
    """Assert that every command was killed at every chosen site, and that nothing differs after its next run."""
    assert {name: of["missed"] for name, of in found.items() if of["missed"]} == {}
    assert {name: of["faults"] for name, of in found.items() if of["faults"]} == {}


@linux
def test_data_is_prepared_and_packed_as_if_no_kill_had_been(tmp_path: Path) -> None:
    found = outcomes("light", tmp_path)
    assert_recovered(found)
    assert sum(of["kills"] for of in found.values()) >= 20


@linux
@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_every_command_ends_as_if_no_kill_had_been(tmp_path: Path) -> None:
    found = outcomes("all", tmp_path)
    assert_recovered(found)
    assert sum(of["kills"] for of in found.values()) >= 100
