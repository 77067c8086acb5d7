"""Retraining, as a scheduled job runs it: what it reports when it promotes, has nothing to do, keeps or fails."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import filelock
import pytest

from pipeline.project import workspace
from tests.test_end_to_end import PIPELINE, SETTINGS, Demo

POINT = (
    "{layers: 1, units: 128, batch_norm: true, dropout: 0.1,"
    " learning_rate: 0.003, weight_decay: 0.0001, batch_size: 64}"
)
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A finished run whose search space is one point: searched anew, it gives an equal model."""
    demo = Demo(tmp_path_factory.mktemp("fixed") / "workspace")
    settings = [*SETTINGS, "families=[mlp]", f"mlp.space={POINT}"]
    workspace.prepare(demo.folder, settings)
    return demo


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the line for machines: all that a retraining prints on standard output."""
    [line] = done.stdout.splitlines()
    loaded: dict[str, Any] = json.loads(line)
    return loaded


@pytest.mark.slow
def test_retraining_promotes_then_has_nothing_to_do_then_keeps_the_champion(fixed: Demo) -> None:
    retrain = [*PIPELINE, "retrain"]
    first = fixed.command(retrain)
    assert first.returncode == 0, first.stderr
    assert answer(first)["outcome"] == "promoted"
    assert "v1 @champion" in first.stderr

    second = fixed.command(retrain)
    assert (second.returncode, answer(second)["outcome"]) == (11, "nothing to do")

    with filelock.FileLock(fixed.folder / "data/retrain.lock"):
        locked = fixed.command(retrain)
    assert (locked.returncode, answer(locked)["outcome"]) == (12, "locked")

    prepared = (fixed.folder / "data/prepared/digits/meta.json").stat().st_mtime_ns
    forced = fixed.command([*retrain, "--force"])
    assert (forced.returncode, answer(forced)["outcome"]) == (10, "not promoted"), forced.stderr
    assert answer(forced)["generation"] == 2
    assert len(list((fixed.folder / "data/studies").iterdir())) == 2  # a new study, beside the old one
    assert (fixed.folder / "data/prepared/digits/meta.json").stat().st_mtime_ns == prepared
    champion = fixed.client.get_model_version_by_alias("digits-classifier", "champion")
    assert int(champion.version) == 1
    decision = fixed.json("register/digits.json")["classify"]
    if decision["version"] != 1:  # the new trials reached another validation value, so the model was trained anew
        assert decision["decision"] == "kept"
        assert decision["comparison"] == {"candidate_only": 0, "champion_only": 0, "p_value": 1.0}


def test_retraining_that_fails_says_so(fixed: Demo) -> None:
    fixed.set("runtime.backend=jax" if not _installed("jax") else "search.seed=-1")
    failed = fixed.command([*PIPELINE, "retrain"])
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr


def _installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None
