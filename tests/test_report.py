import base64
import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.core import params
from pipeline.core.errors import DataError
from pipeline.core.files import write_json, write_text
from pipeline.stages import report

ROOT = Path(__file__).parents[1]
NASTY = '</svg><script>alert("1")</script>'
CLASSES = ["cat", NASTY]


class Read(HTMLParser):
    """What a browser would see: elements, where they lead, and text outside of style and script."""

    VOID = {"meta", "hr", "img"}

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data.replace("\N{NO-BREAK SPACE}", " ")

    def classes(self, *names: str) -> list[dict[str, str]]:
        return [attrs for _, attrs in self.elements if set(names) <= set(attrs.get("class", "").split())]


def write_csv(path: Path, rows: list[list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def write_family(reports: Path, family: str, right: int, run: str) -> None:
    """Write the reports of a family: `right` of 20 cats and all of 20 others were labelled right."""
    search, train, evaluate = (reports / stage / "pets" / family for stage in ("search", "train", "evaluate"))
    counts = {"complete": 2, "pruned": 1, "failed": 1}
    found = {"study": "s", "value": 0.9125}
    summary = {**found, "run": "5ea7c4", "best_trial": 3, "trials": counts, "epochs": 19, "seconds": 61.5}
    write_json(search / "summary.json", summary)
    best = {**found, "family": family, "hyperparameters": {"units": 64, "rate": 0.0029967}, "epochs": 9, "seed": 3}
    write_json(search / "best.json", best)
    trials = [
        ["trial", "state", "value", "epochs", "seconds", "reason", "units", "rate"],
        [0, "complete", 0.8, 9, 20.1, "", 32, 0.01],
        [1, "failed", "", 0, 0.4, "worker died", 64, ""],
        [2, "pruned", 0.5, 1, 2.2, "not among the best", 64, 0.1],
        [3, "complete", 0.9125, 9, 21.0, "", 64, 0.0029967],
    ]
    write_csv(search / "trials.csv", trials)
    trained = {"run": run, "value": right / 40, "mean": 0.9, "seeds": {"0": 0.9}, "parameters": 12345, "epochs": 2}
    write_json(train / "summary.json", {**trained, "seconds": 1.4})
    curves = [
        ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "value"],
        [1, 0.9, 0.4, 0.8, 0.5, 0.5],
        [2, 0.3, 0.8, 0.4, 0.7, 0.7],
    ]
    write_csv(train / "curves.csv", curves)
    scored = {
        "task": "classify",
        "run": run,
        "accuracy": (right + 20) / 40,
        "low": 0.7,
        "high": 0.99,
        "loss": 0.2,
        "images": 40,
        "test_digest": "d",
    }
    write_json(evaluate / "summary.json", {**scored, "recall": {CLASSES[0]: right / 20, CLASSES[1]: 1.0}})
    pairs = [["cat", "cat"]] * right + [["cat", NASTY]] * (20 - right) + [[NASTY, NASTY]] * 20
    write_csv(evaluate / "plots" / "confusion.csv", [["actual", "predicted"], *pairs])


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """The reports of two families, of which cnn was registered, and of one that is not selected."""
    folder = tmp_path / "reports"
    gate = {
        "dataset": "pets",
        "passed": True,
        "warnings": [],
        "near_duplicates": {"threshold": 0.05, "counts": {}, "pairs": []},
        "digest": {"train": "a", "test": "d"},
        "reference": {"shape": [8, 8, 1], "bounds": {}, "levels": {}},
        "images": {"train": 1300, "test": 40},
        "classes": {"train": {"cat": 701, NASTY: 599}, "test": {"cat": 20, NASTY: 20}},
        "imbalance": {"train": 1.1703, "test": 1.0},
        "duplicates": {"train": 3, "test": 0},
        "leaked": 0,
        "expectations": {"mean": {"low": 24.5, "high": 54.25}, "sha256": {"unexpected": 0.0}},
    }
    write_json(folder / "validate" / "pets.json", gate)
    write_family(folder, "mlp", 15, "a11ce")
    write_family(folder, "cnn", 19, "c0ffee")
    write_text(folder / "train" / "pets" / "old" / "summary.json", "left behind")
    decision = {
        "model": "pets-classifier",
        "decision": "kept",
        "reason": "p = 0.3 >= 0.05",
        "version": 4,
        "champion": 2,
        "family": "cnn",
        "value": 0.475,
        "accuracy": 0.975,
        "comparison": {"p_value": 0.3},
        "run": "c0ffee",
        "key": "d",
    }
    write_json(folder / "register" / "pets.json", {"classify": decision})
    return folder


def write_generator(reports: Path) -> None:
    """Write the reports of a generator beside the classifiers."""
    write_family(reports, "gan", 15, "9a9")
    trained = {"run": "9a9", "value": -7.25, "mean": -8.5, "seeds": {"0": -7.25}, "parameters": 12345, "epochs": 2}
    write_json(reports / "train" / "pets" / "gan" / "summary.json", {**trained, "seconds": 1.4})
    curves = [["epoch", "val_fid", "floor_fid", "value"], [1, 30.5, 0.5, -30.5], [2, 7.25, 0.5, -7.25]]
    write_csv(reports / "train" / "pets" / "gan" / "curves.csv", curves)
    evaluate = reports / "evaluate" / "pets" / "gan"
    figures = {"fid": 6.75, "kid": 0.5, "floor_fid": 0.31, "floor_kid": -0.25, "memorised": 0.015, "covered": 9}
    figures |= {"nearest": 1.5, "nearest_real": 1.25, "classes": 10, "features": "abc" * 20}
    scored = {"task": "generate", "run": "9a9", **figures, "images": 40, "test_digest": "d"}
    write_json(evaluate / "summary.json", scored)
    (evaluate / "plots" / "confusion.csv").unlink()
    (evaluate / "plots" / "samples.png").write_bytes(b"drawn")
    path = reports / "register" / "pets.json"
    decision = {"model": "pets-generator", "decision": "promoted", "reason": "p = 0.01 < 0.05", "version": 3}
    decision |= {"champion": 3, "family": "gan", "value": -7.25, "comparison": None, "run": "9a9", "key": "e"}
    write_json(path, {**json.loads(path.read_text()), "generate": decision})


def page(reports: Path) -> str:
    return report.run(reports, reports / "index.html", ["pets"], ["mlp", "cnn"], 0.95)


def test_the_page_warns_of_classes_never_predicted_and_shows_what_the_largest_class_gets(reports: Path):
    path = reports / "evaluate" / "pets" / "cnn" / "summary.json"
    scored = json.loads(path.read_text()) | {"majority": 0.525, "balanced": 0.5, "never": [NASTY]}
    write_json(path, scored)
    gate = json.loads((reports / "validate" / "pets.json").read_text())
    write_json(reports / "validate" / "pets.json", gate | {"warnings": ["class-count", "class-balance"]})
    path = reports / "register" / "pets.json"
    decision = json.loads(path.read_text())["classify"] | {"champion": 0, "reason": "it is not above 1/2"}
    write_json(path, {"classify": decision})
    read = Read(page(reports))
    for text in (
        "52.5 % by always answering the largest class",
        "always answering the largest class gets 52.5 %",
        f"Warning: Class {NASTY!r} is never predicted: none of its test images is found.",
        "pets-classifier has no champion; version 4 (cnn) is registered as challenger, because it is not above 1/2.",
        "pass with warnings (class-count, class-balance)",
    ):
        assert text in read.text, text
    assert "meet all" not in read.text


def test_the_page_holds_the_figures_of_the_files(reports: Path):
    read = Read(page(reports))
    for figure in (
        "pets-classifier version 2 stays the champion, version 4 (cnn) is its challenger, because p = 0.3 >= 0.05.",
        "97.5 %",  # cnn's test accuracy, with its interval
        "95 % interval 70.0 % to 99.0 %, 40 images",
        "v4 @challenger",
        "1,300 train and 40 test images in 2 classes meet all 2 expectations",
        "24.5 to 54.25",
        "12,345 parameters",
        "4 trials (2 complete, 1 pruned, 1 failed), 19 epochs, 61.5 s",
        "91.25 %",  # the best trial
        "worker died",
        "c0ffee",
        "5ea7c4",
    ):
        assert figure in read.text, figure
    assert read.text.index("75.0 %") > read.text.index("97.5 %"), "the best family on validation comes first"
    assert len(read.classes("cell", "hit")) == 4
    assert len(read.classes("cell", "miss")) == 2


def test_a_generator_stands_in_a_leaderboard_of_its_own_with_its_floor_and_its_picture(reports: Path):
    write_generator(reports)
    read = Read(report.run(reports, reports / "index.html", ["pets"], ["mlp", "cnn", "gan"], 0.95))
    for figure in (
        "pets-generator version 3 (gan) is the new champion, because p = 0.01 < 0.05.",
        "pets-classifier version 2 stays the champion",
        "Leaderboard of generators",
        "real images 0.31, 9 of 10 classes drawn, 40 images",
        "test FID 6.750 (real images 0.310), KID 0.5000 (-0.2500), in features abcabcabcabc.",
        "FID of gan after epoch 2: generated 7.25, real 0.5",
        "1.5 %",
    ):
        assert figure in read.text + "".join(a.get("aria-label", "") for _, a in read.elements), figure
    assert [attrs["src"] for tag, attrs in read.elements if tag == "img"] == ["data:image/png;base64,ZHJhd24="]
    assert len(read.classes("cell", "hit")) == 4, "a generator has no confusion matrix"
    assert "Losses" not in read.text, "which this training does not report"


def test_a_seed_without_a_model_is_named_with_its_reason(reports: Path):
    file = reports / "train" / "pets" / "cnn" / "summary.json"
    write_json(file, {**json.loads(file.read_text()), "failed": {"4": "the loss diverged, found <nan>"}})
    text = Read(page(reports)).text
    assert re.search(r"best of 1 seed, mean 90\.0+.%; 1 more failed", text)
    assert text.count("Seed 4 has no model: the loss diverged, found <nan>.") == 1


def test_a_trial_without_a_value_stands_on_the_axis(reports: Path):
    read = Read(page(reports))
    assert len(read.classes("mark", "failed")) == 4, "one in the chart and one in the key of each family"
    assert read.text.count("trial 1: failed, no value, 0 epochs. worker died") == 2


def test_a_class_name_is_text_wherever_it_stands(reports: Path):
    read = Read(page(reports))  # which sees that every element is closed by its own end
    assert [tag for tag, _ in read.elements].count("script") == 1
    assert f"actual cat, predicted {NASTY}: 1 of 20 images (5.00 %)" in read.text
    assert f"cat labelled as {NASTY}" in read.text


def test_the_page_needs_nothing_but_itself(reports: Path):
    html = page(reports)
    docs = reports / "docs" / "pets" / "index.html"
    assert "docs/pets" not in html
    docs.parent.mkdir(parents=True)
    docs.touch()
    html = page(reports)
    elements = [attrs for _, attrs in Read(html).elements]
    leads = {attrs[key] for attrs in elements for key in ("href", "src", "data", "action") if key in attrs}
    inside = {address for address in leads if address.startswith("#")}
    assert {address[1:] for address in inside} <= {attrs.get("id") for attrs in elements}
    runs = {f"http://127.0.0.1:5000/#/runs/{run}" for run in ("a11ce", "c0ffee", "5ea7c4")}
    assert leads - inside == {"docs/pets/index.html", *runs}
    assert not re.search(r"url\(|@import|@font-face|import\(", html)
    assert str(reports) not in html


def test_the_page_shows_the_pictures_that_validate_drew_and_leads_to_the_doubtful_images(reports: Path):
    png = reports / "validate" / "pets" / "pictures" / "samples.png"
    png.parent.mkdir(parents=True)
    png.write_bytes(b"a picture")
    write_text(reports / "docs" / "pets" / "images.html", "")
    elements = Read(page(reports)).elements
    assert [attrs["src"] for tag, attrs in elements if tag == "img"] == ["data:image/png;base64,YSBwaWN0dXJl"]
    assert "docs/pets/images.html" in [attrs.get("href") for tag, attrs in elements if tag == "a"]


def test_no_chart_of_the_page_stands_there_a_second_time_as_a_picture(reports: Path):
    pictures = {"validate/pets/pictures": ("balance", "levels"), "search/pets/mlp/plots": ("history", "curves")}
    for folder, names in pictures.items():
        for name in names:
            write_text(reports / folder / f"{name}.png", name)
    read = Read(page(reports))
    shown = [base64.b64decode(attrs["src"].partition(",")[2]) for tag, attrs in read.elements if tag == "img"]
    assert shown == [b"levels", b"curves"]
    labels = [attrs["aria-label"] for tag, attrs in read.elements if tag == "svg" and "aria-label" in attrs]
    for chart in (
        "Bars: images per class in train, from 599 to 701",
        "Bars: images per class in test, from 20 to 20",
        "Trials of mlp: 4 trials (2 complete, 1 pruned, 1 failed), 19 epochs, 61.5 s.",
        "Confusion matrix of mlp: 87.5\N{NO-BREAK SPACE}% of images on the diagonal",
    ):
        assert labels.count(chart) == 1, chart


def test_the_same_figures_give_the_same_page(reports: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere" / "reports"
    elsewhere.parent.mkdir()
    first = page(reports)
    reports.rename(elsewhere)
    assert page(elsewhere) == first


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("validate/pets.json", "validate"),
        ("search/pets/mlp/trials.csv", "search"),
        ("train/pets/cnn/curves.csv", "train"),
        ("evaluate/pets/mlp/plots/confusion.csv", "evaluate"),
        ("register/pets.json", "register"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "empty", "of something else"])
def test_a_file_that_cannot_be_used_is_named_with_its_stage(reports: Path, file: str, stage: str, damage: str):
    path = reports / file
    path.unlink()
    if damage != "missing":
        path.write_text("" if damage == "empty" else json.dumps({"x": 1}) if path.suffix == ".json" else "x\n1\n")
    with pytest.raises(DataError) as caught:
        page(reports)
    message = str(caught.value)
    assert re.search(
        rf"{re.escape(str(path))} .*expected the file that {stage} writes.*next: dvc repro {stage}$", message
    )
    assert "\n" not in message


def test_the_stage_writes_to_its_output(reports: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(reports.parent)
    settings = params.read(ROOT / "params.yaml")
    settings |= {"datasets": ["pets"], "families": ["mlp", "cnn"]}
    Path("params.yaml").write_text(json.dumps(settings))
    monkeypatch.setattr("sys.argv", ["report", "--reports", "reports", "--output", "reports/index.html"])
    report.main()
    assert (reports / "index.html").read_text() == page(reports)
    assert "reports/index.html" in capsys.readouterr().out


def test_reference_models_stand_beside_ours_where_there_are_some(reports: Path) -> None:
    without = report.run(reports, reports / "index.html", ["pets"], ["mlp", "cnn"], 0.95)
    assert "Reference models" not in without
    common = {"family": "mlp", "task": "classify", "key": "k", "parameters": 101770, "epochs": 8, "seconds": 90}
    models = [
        {"name": "R4", "title": NASTY, **common, "value": 0.9712, "run": "a"},
        {"name": "R9", "title": "ten layers", **common, "failed": "the loss diverged in epoch 1"},
        {"name": "R20", "title": "other", **common, "family": "rnn", "value": 0.5, "run": "b"},
    ]
    path = reports / "references" / "pets.json"
    write_json(path, {"data_digest": "a", "models": models})
    text = Read(report.run(reports, reports / "index.html", ["pets"], ["mlp", "cnn"], 0.95)).text
    table = text.partition("Reference models")[2].partition("Values on validation images")[0].replace(" ", "")
    assert "mlp97.12%\n37.50%101,770\n890.0s" in table.replace("\n37.5%", "\n37.50%")
    assert "thelossdivergedinepoch1" in table
    assert "rnn50.00%\n–" in table
    path.write_text("{")
    with pytest.raises(DataError, match=r"`pipeline references pets` writes it again, or remove it"):
        report.run(reports, reports / "index.html", ["pets"], ["mlp", "cnn"], 0.95)
    path.unlink()
    assert report.run(reports, reports / "index.html", ["pets"], ["mlp", "cnn"], 0.95) == without


def test_a_search_that_its_deadline_ended_is_named(reports: Path) -> None:
    sentence = "Its deadline ended it before its budget was used."
    assert sentence not in report.run(reports, reports / "index.html", ["pets"], ["mlp", "cnn"], 0.95)
    path = reports / "search" / "pets" / "mlp" / "summary.json"
    write_json(path, {**json.loads(path.read_text()), "cut_by_deadline": True})
    assert report.run(reports, reports / "index.html", ["pets"], ["mlp", "cnn"], 0.95).count(f"{sentence} MLflow") == 1
