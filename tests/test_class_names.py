"""Classes keep their meaning: natural order, names or certain numbers in batches, and champions compared by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipeline.cli import ingest as commands
from pipeline.cli.main import parser
from pipeline.core.errors import DataError
from pipeline.datasets import batches, class_names, manifest
from pipeline.datasets.arrays import Labelled, TestSplit
from pipeline.evaluation import base, classify
from pipeline.project import dvc, params_edit, workspace
from pipeline.registry import loading, packaging
from pipeline.registry.promotion import register
from pipeline.retraining import tracked
from pipeline.stages.evaluate import Scorer, score_champion
from pipeline.tracking.runs import Tracker
from tests.registered import CLASSIFY, NAME, candidate

ONE_TO_TEN = tuple(str(number) for number in range(1, 11))
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), dtype=np.uint8)


@pytest.mark.parametrize(
    "names",
    [
        ONE_TO_TEN,
        ("page 9", "page 10", "page 11b", "page 100"),
        ("007", "7", "8", "08", "10"),
        ("0.5", "-1", "Zoe", "a", "b2", "b10", "é"),
    ],
)
def test_names_have_a_natural_order(names: tuple[str, ...]) -> None:
    if names[0] == "007":
        names = ("007", "7", "08", "8", "10")
    assert class_names.natural(reversed(names)) == list(names)


def test_what_is_known_keeps_its_number_and_new_classes_follow() -> None:
    assert class_names.in_order({"1", "2", "10", "3"}, ("1", "10", "2")) == ["1", "10", "2", "3"]
    assert class_names.in_order({"1", "2", "10"}, ()) == ["1", "2", "10"]
    assert class_names.in_order({"1", "10"}, ("1", "2", "10")) == ["1", "10"]


def test_a_table_names_every_number_and_a_line_not_too_many() -> None:
    assert class_names.table(("cat", "it's")) == "0 = 'cat', 1 = \"it's\""
    many = class_names.listed([f"c{number}" for number in range(47)])
    assert many.startswith("labels 0 = 'c0', ")
    assert many.endswith("19 = 'c19', …, 46 = 'c46'")


def numbered(folder: Path, labels: range) -> None:
    for label in labels:
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for index in range(2):
            picture = np.random.default_rng([label, index]).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(picture).save(folder / f"{label}/{index}.png")


def test_folders_are_numbered_naturally_and_older_pins_keep_their_order_until_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, own = tmp_path / "ws", f"{{format: folder, path: {tmp_path / 'pets'}, size: [8, 8], channels: 1}}"
    monkeypatch.setattr(tracked, "add_missing", lambda *_: None)
    monkeypatch.setattr(dvc, "run_again_where_recorded_wrongly", lambda *_: None)

    def classes() -> list[str]:
        return list(YAML(typ="safe").load(made / "params.yaml")["download"]["pets"]["classes"])

    def prepare() -> str:
        workspace.prepare(made, ["datasets=[pets]", f"download.pets={own}"])
        return capsys.readouterr().err

    numbered(tmp_path / "pets", range(1, 11))
    assert "pets: labels 0 = '1', 1 = '2', 2 = '3', " in prepare()
    assert classes() == list(ONE_TO_TEN)
    older = sorted(ONE_TO_TEN)
    earlier = params_edit.override((made / "params.yaml").read_text(), [f"download.pets.classes={json.dumps(older)}"])
    (made / "params.yaml").write_text(earlier)
    assert classes() == older
    assert "classes keep the order in which they were pinned before; `pipeline ingest --renumber`" in prepare()
    numbered(tmp_path / "pets", range(11, 12))
    assert f"pets: {class_names.listed([*older, '11'])}" in prepare()
    assert classes() == [*older, "11"]
    assert commands.main(parser().parse_args(["ingest", "--renumber", "--workspace", str(made)])) == 0
    assert classes() == [*ONE_TO_TEN, "11"]
    assert "keep the order" not in prepare()
    assert classes() == [*ONE_TO_TEN, "11"]


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "monday.npz", images=IMAGES, **arrays)
    return folder / "monday.npz"


NUMBERS = np.arange(20) % 10
NATURAL = np.array(ONE_TO_TEN)


@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": NATURAL[NUMBERS]},
        {"labels": np.char.encode(NATURAL[NUMBERS])},
        {"labels": NUMBERS.astype(np.uint8), "class_names": NATURAL},
        {"labels": 9 - NUMBERS, "class_names": NATURAL[::-1].astype("S")},
        {"labels": NUMBERS, "class_names": np.arange(1, 11)},
        {"labels": NATURAL[NUMBERS], "class_names": NATURAL},
    ],
    ids=["text", "bytes", "numbers and names", "another order", "names that are numbers", "text and names"],
)
@pytest.mark.parametrize("ours", [ONE_TO_TEN, tuple(sorted(ONE_TO_TEN))], ids=["natural", "older"])
def test_a_batch_with_names_is_understood_by_them(
    tmp_path: Path, arrays: dict[str, Any], ours: tuple[str, ...]
) -> None:
    batch = batches.read(npz(tmp_path, **arrays), (4, 4, 1), ours)
    assert [ours[label] for label in batch.labels] == NATURAL[NUMBERS].tolist()


@pytest.mark.parametrize(
    "names",
    [tuple(map(str, range(10))), tuple(f"{number:02}" for number in range(10)), ("cat", "1", "dog", *"abcdefg")],
)
def test_whole_numbers_are_accepted_where_no_name_is_the_number_of_another_class(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    assert batches.read(npz(tmp_path, labels=NUMBERS), (4, 4, 1), names).labels.tolist() == NUMBERS.tolist()


@pytest.mark.parametrize(
    "names",
    [ONE_TO_TEN, tuple(sorted(ONE_TO_TEN)), ("01", "02"), ("0", "2", "4"), ("0.5", "1.0"), ("cat", "0"), ("-1", "1")],
)
def test_whole_numbers_are_refused_with_the_table_where_a_name_is_another_number(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    with pytest.raises(DataError, match="expected labels that are names, or an array class_names") as error:
        batches.read(npz(tmp_path, labels=NUMBERS % len(names)), (4, 4, 1), names)
    assert class_names.table(names) in str(error.value)
    assert "next: add class_names=[…] to the file, or save the labels as text" in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.array(["cat", "dgo"] * 10)}, "unknown class: expected 'dog'. .*found 'dgo'"),
        (
            {"labels": NUMBERS, "class_names": np.array(["cat", "dog"])},
            "labels: expected places in class_names, 0 to 1",
        ),
        ({"labels": NUMBERS % 2, "class_names": np.array(["cat", "cat"])}, "class_names: expected every name once"),
        ({"labels": NUMBERS % 2, "class_names": np.array(["cat", "cow"])}, "unknown class: .*found 'cow'"),
        ({"labels": np.array(["cat"] * 20, object)}, "labels.npy holds Python objects: .*texts saved with dtype=str"),
        ({"labels": NUMBERS % 2, "class_names": np.array([["cat", "dog"]])}, "class_names: expected texts of shape"),
        ({"labels": NUMBERS % 2 == 1}, "labels: expected integers or names of shape"),
    ],
)
def test_labels_without_a_certain_meaning_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        batches.read(npz(tmp_path, **arrays), (4, 4, 1), ("cat", "dog"))


def test_accepted_batches_follow_their_names_when_classes_are_numbered_anew(tmp_path: Path) -> None:
    older = tuple(sorted(ONE_TO_TEN))
    batch = batches.read(npz(tmp_path, labels=NATURAL[NUMBERS]), (4, 4, 1), older)
    digest = manifest.store(tmp_path / "accepted", batch)
    entry = manifest.ManifestEntry(digest=digest, batch="monday.npz", images=20, classes=older)
    again = manifest.load(tmp_path / "accepted", entry, tmp_path, ONE_TO_TEN)
    assert again.labels.tolist() == NUMBERS.tolist()
    assert again.files[3] == "monday.npz[3]"


def served(names: tuple[str, ...], answers: list[str], states: bool = True) -> Any:
    """A model that gives these answers, as MLflow serves it."""

    def predict(images: np.ndarray) -> pd.DataFrame:
        labels = np.array([names.index(answer) for answer in answers])
        rows = np.full((len(labels), len(names)), 0.1 / (len(names) - 1))
        rows[np.arange(len(labels)), labels] = 0.9
        return pd.DataFrame({"label": labels, "class_name": answers, "probabilities": rows.tolist()})

    return SimpleNamespace(predict=predict, model_config={"class_names": list(names)} if states else {})


def split_of(names: tuple[str, ...], truth: list[str]) -> TestSplit:
    labels = np.array([names.index(name) for name in truth])
    return TestSplit(Labelled(np.zeros((len(truth), 4, 4, 1), np.uint8), labels), names, "digest")


TRUTH = ["1", "10", "2", "2", "1"]


@pytest.mark.parametrize(
    ("theirs", "ours", "unknown"),
    [
        (("1", "10", "2"), ("1", "2", "10"), ""),
        (("1", "10", "2"), ("0", "1", "2", "10"), "it does not know '0'"),
        (("1", "10", "2", "3"), ("1", "2", "10"), ""),
        (("1", "2", "ten"), ("1", "2", "10"), "it does not know '10'"),
    ],
    ids=["numbered anew", "a class more", "a class less", "another name"],
)
def test_a_champion_of_other_numbers_is_compared_by_names(
    theirs: tuple[str, ...], ours: tuple[str, ...], unknown: str, tmp_path: Path
) -> None:
    answers = [name if name in theirs else theirs[0] for name in TRUTH]
    right = [answer == truth for answer, truth in zip(answers, TRUTH, strict=True)]
    scored = base.load("classify").score(served(theirs, answers), split_of(ours, TRUTH), tmp_path, 0.95)
    assert (scored.kept["predicted"] == scored.kept["actual"]).tolist() == right
    assert scored.kept["probabilities"].shape == (5, len(ours))
    of_truth = scored.kept["probabilities"][np.arange(5), scored.kept["actual"]]
    np.testing.assert_allclose(of_truth[right], 0.9)
    assert scored.note.startswith(unknown)
    assert bool(scored.note) is bool(unknown)
    assert scored.figures["accuracy"] == np.mean(right)


def test_an_answer_that_is_no_class_any_more_is_wrong_and_not_the_last_class(tmp_path: Path) -> None:
    scored = base.load("classify").score(served(("a", "b", "c"), ["c"]), split_of(("a", "b"), ["b"]), tmp_path, 0.95)
    assert scored.kept["predicted"].tolist() == [-1]
    assert b"b,none of them" in scored.plots["confusion.csv"]


def test_that_a_champion_does_not_know_a_class_is_printed(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker("digits")
    register(tracker, NAME, CLASSIFY, candidate(tracker, "cnn", 90), 0.05)
    model = served(("1", "2"), ["1", "2", "1"])
    monkeypatch.setattr(loading, "use", lambda champion, function: function(model))
    scorer = Scorer(CLASSIFY, split_of(("1", "2", "10"), ["1", "2", "10"]), tmp_path, 0.95)
    line = score_champion(tracker, NAME, scorer)
    assert re.search("scored on this test split; it does not know '10', so its answers .*: it answers '1', '2'$", line)


def test_what_mlflow_serves_states_its_names_and_is_logged_again_when_they_change(
    database: Path, tmp_path: Path
) -> None:
    tracker = Tracker("digits")
    code = tmp_path / "code.py"
    code.write_text(
        "import mlflow.models\nfrom mlflow.pyfunc import PythonModel\n"
        "class Model(PythonModel):\n    def predict(self, context, model_input, params=None):\n"
        "        return model_input\n"
        "mlflow.models.set_model(Model())\n"
    )
    interface = base.load("classify").interface(IMAGES[:1])
    ids = []
    with tracker.running("train", "train", {}) as run_id:
        for names in (["1", "10"], ["1", "2"]):
            packed = packaging.Package(code, {}, {"class_names": names}, interface, [])
            ids.append(packaging.log_model(tracker, run_id, packed))
    split = split_of(("1", "2"), ["1"])
    assert classify.class_names_of(loading.load_model(f"models:/{ids[0]}"), split) == ("1", "10")
    assert packaging._answers(tracker, ids[0], ("1", "10"))
    assert not packaging._answers(tracker, ids[0], ("1", "2"))
    assert packaging._model_logged_before(tracker, run_id, ("1", "2")) == ids[1]
    tracker.client.delete_logged_model_tag(ids[0], packaging._CLASSES)  # as an earlier release has logged it
    assert packaging._answers(tracker, ids[0], ("1", "10"))
    assert not packaging._answers(tracker, ids[0], ("1", "2"))
