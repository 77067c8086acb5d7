"""Retraining, as a scheduled job runs it: what it reports when it promotes, has nothing to do, keeps or fails."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock
import pytest

from pipeline.core.errors import PipelineError
from pipeline.project import lock, params_edit, workspace
from pipeline.retraining import retrain
from pipeline.retraining.journal import Journal
from tests.test_end_to_end import PIPELINE, SETTINGS, Demo

POINT = (
    "{layers: 1, units: 128, batch_norm: true, dropout: 0.1,"
    " learning_rate: 0.003, weight_decay: 0.0001, batch_size: 64, schedule: cosine, shift: 0, cutout: 0}"
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

    with filelock.FileLock(fixed.folder / lock.FILE):
        locked = fixed.command(retrain)
    assert (locked.returncode, answer(locked)["outcome"]) == (12, "locked")
    assert re.search(r"found `pipeline retrain` \(pid \d+, since 20", locked.stderr)  # the last that held it

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
        assert decision["comparison"]["p_value"] >= 0.05  # the same point, trained from other seeds


@pytest.mark.slow
def test_retraining_that_fails_says_so(fixed: Demo) -> None:
    fixed.set("runtime.backend=jax" if not _installed("jax") else "search.seed=-1")
    failed = fixed.command([*PIPELINE, "retrain"])
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr


def _installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


# ---------------------------------------------------------------- on a graph that only pretends to train

GRAPH = """
stages:
  search:
    cmd: python3 step.py search
    params: [search.generation]
    outs: [found.json]
  register:
    matrix: {dataset: "${datasets}"}
    cmd: python3 step.py register
    deps: [found.json]
    metrics: [reports/register/digits.json: {cache: false, persist: true}]
  report:
    cmd: python3 step.py report
    deps: [reports/register/digits.json]
    outs: [page.html]
"""
STEP = """
import json, pathlib, re, sys
name = sys.argv[1]
if pathlib.Path(f"broken-{name}").exists():
    sys.exit(3)
generation = int(re.search(r"generation: (\\d+)", pathlib.Path("params.yaml").read_text())[1])
decision = dict(model="m", decision="promoted", reason="r", version=generation, champion=generation, family="mlp",
                value=0.5, comparison=None, run=f"run{generation}", key="k")
out = {"search": "found.json", "register": "reports/register/digits.json", "report": "page.html"}[name]
pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
pathlib.Path(out).write_text(json.dumps({"classify": decision}))
"""


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stages decide at once: each generation gives a model that is promoted."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    text = (Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(params_edit.override(text, ["datasets=[digits]"]))
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "step.py").write_text(STEP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def called(*, force: bool = False) -> tuple[str, int | None]:
    """Retrain, and return the outcome and the generation."""
    summary = retrain.run(force=force)
    return summary.outcome, summary.generation


@pytest.mark.slow
def test_a_promotion_whose_report_failed_is_announced_once(pretended: Path) -> None:
    assert called() == ("promoted", 1)
    (pretended / "broken-report").touch()
    assert called(force=True) == ("failed", 2)
    assert called() == ("failed", 2)
    (pretended / "broken-report").unlink()
    assert called() == ("promoted", 2)
    assert called() == ("nothing to do", 2)
    with pytest.raises(BrokenPipeError):  # nobody has read the answer: it is given again
        retrain.run(force=True, announce=broken_pipe)
    assert called() == ("promoted", 3)
    assert called() == ("nothing to do", 3)


def broken_pipe(summary: retrain.RetrainSummary) -> None:
    raise BrokenPipeError


@pytest.mark.slow
def test_a_forced_generation_is_kept_until_it_is_registered(pretended: Path) -> None:
    assert called() == ("promoted", 1)
    (pretended / "broken-search").touch()
    assert [called(force=True) for _ in range(3)] == [("failed", 2)] * 3
    (pretended / "broken-search").unlink()
    (pretended / "broken-report").touch()
    assert called(force=True) == ("failed", 2)
    assert called(force=True) == ("failed", 3)  # the second one was registered: only its page is missing
    (pretended / "broken-report").unlink()
    assert called(force=True) == ("promoted", 4)
    (pretended / "broken-search").touch()
    assert called(force=True) == ("failed", 5)
    (pretended / "broken-search").unlink()
    subprocess.run([sys.executable, "-m", "dvc", "repro"], check=True)
    assert called(force=True) == ("promoted", 6)
    shutil.rmtree(pretended / "data")  # as on another machine: what was decided before counts as known
    assert called() == ("nothing to do", 6)


def test_a_damaged_journal_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Journal.load() == Journal()
    Journal(forced=2, announced={"digits": ["a"]}).save()
    assert Journal.load() == Journal(forced=2, announced={"digits": ["a"]})
    (tmp_path / "data/retrain/journal.json").write_text("{")
    with pytest.raises(PipelineError, match=r"journal.json is damaged.*next: remove it"):
        Journal.load()
