"""`pipeline references` trains the reference models of a dataset once each, and shows them beside ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.artifacts.base import read_json
from pipeline.artifacts.references import References
from pipeline.backend import configure
from pipeline.cli import main as cli
from pipeline.cli import references as command
from pipeline.core.errors import ParamsError, PipelineError
from pipeline.core.files import write_json
from pipeline.executors import local
from pipeline.executors.base import Done, Event, Failed
from pipeline.models.training import task
from pipeline.models.training.task import TrainingTask
from pipeline.project import dvc, machine
from pipeline.tracking.runs import Tracker

ROOT = Path(__file__).resolve().parents[1]
REPORT = Path("reports/references/digits.json")


class Inline:
    """An executor in this process, with one slot."""

    slots = 1
    before: Callable[[TrainingTask], None] = staticmethod(lambda piece: None)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._queue: list[tuple[int, TrainingTask]] = []

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def submit(self, key: int, piece: TrainingTask) -> None:
        self._queue.append((key, piece))

    def wait(self, timeout_s: float) -> Iterator[Event]:
        key, piece = self._queue.pop(0)
        type(self).before(piece)
        try:
            yield Done(key, task.run(piece, lambda epoch: None), "inline")
        except task.TrainingError as error:
            yield Failed(key, str(error), "inline")


@pytest.fixture
def project(tmp_path: Path, tiny_digits: Path, database: Path, eager: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with prepared digits, where R4 and R9 are references of them."""
    configure.configure("tensorflow", threads=1)
    folder = tmp_path / "project"
    shutil.copytree(tiny_digits, folder / "data/prepared/digits")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    change(folder, lambda params: params["mlp"].update(presets=["R4", "R9"]))
    monkeypatch.setattr(machine, "require", lambda folder: None)
    monkeypatch.setattr(local, "LocalExecutor", Inline)
    monkeypatch.setattr(Inline, "before", staticmethod(lambda piece: None))
    monkeypatch.setattr(dvc, "reproduce", lambda folder, targets, quiet: targets != ["prepare@digits"])
    return folder


def change(folder: Path, edit: Callable[[Any], None]) -> None:
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["datasets"], params["families"] = ["digits"], ["mlp"]
    params["search"]["budget"]["digits"] = {"trials": 1, "epochs": 2, "trial_epochs": 2}
    edit(params)
    yaml.dump(params, folder / "params.yaml")


def call(folder: Path, *words: str) -> int:
    arguments = cli.parser().parse_args(["references", "digits", "--workspace", str(folder), *words])
    return command.main(arguments)


def epochs(folder: Path) -> list[str]:
    return sorted((folder / "data/references/digits/epochs.log").read_text().split("\n")[:-1])


def test_each_is_trained_and_logged_once_whatever_interrupts_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces: list[str] = []

    def interrupt(piece: TrainingTask) -> None:
        pieces.append(f"{piece.folder.name[:2]} {piece.span.stop}")
        if len(pieces) == 4:  # when R4 is trained and logged, and R9 half trained
            raise KeyboardInterrupt

    monkeypatch.setattr(Inline, "before", staticmethod(interrupt))
    with pytest.raises(KeyboardInterrupt):
        call(project)
    half = read_json(project / REPORT, References, "references")
    assert [model.name for model in half.models] == ["R4"]
    assert call(project) == 0
    assert [line.split()[1] for line in epochs(project)] == ["1", "2"] * 2
    report = read_json(project / REPORT, References, "references")
    assert [(model.name, model.family, model.epochs, model.failed) for model in report.models] == [
        ("R4", "mlp", 2, ""),
        ("R9", "mlp", 2, ""),
    ]
    assert all(model.value and model.parameters == 101_770 and model.run for model in report.models)
    runs = Tracker("digits").runs("tags.stage = 'references' and attributes.status = 'FINISHED'")
    assert {run.run_id for run in runs.values()} == {model.run for model in report.models}
    assert {run.epoch for run in runs.values()} == {2}

    write_json(project / "reports/train/digits/mlp/summary.json", OURS)
    capsys.readouterr()
    assert call(project) == 0  # nothing is left to do
    printed = capsys.readouterr().out
    assert len(epochs(project)) == 4
    assert len(Tracker("digits").runs("tags.stage = 'references'")) == 2
    assert read_json(project / REPORT, References, "references") == report
    assert "98.76%" in printed.replace(" %", "%").replace("\N{NO-BREAK SPACE}", ""), printed

    change(project, lambda params: params["mlp"].update(presets=["R9"]))
    assert call(project) == 0  # the other stays
    assert read_json(project / REPORT, References, "references") == report
    assert len(epochs(project)) == 4
    assert not list((project / "data/references").rglob("*.npz"))  # only what a training needs to go on

    change(project, lambda params: params["mlp"].update(presets=["R4", "R9"]))
    (project / REPORT).write_text("{")  # damaged: written again, from what is trained
    assert call(project) == 0
    assert read_json(project / REPORT, References, "references") == report
    assert len(epochs(project)) == 4


