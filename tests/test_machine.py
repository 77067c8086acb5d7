"""What a machine and a folder must offer is tried before work begins, by `check`, `run`, `retrain` and `doctor`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.core import typed_paths
from pipeline.core.errors import PipelineError
from pipeline.executors import sockets
from pipeline.project import dvc, machine, own_code

ROOT = Path(__file__).resolve().parents[1]
WORKER = """
import tempfile
from multiprocessing import forkserver
from pipeline.executors.base import Work
from pipeline.executors.fork_server import WorkerFactory
assert WorkerFactory(Work("executor_tasks:run", "executor_tasks:setup", {}, forkable=True), [{}]).prepare()
print(forkserver._forkserver._forkserver_address)
print(tempfile.gettempdir())
"""


@pytest.fixture
def sockets_of(monkeypatch: pytest.MonkeyPatch):
    """Let a folder be that for temporary files, and try anew what takes sockets."""

    def use(folder: Path) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        sockets._first_of.cache_clear()

    yield use
    sockets._first_of.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_workers_start_where_the_temporary_folder_has_a_long_path(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 120)
    folder.mkdir()
    env = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", WORKER], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    address, temporary = done.stdout.splitlines()
    assert address.startswith("/")
    assert len(address) < 100
    assert temporary == str(folder), "only the socket moves"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("length", [1, 70, 76, 100, 180])
def test_a_folder_is_used_for_sockets_if_its_path_allows(length: int, sockets_of, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    long = folder / ("a" * length)
    long.mkdir()
    sockets_of(long)
    assert (sockets.folder() == long) == (len(str(long)) <= 107 - len("/pymp-12345678/listener-12345678"))
    assert list(long.iterdir()) == []
    shutil.rmtree(folder)


def test_no_place_for_a_socket_is_one_line(sockets_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets_of(tmp_path / "gone")
    monkeypatch.setattr(sockets, "_takes", lambda place: False)
    with pytest.raises(PipelineError, match=r"no folder can hold the socket .*; next: set TMPDIR to such a folder"):
        machine.require(tmp_path)
    with pytest.raises(PipelineError, match="no folder can hold the socket"), sockets.in_short_folder():
        pass
    monkeypatch.undo()
    sockets_of(tmp_path)
    machine.require(tmp_path)


@pytest.mark.parametrize("name", ["a%20b", "feature%2Fx", "x%25y", "50%ab", "100%", "a%zz", "a b", "a#b", "what?"])
@pytest.mark.parametrize("place", ["workspace", "database", "temporary folder"])
def test_a_path_that_mlflow_would_decode_is_refused(
    place: str, name: str, sockets_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    (tmp_path / "other").mkdir()
    folder.mkdir()
    monkeypatch.chdir(folder if place == "database" else tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///team.db" if place == "database" else "")
    typed_paths.resolve()
    if place == "temporary folder":
        sockets_of(folder)
    work = folder if place == "workspace" else tmp_path / "other"
    if not any(escape in name for escape in ("%20", "%2F", "%25", "%ab")):
        machine.require(work)
        return
    with pytest.raises(PipelineError, match=r"MLflow cannot load models from .*; next: ") as refused:
        machine.require(work)
    assert str(refused.value).endswith(
        "set TMPDIR to another folder" if place == "temporary folder" else "rename the folder, or use another"
    )
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "other"))  # as the message says
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    machine.require(folder.rename(tmp_path / "renamed"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a source archive holds it: without git."""
    folder = tmp_path_factory.mktemp("archive") / "project"
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc")
    return folder


