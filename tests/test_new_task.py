"""A new task is one module of `pipeline.evaluation`, its serving code and a family that names it: no other change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
ADDED = ROOT / "tests" / "new_task"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the stages make of a task that was put into a copy of the project."""
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "pipeline", copy / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    shutil.copytree(ADDED / "pipeline", copy / "pipeline", dirs_exist_ok=True)
    assert all(path.read_bytes() == content for path, content in before.items()), "only new files"
    text = (ROOT / "params.yaml").read_text().replace("families: [mlp, cnn]", "families: [ruler]")
    (copy / "params.yaml").write_text(f"{text}\nruler: {{space: {{}}}}\n")
    shutil.copy(ADDED / "use.py", copy)
    done = subprocess.run(
        [sys.executable, "use.py"], cwd=copy, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_is_served_by_its_module_with_its_signature(results: dict[str, Any]) -> None:
    assert results["serving"] == "pipeline/serving/ruler.py"
    assert set(results["requirements"]) == {"mlflow", "numpy", "pandas"}
    assert "[-1, 8, 8, 1]" in results["signature"]["inputs"]
    assert '"name": "brightness"' in results["signature"]["outputs"]


def test_its_models_compete_for_a_registered_model_of_their_own(results: dict[str, Any]) -> None:
    assert results["registered"] == "pets-measurer"
    assert (results["decision"], results["reason"]) == ("promoted", "nearer than version 1 on 40 of 40 < 0.05")


def test_its_figures_stand_in_leaderboard_page_and_schema(results: dict[str, Any]) -> None:
    assert results["line"] == ["off by 3.0", "off by 2.0", "of 255"]
    for text in ("Leaderboard of measurers", "2.0 levels", "Error of brightness", "test error 2.0 grey levels.",
                 "pets-measurer version 2 (ruler) is the new champion"):  # fmt: skip
        assert text in results["page"], text
    assert "evaluate/summary/measure" in results["schema"]
