"""Commands run the code of the folder that they work on, whichever environment starts them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.project import own_code, workspace
from pipeline.tracking import provenance

ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of this checkout in a folder, as its environment's `pipeline` does."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, "-P", "-m", "pipeline.cli.main", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def edit(project: Path, name: str) -> None:
    """Let a command of a project print that it is the project's own, and do nothing else."""
    file = project / f"pipeline/cli/{name}.py"
    file.write_text(re.sub(r"(def main\(.*\n.*\n)", r'\1    print("own code")\n    return 0\n', file.read_text()))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkout of the project, whose commands differ."""
    folder = tmp_path_factory.mktemp("own") / "a copy"
    folder.mkdir()
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    for name in ("check", "ingest", "models"):
        edit(folder, name)
    return folder


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("", ["check"]),
        ("", ["retrain"]),
        ("pipeline/cli", ["models", "digits"]),
        ("", ["run", "--workspace", "../new"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_foreign_checkout_is_refused_with_both_paths(folder: str, words: list[str], copy: Path) -> None:
    done = run(copy / folder, *words)
    assert done.returncode == 1
    assert f"expected {copy / 'pipeline'}, found {ROOT / 'pipeline'}; nothing was changed; next: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path.name for path in copy.iterdir()} == {"pipeline", "dvc.yaml", "params.yaml"}
    assert not (copy.parent / "new").exists()


def test_the_advice_runs_the_checkouts_own_code(copy: Path) -> None:
    refused = run(ROOT, "ingest", "--workspace", str(copy))
    advice = refused.stderr.partition("next: ")[2]
    done = subprocess.run(advice, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "own code\n"), refused.stderr


@pytest.fixture
def made(copy: Path):
    """The copy as a workspace."""
    (copy / own_code.MARKER).touch()
    yield copy
    (copy / own_code.MARKER).unlink()


@pytest.mark.parametrize("start", ["in it", "from the checkout"])
def test_a_command_in_a_workspace_runs_its_copy(start: str, made: Path) -> None:
    done = run(made, "check") if start == "in it" else run(ROOT, "ingest", "--workspace", str(made))
    assert (done.returncode, done.stdout) == (0, "own code\n"), done.stderr
    assert done.stderr.count("\n") == 1
    note = f"note: the code of {made} runs, which differs from that of {ROOT}; `pipeline run --workspace"
    assert done.stderr.startswith(f"{note} {shlex.quote(str(made))}` there replaces it")


def test_a_copy_without_the_command_line_is_replaced_first(made: Path) -> None:
    main = made / "pipeline/cli/main.py"
    main.rename(main.with_suffix(".old"))
    refused = run(made, "check")
    assert refused.returncode == 1
    assert f"the copy of the code in {made} is of an earlier release" in refused.stderr
    assert f"`pipeline run --workspace {shlex.quote(str(made))}` in {ROOT}" in refused.stderr
    main.with_suffix(".old").rename(main)


def test_a_run_announces_that_it_replaces_the_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "workspace"
    workspace.prepare(folder, [])
    assert provenance.code_version(folder) == provenance.code_version(ROOT)
    workspace.prepare(folder, [])
    assert "replaced" not in capsys.readouterr().err
    (folder / "pipeline/cli/check.py").write_text("# edited\n")
    (folder / "pipeline/cli/new.py").write_text("# added\n")
    workspace.prepare(folder, [])
    assert capsys.readouterr().err == (
        f"note: the code in {folder} is replaced by that of {ROOT}: 2 files differ; commit"
        f" {provenance.code_version(ROOT).commit.removesuffix('-dirty')}-dirty before,"
        f" {provenance.code_version(ROOT).commit} now\n"
    )
    assert provenance.code_version(folder) == provenance.code_version(ROOT)
    run_in_it = run(folder, "check")
    assert run_in_it.returncode == 0, run_in_it.stderr
    assert run_in_it.stderr == ""