def pipeline(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "1000"}
    command = [sys.executable, "-m", "pipeline.cli.main", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def advised(message: str, folder: Path) -> None:
    """Do what a message advises between the last backticks."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(message.rsplit("`", 2)[1], shell=True, cwd=folder, env=env, check=True, capture_output=True)


@pytest.mark.parametrize("words", [["check"], ["retrain"], ["ingest"]], ids=" ".join)
def test_an_archive_without_git_is_one_line_for_every_command(words: list[str], archive: Path) -> None:
    done = pipeline(archive, *words)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: DVC cannot work in {archive} without git: expected a clone of the project, found no git repository;"
        f" next: clone it, or `cd {archive} && dvc config --local core.no_scm true`\n"
    )
    assert not (archive / "data").exists()


def test_the_advice_for_an_archive_makes_it_usable(archive: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(archive, tmp_path / "a project")
    with pytest.raises(PipelineError, match="without git") as refused:
        machine.require(folder)
    advised(str(refused.value), tmp_path)
    machine.require(folder)
    assert dvc.changed_stages(folder)


def test_a_copy_without_hidden_files_is_no_dvc_repository(archive: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(archive, tmp_path / "project", ignore=shutil.ignore_patterns(".*"))
    with pytest.raises(PipelineError, match=r"is no DVC repository: expected a folder \.dvc, found none") as refused:
        machine.require(folder)
    advised(str(refused.value), tmp_path)
    machine.require(folder)


def test_a_workspace_whose_configuration_asks_for_git_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / ".dvc").mkdir()
    for text, found in (("[core]\n    analytics = false\n", "no git repository"), ("[core\n", "next: repair it")):
        (tmp_path / ".dvc/config").write_text(text)
        with pytest.raises(PipelineError, match=found):
            machine.require(tmp_path)


def test_a_run_is_refused_in_a_workspace_whose_configuration_asks_for_git(tmp_path: Path) -> None:
    (tmp_path / own_code.MARKER).touch()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n")
    done = pipeline(ROOT, "run", "--workspace", str(tmp_path))
    assert done.returncode == 1
    assert f"DVC cannot work in {tmp_path} without git" in done.stderr
    assert not (tmp_path / "pipeline").exists()
    advised(done.stderr, ROOT)
    machine.require(tmp_path)


@pytest.mark.parametrize("way", ["continue", "move"])
@pytest.mark.parametrize("uri", ["sqlite:///team.db", "sqlite:///sub/team.db?timeout=9", "./runs", "file:runs"])
def test_runs_at_the_place_of_earlier_releases_stop_a_command(
    uri: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed_in, workspace = tmp_path / "typed in", tmp_path / "work space"
    typed_in.mkdir()
    before = typed_paths.local_path(typed_paths.absolute_uri(uri, workspace))
    assert before is not None
    before.parent.mkdir(parents=True)
    before.write_text("runs")
    monkeypatch.chdir(typed_in)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    typed_paths.resolve()
    with pytest.raises(PipelineError, match="runs of earlier releases are elsewhere") as refused:
        machine.require(workspace)
    now = typed_paths.local_path(os.environ["MLFLOW_TRACKING_URI"])
    assert f"expected runs in {now}, found none there, and runs in {before}; next: " in str(refused.value)
    advice = str(refused.value).split("`")[{"continue": 1, "move": 3}[way]]
    shown = subprocess.run(
        f'{advice} && printf %s "$MLFLOW_TRACKING_URI"', shell=True, capture_output=True, text=True, check=True
    ).stdout
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shown)
    assert typed_paths.local_path(shown).read_text() == "runs"
    machine.require(workspace)


@pytest.mark.parametrize("var", ["read-only", pytest.param("of another user", marks=pytest.mark.slow)])
def test_commands_call_dvc_where_var_cannot_be_written(var: str, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (folder / "dvc.yaml").write_text("stages:\n  a:\n    cmd: echo a > a\n    outs: [a]\n")
    mount = "mount -t tmpfs -o ro none /var" if var == "read-only" else "mount -t tmpfs none /var && touch /var/tmp"
    isolated = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    if subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    program = "from pathlib import Path; from pipeline.project import dvc; print(dvc.changed_stages(Path()))"
    done = subprocess.run(
        [*isolated, sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "{'a'}\n"), done.stderr
    assert (folder / dvc.SITE_CACHE / "repo").is_dir()