OURS = {"run": "r", "value": 0.9876, "mean": 0.98, "seeds": {"0": 0.9876}, "parameters": 1, "epochs": 1, "seconds": 1.0}


@pytest.mark.slow
def test_what_cannot_be_trained_is_reported_beside_the_others(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(project, lambda params: params.update(families=["mlp", "cnn"], cnn={"space": {}, "presets": ["R7"]}))

    def fail(piece: TrainingTask) -> None:
        if piece.family == "cnn":
            piece.hyperparameters["plain_filters"] = 0

    monkeypatch.setattr(Inline, "before", staticmethod(fail))
    assert call(project) == 0
    models = {model.name: model for model in read_json(project / REPORT, References, "references").models}
    assert models["R4"].value
    assert models["R7"].value is None
    assert models["R7"].failed
    assert models["R7"].run == ""


def test_wrong_names_are_one_line_with_what_to_do(project: Path) -> None:
    content = {"datasets": ["digits"], "families": ["cnn"], "download": {"digits": {}, "mnist": {}}}
    with pytest.raises(ParamsError, match=r"unknown dataset: expected 'digits'\? .*found 'digit'"):
        command._families(content, "digit", None)
    with pytest.raises(ParamsError, match=r"mnist is not in `datasets`.*next: add mnist to `datasets` in params.yaml"):
        command._families(content, "mnist", None)
    added = {**content, "datasets": ["digits", "mnist"]}
    assert [family.name for family in command._families(added, "mnist", None)] == ["cnn"]
    with pytest.raises(ParamsError, match=r"unknown family: expected 'mlp'\?.*found 'mpl'"):
        command._families(added, "mnist", ["mpl"])
    with pytest.raises(ParamsError, match=r"no reference models of cnn for digits: .*`mlp: {presets: \[R4\]}`"):
        command._families(content, "digits", None)
    named = {**content, "families": ["mlp"], "mlp": {"presets": ["R4"]}}
    assert [family.name for family in command._families(named, "digits", None)] == ["mlp"]
    with pytest.raises(ParamsError, match=r"no reference models of knn for digits: expected a family .*: mlp,"):
        command._families(named, "digits", ["knn"])
    generator = {**added, "gan": {"presets": ["R19"]}}
    with pytest.raises(ParamsError, match=r"expected gan among `families`.*next: add gan to `families`"):
        command._families(generator, "mnist", ["gan"])
    assert command._families({**generator, "families": ["gan"]}, "mnist", ["gan"])
    with pytest.raises(PipelineError, match=r"no references to train here: expected dvc.yaml"):
        call(project.parent)


@pytest.mark.slow
def test_models_are_trained_again_when_the_data_is_another(project: Path) -> None:
    assert call(project) == 0
    before = json.loads((project / REPORT).read_text())
    meta = project / "data/prepared/digits/meta.json"
    content = json.loads(meta.read_text())
    assert "tiny" in json.dumps(content)
    meta.write_text(json.dumps(content).replace('"tiny"', '"other"'))
    change(project, lambda params: params["mlp"].update(presets=["R4"]))
    assert call(project) == 0
    after = json.loads((project / REPORT).read_text())
    assert after["data_digest"] != before["data_digest"]
    assert [model["name"] for model in after["models"]] == ["R4"]
    assert len(epochs(project)) == 6
