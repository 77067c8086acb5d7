"""A stage whose params, data or code change while it runs fails in one line, and DVC records nothing of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GRAPH = """
stages:
  prepare:
    matrix: {dataset: "${datasets}"}
    cmd: python3 -m pipeline.stages prepare --dataset ${item.dataset} --manifest in/${item.dataset}.jsonl
    params: ["download.${item.dataset}", prepare]
    deps: [pipeline/core, pipeline/stages/prepare.py, "in/${item.dataset}.jsonl", data]
"""
PARAMS = "datasets: [toy]\ndownload: {toy: {format: idx}}\nprepare: {seed: 0}\nsearch: {seed: 0}\n"
STAGE = """
from pathlib import Path
from pipeline.core import params, process

def main():
    {edit}
    print("seed", params.section("prepare.seed"))

if __name__ == "__main__":
    process.stage(main)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one stage, with the core of the package and nothing else."""
    shutil.copytree(ROOT / "pipeline/core", tmp_path / "pipeline/core", ignore=shutil.ignore_patterns("__pycache__"))
    for package in ("pipeline", "pipeline/stages"):
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / "__init__.py").touch()
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "params.yaml").write_text(PARAMS)
    for path in ("in/toy.jsonl", "data/deep/images.npy", "elsewhere.jsonl"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    return tmp_path


def run(project: Path, edit: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the stage, which changes its own inputs: nothing depends on the time at which another process would."""
    (project / "pipeline/stages/prepare.py").write_text(STAGE.format(edit=edit))
    command = [sys.executable, "-m", "pipeline.stages.prepare", "--dataset", "toy", *options]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        ("Path('in/toy.jsonl').open('a').write('y')", "in/toy.jsonl"),
        ("Path('in/toy.jsonl').unlink()", "in/toy.jsonl"),
        ("p = Path('in/new'); p.write_text('x'); p.replace('in/toy.jsonl')", "in/toy.jsonl"),
        ("Path('data/deep/more.npy').touch()", "data/deep/more.npy"),
        ("Path('pipeline/core/files.py').open('a').write('# edited')", "pipeline/core/files.py"),
        ("Path(__file__).open('a').write('# edited')", "pipeline/stages/prepare.py"),
        ("Path('params.yaml').write_text(Path('params.yaml').read_text().replace('0', '7'))",
         "prepare in params.yaml"),
    ],
)  # fmt: skip
def test_a_stage_whose_inputs_change_fails_in_one_line(project: Path, edit: str, found: str) -> None:
    done = run(project, edit)
    assert done.returncode == 1
    assert done.stderr == (
        "error: prepare@toy: its inputs changed while it ran: expected settings, data and code to stay as they were at"
        f" its start, found a change in {found}; its result is not recorded; next: run it again\n"
    )
    assert done.stdout == "seed 0\n"  # settings are those of the start, whatever the file says meanwhile


@pytest.mark.parametrize(
    "edit",
    [
        "Path('params.yaml').write_text(Path('params.yaml').read_text().replace('search: {seed: 0}', 'search: {}'))",
        "p = Path('pipeline/core/files.py'); p.write_text(p.read_text())",
        "Path('in/other.jsonl').touch(); Path('data/.half.partial').touch()",
        "Path('in/toy.jsonl').read_text()",
    ],
    ids=["another section", "the same code written again", "files of others", "reading"],
)
def test_what_is_no_input_of_the_stage_may_change(project: Path, edit: str) -> None:
    done = run(project, edit)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_path_given_by_hand_is_the_one_that_is_watched(project: Path) -> None:
    edit = "Path('in/toy.jsonl').open('a').write('y')"
    assert run(project, edit, "--manifest", "elsewhere.jsonl").returncode == 0
    done = run(project, "Path('elsewhere.jsonl').open('a').write('y')", "--manifest=elsewhere.jsonl")
    assert "found a change in elsewhere.jsonl;" in done.stderr


def test_without_a_graph_nothing_is_watched(project: Path) -> None:
    (project / "dvc.yaml").unlink()
    assert run(project, "Path('in/toy.jsonl').open('a').write('y')").returncode == 0
