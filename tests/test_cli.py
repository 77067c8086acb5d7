"""Mistakes on the command line: one line with what was expected and found, and nothing half done."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import params, process
from pipeline.core.errors import ParamsError, TrackingError
from pipeline.project import check, params_edit, workspace
from pipeline.retraining import retrain
from pipeline.tracking.runs import Tracker

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli.main", *arguments]
    environment = {**os.environ, **env}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_help_loads_nothing_heavy() -> None:
    heavy = "{'numpy', 'pandas', 'keras', 'tensorflow', 'mlflow', 'optuna', 'rich', 'pydantic', 'great_expectations'}"
    script = (
        f"import sys, pipeline.cli.main; pipeline.cli.main.parser().format_help(); print({heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("datasets=[mnits]", r"datasets: unknown dataset: expected 'mnist'\? .*found 'mnits'"),
        ("datasets=[]", r"datasets: expected a list of names .*found \[\]"),
        ("datasets=[digits, digits]", r"datasets: expected every name once, found 'digits' more than once"),
        ("families=[cn]", r"unknown family: expected 'cnn'\? .*found 'cn'"),
        ("serach.seed=1", r"-S serach.seed=1: no such section: expected 'search'\? .*found 'serach'"),
        ("search.sed=1", r"unknown key search.sed: expected 'seed'\? .*found 'sed'"),
        ("search.budget.default.trails=3", r"unknown key .*trails: expected 'trials'\? .*found 'trails'"),
        ("search.seed=many", r"search.seed is wrong: expected .*integer.*found 'many'"),
        ("search.budget.default.trials=0", r"trials is wrong: expected .*greater than or equal to 1, found 0"),
        ("runtime.backend=tensorflw", r"runtime.backend is wrong: expected .*'tensorflow'.*found 'tensorflw'"),
        ("mlp.space={unit: 3}", r"mlp.space: unknown dimension: expected 'units'\? .*found 'unit'"),
        ("mlp.space={units: {low: 9, high: 1}}", r"mlp.space.units is wrong: expected .*low <= high"),
        ("download.mnist.format=idxx", r"unknown format: expected 'idx'\? .*found 'idxx'"),
        ("extra=1", r"unknown section: .*found 'extra'"),
        ("search.seed", r"-S: expected key=value, found 'search.seed'"),
        ("search.seed=[1", r"-S search.seed=\[1: not a value: expected YAML"),
    ],
)
def test_a_wrong_setting_is_one_line_and_starts_nothing(setting: str, message: str, tmp_path: Path) -> None:
    done = run("run", "--workspace", str(tmp_path / "w"), "-S", setting)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: .*{message}.*\n", done.stderr), done.stderr
    assert not (tmp_path / "w" / "params.yaml").exists()
    assert not (tmp_path / "w" / "data").exists()


def test_the_projects_own_params_are_fine() -> None:
    assert run("check").stdout == "params.yaml is fine: datasets mnist; families mlp, cnn\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: [mnist\n", "not valid YAML"),
        ("<<<<<<< HEAD\ndatasets: [mnist]\n=======\nx: 1\n>>>>>>> b\n", "found a merge conflict in line 1; next: res"),
        ("- a\n- b\n", "expected a mapping of sections, found list"),
        ("datasets: [mnist]\n", "section download is missing"),
    ],
)
def test_a_broken_params_file_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        check.check(tmp_path / "params.yaml")
    with pytest.raises(ParamsError, match="is missing"):
        params.read(tmp_path / "none.yaml")


def test_a_contradicting_backend_is_an_error_with_both_names(tmp_path: Path) -> None:
    names = ("dataset", "data", "features", "studies", "output", "finalist")
    options = [part for name in names for part in (f"--{name}", "digits")]
    command = [sys.executable, "-m", "pipeline.stages.search", "--family", "mlp", *options]
    env = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: two backends .*runtime.backend=tensorflow from params.yaml, found KERAS_BACKEND=torch .*\n",
        done.stderr,
    )


def test_a_workspace_is_never_made_of_somebodys_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = run("run", "--workspace", str(tmp_path))
    assert done.returncode == 1
    assert "is not empty and not a workspace" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert "is the project itself" in run("run", "--workspace", ".").stderr


def test_a_workspace_renders_the_pages_of_the_checkout(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    code = "from pipeline.reporting import page; print(page.__file__); print(page.render([], 0.95))"

    def rendered(root: Path) -> str:
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        file, _, html = done.stdout.partition("\n")
        assert Path(file).is_relative_to(root)
        return html

    workspace.prepare(folder, [])
    assert rendered(folder) == rendered(ROOT)
    templates = folder / "pipeline/reporting/templates"
    (templates / "page.html.j2").write_text("an older one")
    (templates / "removed.html.j2").write_text("of an older version")
    workspace.prepare(folder, [])
    assert rendered(folder) == rendered(ROOT)
    assert not (templates / "removed.html.j2").exists()


def test_a_merge_conflict_in_the_projects_params_is_one_line() -> None:
    with pytest.raises(ParamsError, match=r"params\.yaml is not valid YAML: found a merge conflict in line 2"):
        params_edit.override("a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> other\n", ["a=2"])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "data/x"),
            "data/x: Permission denied; next: let this user",
        ),
        (OSError(errno.EROFS, "Read-only file system", "dvc.lock"), "dvc.lock: Read-only file system; next: let this"),
        (OSError(errno.ENOSPC, "No space left on device", "a"), "no space left for a; nothing half written is kept; "),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/x']"),
            "no temporary directory can",
        ),
        (OSError("AF_UNIX path too long"), "the temporary directory's path is too long for a socket; next: set TMPDIR"),
    ],
)
def test_what_this_machine_refuses_is_one_line(error: OSError, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit, match="1"):
        process.run(main)
    assert capsys.readouterr().err.startswith(f"error: {line}")


def test_a_missing_file_is_a_bug_and_keeps_its_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        process.run(lambda: int(Path("none").read_text()))


def test_a_forced_generation_survives_a_locale_without_utf_8(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("search: {generation: 1}  # 28×28\n", encoding="utf-8")
    code = (
        "from pipeline.project import params_edit; from pipeline.core import process;"
        "process.run(lambda: print('\\xd7', params_edit.next_generation()))"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    env = {**os.environ, **locale}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"? 2\n", b"")
    assert "28×28" in (tmp_path / "params.yaml").read_text(encoding="utf-8")


def test_settings_keep_comments_and_touch_no_other_line() -> None:
    text = (ROOT / "params.yaml").read_text()
    changed = params_edit.override(text, ["search.generation=2"])
    different = [(a, b) for a, b in zip(text.splitlines(), changed.splitlines(), strict=True) if a != b]
    assert len(different) == 1
    assert "generation: 2" in different[0][1]
    assert different[0][0].partition("#")[2].strip() == different[0][1].partition("#")[2].strip()


@pytest.mark.parametrize("uri", ["", "sqlite:///mlflow.db", "file:///tmp/runs"])
def test_scheduled_retraining_refuses_what_would_be_forgotten(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match="would be forgotten"):
        retrain.require_persistent()


def test_a_tracking_server_that_is_not_there_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
    with pytest.raises(TrackingError, match=f"expected an MLflow server at http://127.0.0.1:{port}") as refused:
        Tracker("digits")
    assert "secret" not in str(refused.value)
