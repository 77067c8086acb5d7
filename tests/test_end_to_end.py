"""The main job, as a user runs it: `pipeline run` on real digits, killed once on the way, then used in every way."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from pipeline.datasets.arrays import TestSplit, load_test, save_test
from pipeline.project import dvc, params_edit
from pipeline.registry.versions import Registry
from pipeline.tracking.runs import predictions_path

SETTINGS = [
    "datasets=[digits]",
    "families=[mlp,cnn]",
    "search.budget.digits={trials: 2, epochs: 20, trial_epochs: 2}",
    "train.seeds=1",
    "cnn.space={architecture: [plain], plain_filters: 8, plain_kernel: 3, plain_units: 64}",
]
STAGES_OF_A_FAMILY = ("features", "search", "train", "evaluate")
pytestmark = pytest.mark.timeout(900)  # a test that needs the finished run may have to wait for it
PYTHON = [sys.executable]
PIPELINE = [sys.executable, "-m", "pipeline.cli.main"]
DVC = [sys.executable, "-m", "dvc"]


@dataclass
class Demo:
    """A workspace and what is known of the run that filled it."""

    folder: Path
    output: str = ""
    orphans: tuple[psutil.Process, ...] = ()

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment for commands in the workspace."""
        env = {**dvc.environment(self.folder), **more}
        env.pop("MLFLOW_TRACKING_URI", None)
        return env

    def command(self, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the workspace."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def repro(self) -> set[str]:
        """Run `dvc repro` and return the stages that really ran."""
        done = self.command([*DVC, "repro"])
        assert done.returncode == 0, done.stdout + done.stderr
        return set(re.findall(r"Running stage '([^']+)'", done.stdout))

    def set(self, *settings: str) -> None:
        """Change params.yaml of the workspace."""
        path = self.folder / "params.yaml"
        path.write_text(params_edit.override(path.read_text(), settings))

    def json(self, path: str) -> Any:
        """Return the content of a report."""
        return json.loads((self.folder / "reports" / path).read_text())

    @property
    def client(self) -> MlflowClient:
        """MLflow's client for the workspace's database."""
        return MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")


def run_arguments(folder: Path, settings: list[str]) -> list[str]:
    """Return the command line of `pipeline run`."""
    return [*PIPELINE, "run", "--workspace", str(folder), *(part for s in settings for part in ("-S", s))]


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return every process below one."""
    return psutil.Process(process.pid).children(recursive=True)


def wait_for_epochs(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a search has trained an epoch."""
    deadline = time.monotonic() + 180
    while not list((folder / "data" / "studies").glob("*/epochs.log")):
        assert process.poll() is None, "it ended before it trained"
        assert time.monotonic() < deadline, "no epoch was trained"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A finished run that had been killed, with SIGKILL from the top, while it searched."""
    demo = Demo(tmp_path_factory.mktemp("end-to-end") / "workspace")
    arguments, env = run_arguments(demo.folder, SETTINGS), {**os.environ}
    env.pop("MLFLOW_TRACKING_URI", None)
    first = subprocess.Popen(arguments, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    wait_for_epochs(demo.folder, first)
    family = descendants(first)
    for process in (psutil.Process(first.pid), *[p for p in family if "dvc" in p.cmdline()]):
        process.kill()  # the search and its workers are left to find out for themselves
    first.wait()
    _, alive = psutil.wait_procs(family, timeout=120)
    demo.orphans = tuple(alive)
    second = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    demo.output = second.stdout
    return demo


def test_nothing_outlives_a_run_that_is_killed_from_the_top(demo: Demo) -> None:
    assert demo.orphans == ()


def test_a_run_ends_with_the_figures_and_where_to_look(demo: Demo) -> None:
    for family in ("mlp", "cnn"):
        scores = demo.json(f"evaluate/digits/{family}/summary.json")
        line = next(line for line in demo.output.splitlines() if re.match(rf"digits\s+{family}\s", line))
        assert f"{scores['accuracy']:.2%}" in line
        assert f"{scores['low']:.2%} to {scores['high']:.2%}" in line
        assert scores["low"] < scores["accuracy"] < scores["high"]
    assert "v1 @champion" in demo.output
    assert "index.html" in demo.output
    assert demo.json("register/digits.json")["classify"]["run"] in (demo.folder / "reports/index.html").read_text()


def test_the_candidate_is_the_family_best_on_validation_not_on_test(demo: Demo) -> None:
    infos = {
        family: json.loads((demo.folder / f"data/models/digits/{family}/model.json").read_text())
        for family in ("mlp", "cnn")
    }
    best = max(infos, key=lambda family: (infos[family]["mean"], -infos[family]["loss"]))
    assert demo.json("register/digits.json")["classify"]["family"] == best


def test_the_training_of_the_search_counts_as_a_seed_and_is_not_repeated(demo: Demo) -> None:
    for family in ("mlp", "cnn"):
        best = demo.json(f"search/digits/{family}/best.json")
        assert demo.json(f"train/digits/{family}/summary.json")["seeds"] == {str(best["seed"]): best["value"]}
        assert not list((demo.folder / "data/studies" / best["study"]).glob("trained/*/epochs.log"))


def test_a_second_repro_runs_nothing(demo: Demo) -> None:
    assert demo.repro() == set()


def test_runs_tell_where_they_come_from(demo: Demo) -> None:
    info = json.loads((demo.folder / "data/models/digits/cnn/model.json").read_text())
    run = demo.client.get_run(info["run_id"])
    assert run.info.status == "FINISHED"
    assert re.match(r"[0-9a-f]{40}(-dirty)?$|none$", run.data.tags["git.commit"])
    lock = YAML(typ="safe").load(demo.folder / "dvc.lock")
    assert run.data.tags["dvc.data"] == lock["stages"]["prepare@digits"]["outs"][0]["md5"]
    assert json.loads(run.data.tags["dvc.params"])["cnn"]["space"]["plain_filters"] == 8
    assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {"digits-train", "digits-val", "digits-test"}
    steps = [metric.step for metric in demo.client.get_metric_history(info["run_id"], "val_accuracy")]
    assert steps == [1, 2]


def test_a_registered_version_leads_back_to_its_study(demo: Demo) -> None:
    family = json.loads((demo.folder / "reports/register/digits.json").read_text())["classify"]["family"]
    study = json.loads((demo.folder / f"reports/search/digits/{family}/summary.json").read_text())["study"]
    registry = Registry(SimpleNamespace(client=demo.client))  # type: ignore[arg-type]
    assert study in registry.studies("digits")
    assert (demo.folder / "data/studies" / study).is_dir()


SERVED = """
import json, sys
import mlflow, numpy as np
model = mlflow.pyfunc.load_model("models:/digits-classifier@champion")
answers = model.predict(np.load(sys.argv[1]))
print(json.dumps([answers["label"].tolist(), answers["class_name"].tolist(), answers["probabilities"].tolist()]))
"""


def predictions(demo: Demo) -> tuple[Mapping[str, Any], str]:
    """Return what evaluate has stored of the champion's predictions, and the path of the images."""
    family = demo.json("register/digits.json")["classify"]["family"]
    stored = np.load(demo.folder / f"data/predictions/digits/{family}/predictions.npz")
    return stored, str(demo.folder / "data/test/digits/test_images.npy")


def test_the_champion_loads_and_predicts_outside_the_project(demo: Demo, tmp_path: Path) -> None:
    stored, images = predictions(demo)
    env = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{demo.folder / 'mlflow.db'}", "PYTHONSAFEPATH": "1"}
    command = [*PYTHON, "-c", SERVED, images]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    labels, names, probabilities = json.loads(done.stdout.splitlines()[-1])
    assert labels == stored["predicted"].tolist()
    assert names == [str(label) for label in labels]
    np.testing.assert_allclose(probabilities, stored["probabilities"], atol=1e-5)
    np.testing.assert_allclose(np.sum(probabilities, axis=1), 1, atol=1e-9)


@pytest.fixture
def server(demo: Demo, tmp_path: Path) -> Iterator[str]:
    """`mlflow models serve` of the champion, on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**demo.environment(), "MLFLOW_TRACKING_URI": f"sqlite:///{demo.folder / 'mlflow.db'}"}
    uri = "models:/digits-classifier@champion"
    command = [*PYTHON, "-m", "mlflow", "models", "serve", "-m", uri, "-h", "127.0.0.1", "-p", str(port)]
    log = (tmp_path / "serve.log").open("w")
    process = subprocess.Popen(
        [*command, "--env-manager", "local"], cwd=tmp_path, env=env, stdout=log, stderr=log, text=True
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{url}/ping", timeout=5).close()
            break
        except OSError:
            assert process.poll() is None, (tmp_path / "serve.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "serve.log").read_text()
            time.sleep(0.2)
    yield url
    family = descendants(process)
    for started in (psutil.Process(process.pid), *family):
        started.kill()
    process.wait()
    psutil.wait_procs(family, timeout=120)


def test_the_champion_answers_over_http(demo: Demo, server: str) -> None:
    stored, images = predictions(demo)
    answers = json.loads(ask(server, {"inputs": np.load(images)[:20].tolist()}))["predictions"]
    assert [row["label"] for row in answers] == stored["predicted"][:20].tolist()
    np.testing.assert_allclose([row["probabilities"] for row in answers], stored["probabilities"][:20], atol=1e-5)
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(server, {"inputs": [[1, 2]]})
    assert refused.value.code == 400


def ask(server: str, question: Any) -> bytes:
    """Post JSON to a served model and return its answer."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server}/invocations", json.dumps(question).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


@pytest.mark.slow
def test_the_module_that_runs_is_the_file_that_dvc_hashed(demo: Demo) -> None:
    module = demo.folder / "pipeline/stages/register.py"
    module.write_text(
        module.read_text().replace("def main()", "Path('ran.txt').write_text(__file__)\n\n\ndef main()", 1)
    )
    assert "register@digits" in demo.repro()
    assert Path((demo.folder / "ran.txt").read_text()).resolve() == module.resolve()
    lock = YAML(typ="safe").load(demo.folder / "dvc.lock")
    hashed = {dep["path"]: dep["md5"] for dep in lock["stages"]["register@digits"]["deps"]}
    assert hashed["pipeline/stages/register.py"] == hashlib.md5(module.read_bytes(), usedforsecurity=False).hexdigest()
    # With a safe path, Python finds the installed package first: that is refused, not run.
    refused = demo.command([*PYTHON, "-P", "-m", "pipeline.stages.register", "--help"])
    assert refused.returncode == 1
    assert re.fullmatch(r"error: the code that runs is not the code that DVC hashed: .*\n", refused.stderr)


WITHOUT_KERAS = """
import runpy, sys
sys.argv = ["pipeline.stages.register", *sys.argv[1:]]
try:
    runpy.run_module("pipeline.stages.register", run_name="__main__")
except SystemExit as ended:
    assert not ended.code, ended.code
assert "mlflow" in sys.modules
print(sorted({"tensorflow", "keras", "jax", "torch"} & set(sys.modules)))
"""


def test_register_loads_no_keras(demo: Demo) -> None:
    command = "--dataset digits --models data/models/digits --predictions data/predictions/digits --report again.json"
    done = demo.command([*PYTHON, "-c", WITHOUT_KERAS, *command.split()])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    again = json.loads((demo.folder / "again.json").read_text())
    assert again == demo.json("register/digits.json"), "the decision of the first time, with its evidence"


@pytest.mark.slow
def test_params_from_a_to_b_and_back_leave_the_registry_right(demo: Demo) -> None:
    before = demo.json("register/digits.json")["classify"]
    a = (demo.folder / "params.yaml").read_text()
    demo.set("cnn.space.plain_dropout=0.45")
    of_cnn = {"search@digits-cnn", "train@digits-cnn", "evaluate@digits-cnn"}
    ran = demo.repro()
    assert of_cnn <= ran <= of_cnn | {"register@digits", "report"}
    in_between = demo.json("register/digits.json")["classify"]

    (demo.folder / "params.yaml").write_text(a)
    # Models and predictions come from the run cache, the study of A is found again; the decision is that of the ledger.
    assert demo.repro() <= {"search@digits-cnn", "register@digits", "report"}
    after = demo.json("register/digits.json")["classify"]
    assert after["run"] == before["run"]
    assert after["version"] == before["version"]  # the same model is the same version
    versions = demo.client.search_model_versions("name = 'digits-classifier'")
    assert len(versions) == len({before["version"], in_between["version"]})
    champion = demo.client.get_model_version_by_alias("digits-classifier", "champion")
    assert int(champion.version) == after["champion"] == in_between["champion"]
    if in_between["champion"] == before["version"]:
        assert after == before  # the decision of the first time, with its evidence
    else:
        assert after["decision"] == "kept"
    assert demo.repro() == set()


@pytest.mark.slow
def test_adding_a_family_runs_nothing_and_adding_an_architecture_trains_nothing(demo: Demo) -> None:
    def trained() -> dict[Path, str]:
        return {path: path.read_text() for path in (demo.folder / "data").rglob("epochs.log")}

    before, version = trained(), demo.json("register/digits.json")["classify"]["version"]
    assert before
    models = demo.folder / "pipeline/models/families"
    shutil.copytree(models / "mlp", models / "newcomer")
    assert demo.repro() == set()

    shutil.copy(models / "cnn/architectures/lenet.py", models / "cnn/architectures/newcomer.py")
    ran = demo.repro()
    assert "search@digits-cnn" in ran
    assert ran <= {f"{stage}@digits-cnn" for stage in STAGES_OF_A_FAMILY} | {"register@digits", "report"}
    assert trained() == before
    assert demo.json("register/digits.json")["classify"]["version"] == version


@pytest.mark.slow
def test_a_new_test_split_scores_the_champion_anew(demo: Demo) -> None:
    decision = demo.json("register/digits.json")["classify"]
    other = next(family for family in ("mlp", "cnn") if family != decision["family"])
    split = load_test(demo.folder / "data/test/digits")
    fewer = split.test.take(np.arange(100))
    save_test(demo.folder / "fewer", TestSplit(fewer, split.class_names, fewer.digest()))
    champion = demo.client.get_model_version_by_alias("digits-classifier", "champion")
    options = f"--dataset digits --family {other} --model data/models/digits/{other} --test fewer"
    outputs = f"--features data/features/digits/{other} --predictions other-predictions --report other-report"
    done = demo.command([*PYTHON, "-m", "pipeline.stages.evaluate", *options.split(), *outputs.split()])
    assert done.returncode == 0, done.stderr
    assert f"digits-classifier version {champion.version}, the champion, was scored on this test split" in done.stdout
    key = json.loads((demo.folder / "other-predictions/meta.json").read_text())["key"]
    kept = demo.client.download_artifacts(champion.run_id, predictions_path(key), str(demo.folder))
    stored, _ = predictions(demo)
    np.testing.assert_array_equal(np.load(kept)["predicted"], stored["predicted"][:100])


@pytest.mark.slow
def test_a_run_in_mlflows_trash_is_one_line_whose_advice_works(demo: Demo) -> None:
    """Restored, or logged again without a new search or training."""
    family = demo.json("register/digits.json")["classify"]["family"]
    run_id = demo.json(f"train/digits/{family}/summary.json")["run"]
    evaluate = [*DVC, "repro", "--single-item", "--force", f"evaluate@digits-{family}"]
    uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{demo.folder / 'mlflow.db'}"}

    def advised() -> tuple[str, ...]:
        demo.client.delete_run(run_id)
        done = demo.command(evaluate)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr + done.stdout
        line = next(line for line in done.stderr.splitlines() if "was deleted in MLflow" in line)
        return tuple(re.findall(r"`([^`]+)`", line))

    restore, log_again, then = advised()
    assert demo.command([sys.executable, "-m", *restore.split()], **uri).returncode == 0
    assert demo.command(evaluate).returncode == 0
    advised()
    epochs = {path: path.read_text() for path in (demo.folder / "data").rglob("epochs.log")}
    for command in (log_again, then):
        done = demo.command([sys.executable, "-m", *command.split()])
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Running stage 'search" not in done.stdout
    assert {path: path.read_text() for path in (demo.folder / "data").rglob("epochs.log")} == epochs
    assert demo.json(f"evaluate/digits/{family}/summary.json")["run"] != run_id
    assert demo.repro() == set()


def test_dvc_shows_metrics_and_plots(demo: Demo) -> None:
    metrics = demo.command([*DVC, "metrics", "show", "--json"])
    shown = json.loads(metrics.stdout)[""]["data"]
    scored = shown["reports/evaluate/digits/mlp/summary.json"]["data"]
    assert scored["accuracy"] == demo.json("evaluate/digits/mlp/summary.json")["accuracy"]
    plots = demo.command([*DVC, "plots", "show", "--json"])
    assert plots.returncode == 0
    drawn = json.loads(plots.stdout)
    assert any("curves.csv" in name for name in drawn["data"])
    assert any("confusion.csv" in name for name in drawn["data"])


@pytest.mark.slow
def test_an_interrupted_run_leaves_nobody_behind(tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    arguments = run_arguments(folder, [*SETTINGS, "families=[mlp]", "search.budget.digits.trials=1000"])
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    wait_for_epochs(folder, process)
    family = descendants(process)
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches everything that runs in a terminal
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in output
    _, alive = psutil.wait_procs(family, timeout=120)
    assert not alive
    statuses = {run.info.status for run in Demo(folder).client.search_runs(["1"])}
    assert statuses <= {"KILLED", "FINISHED"}
