import json
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from pipeline.cli import doctor
from pipeline.core import typed_paths
from pipeline.executors import sockets
from pipeline.project import dvc, own_code
from pipeline.tracking import provenance
from pipeline.tracking import server as tracking
from tests.tracking_server import answering

ROOT = Path(__file__).parents[1]


def found(name: str) -> doctor.Check:
    return next(check for check in doctor.checks() if check.name == name)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("KERAS_BACKEND", *(f"MLFLOW_TRACKING_{part}" for part in ("URI", "USERNAME", "PASSWORD"))):
        monkeypatch.setenv(name, "")  # so that it is restored, whatever moves credentials
        monkeypatch.delenv(name)
    (tmp_path / "params.yaml").write_text("runtime: {backend: tensorflow}\n")
    return tmp_path


def test_a_machine_with_everything_is_well(capsys: pytest.CaptureFixture[str]):
    assert doctor.main(Namespace(json=True)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"name", "status", "found", "advice"} == set(printed[0])
    assert "missing" not in {check["status"] for check in printed}


def test_people_get_a_table(capsys: pytest.CaptureFixture[str]):
    assert doctor.main(Namespace(json=False)) == 0
    printed = capsys.readouterr().out
    assert "Python" in printed
    assert "great-expectations" in printed


def test_a_missing_library_fails_with_what_to_install(monkeypatch: pytest.MonkeyPatch):
    installed = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "mlflow" else installed(name))
    assert found("mlflow") == doctor.Check("mlflow", "missing", "not installed", "make install")
    assert doctor.main(Namespace(json=True)) == 1


def test_two_backends_asked_for_is_a_contradiction(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    check = found("Keras backend")
    assert check.status == "missing"
    assert "runtime.backend=tensorflow" in check.found
    assert "KERAS_BACKEND=jax" in check.found


def test_a_backend_that_is_not_installed_comes_with_its_command(project: Path, monkeypatch: pytest.MonkeyPatch):
    (project / "params.yaml").write_text("runtime: {backend: jax}\n")
    installed = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "jax" else installed(name))
    check = found("Keras backend")
    assert (check.status, check.advice) == ("missing", 'make install SET="cpu jax"')


def test_two_builds_of_tensorflow_clash(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_version", lambda name: "2.21.0")
    assert found("TensorFlow").status == "warn"


def test_outside_a_project_it_names_the_folder_to_go_to(project: Path):
    (project / "params.yaml").unlink()
    assert found("Keras backend").advice == "run from the project's root"


def test_a_server_that_answers_is_ok_and_its_password_stays_secret(monkeypatch: pytest.MonkeyPatch):
    with answering(200) as (uri, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//ada:lovelace@"))
        assert found("tracking") == doctor.Check("tracking", "ok", uri)


def test_a_server_that_does_not_answer_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:lovelace@127.0.0.1:9")
    check = found("tracking")
    assert check.status == "missing"
    assert "lovelace" not in repr(check)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
        (
            "postgresql://ada:lovelace@127.0.0.1:9/mlflow?sslkey=secret",
            "postgresql://127.0.0.1:9/mlflow: ConnectionRefusedError when connecting",
        ),
    ],
)
def test_a_database_is_shown_without_its_secrets(uri: str, shown: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert found("tracking").found == shown


@pytest.mark.parametrize(("status", "accepted"), [(200, True), (404, False), (401, False), (503, False)])
def test_a_server_is_accepted_as_runs_accept_it(status: int, accepted: bool, monkeypatch: pytest.MonkeyPatch):
    with answering(status) as (uri, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert (found("tracking").status == "ok") == accepted == (tracking.unavailable() is None)


def test_a_remote_of_the_project_is_found(project: Path):
    assert found("DVC remote").found == "none"
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text("['remote \"store\"']\n    url = s3://bucket/path\n")
    assert found("DVC remote") == doctor.Check("DVC remote", "ok", "store")


@pytest.mark.parametrize(("script", "status"), [("echo 'H200, 143771 MiB'", "ok"), ("echo broken; exit 9", "warn")])
def test_gpus_are_what_the_driver_lists(script: str, status: str, project: Path, monkeypatch: pytest.MonkeyPatch):
    tool = project / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: str(tool))
    monkeypatch.setattr(doctor, "_version", lambda name: "1")
    assert found("GPU").status == status


def test_a_gpu_without_its_libraries_comes_with_the_command(project: Path, monkeypatch: pytest.MonkeyPatch):
    tool = project / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'H200, 143771 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: str(tool))
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert found("GPU").advice == "make install SET=gpu"


def test_what_runs_need_of_folders_is_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("folders").status == "ok"
    (project / "dvc.yaml").touch()
    assert found("DVC").advice == f"clone the project, or `cd {project} && dvc init --no-scm`"
    (project / ".dvc").mkdir()
    check = found("git")
    assert (check.status, check.advice) == (
        "missing",
        f"clone it, or `cd {project} && dvc config --local core.no_scm true`",
    )
    (project / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    assert found("folders").status == "ok"
    monkeypatch.setattr(sockets, "folder", lambda: None)
    assert found("sockets").advice == "set TMPDIR to such a folder"


def test_runs_of_earlier_releases_in_workspaces_are_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = project / "runs/demo"
    workspace.mkdir(parents=True)
    (workspace / own_code.MARKER).touch()
    (workspace / "team.db").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///team.db")
    typed_paths.resolve()
    check = found("runs")
    assert check.status == "missing"
    assert check.advice.startswith(f"`export MLFLOW_TRACKING_URI=sqlite:///{workspace}/team.db`")


def test_the_code_and_its_commit_are_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "pipeline", project / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", project)
    check = found("code")
    assert (check.status, check.found) == ("missing", f"that of {ROOT}, in {project}")
    assert check.advice.startswith(f"PYTHONPATH={project} ")
    (project / own_code.MARKER).touch()
    assert found("code") == doctor.Check("code", "ok", f"a copy of that of {ROOT}")
    (project / "pipeline/__init__.py").write_text("# edited")
    check = found("code")
    assert (check.status, check.advice) == ("warn", f"to replace it, in {ROOT}: pipeline run --workspace {project}")
    commit = found("commit")
    assert (commit.status, commit.found.partition(":")[0]) == ("warn", "none")
    provenance.record(provenance.CodeVersion("a" * 40, provenance.code_digest(project)), project)
    assert found("commit") == doctor.Check("commit", "ok", "a" * 40)


def test_a_place_of_dvc_that_cannot_be_written_comes_with_the_line_of_configuration(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    (blocked := project / "var").touch()  # like a folder that nobody may write, also for root
    assert "DVC's hashes" not in {check.name for check in doctor.checks()}
    for place in ("/dev/null/dvc", f"{blocked}/dvc"):
        with monkeypatch.context() as patch:
            patch.setattr("dvc.dirs.site_cache_dir", lambda place=place: place)
            check = found("DVC's hashes")
        assert (check.status, check.found) == ("warn", f"{place} cannot be written: `dvc repro` by itself fails")
    subprocess.run([sys.executable, "-m", *shlex.split(check.advice)], check=True)
    assert dvc.default_site_cache(project) is None
    assert "DVC_SITE_CACHE_DIR" not in dvc.environment(project)


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from argparse import Namespace; from pipeline.cli import doctor; "
        "doctor.main(Namespace(json=False)); "
        "print(sorted({'tensorflow', 'keras', 'mlflow', 'pandas', 'jax', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
