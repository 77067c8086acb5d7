"""`pipeline add-dataset`: what it proposes for sets as people have them, and what it refuses."""

from __future__ import annotations

import gzip
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipeline.cli import add_dataset as command
from pipeline.cli.main import parser
from pipeline.core import params
from pipeline.core.errors import PipelineError
from pipeline.datasets import proposal, size_choice
from pipeline.datasets.formats import folder as folders
from pipeline.project import check, dvc, own_pictures, params_edit

ROOT = Path(__file__).resolve().parents[1]
Add = Callable[..., dict[str, Any]]


def patterns(count: int, classes: int = 2, side: int = 28, seed: int = 0) -> list[tuple[int, np.ndarray]]:
    """Return grey pictures (side, side): a bar in the place of the class, with noise; unlike each other."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        label = index % classes
        picture = random.integers(0, 120, (side, side))
        picture[:, (label + 1) * side // (classes + 2) :][:, :3] = 255
        made.append((label, picture.astype(np.uint8)))
    return made


def save(root: Path, label: int | str, index: int, pixels: np.ndarray, name: str = "{}.png") -> None:
    (root / str(label)).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / str(label) / name.format(index))


def fill(root: Path, count: int = 40, **options: Any) -> Path:
    for index, (label, pixels) in enumerate(patterns(count, **options)):
        save(root, "ab"[label], index, pixels)
    return root


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the params of this one, into which the command writes."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(dvc, "project_root", lambda: root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def add(project: Path, capsys: pytest.CaptureFixture[str]) -> Add:
    """Call the command with --yes; return the section that it wrote, the name and what it printed."""

    def call(*words: object) -> dict[str, Any]:
        assert command.main(parser().parse_args(["add-dataset", *map(str, words), "--yes"])) == 0
        content = YAML(typ="safe").load((project / "params.yaml").read_text(encoding="utf-8"))
        (name,) = content["datasets"]
        return {"name": name, "printed": capsys.readouterr().out, **content["download"][name]}

    return call


def refused(project: Path, *words: object) -> str:
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(PipelineError) as error:
        command.main(parser().parse_args(["add-dataset", *map(str, words), "--yes"]))
    assert (project / "params.yaml").read_bytes() == before
    return str(error.value)


def test_a_folder_of_any_name_is_written_with_comments_and_ends_with_the_command(add: Add, project: Path) -> None:
    before = (project / "params.yaml").read_text(encoding="utf-8")
    root = fill(project.parent / "My Pets (2)")
    for name in ("a/Thumbs.db", "a/desktop.ini", "b/.DS_Store"):
        (root / name).write_bytes(b"\0" * 64)
    found = add(root)
    assert (found["name"], found["format"], found["path"]) == ("my-pets-2", "folder", "../My Pets (2)")
    assert (found["size"], found["channels"], found["classes"]) == ([28, 28], 1, ["a", "b"])
    assert "3 files of other programs passed over" in found["printed"]
    assert found["printed"].splitlines()[-1] == "pipeline run --workspace runs/my-pets-2"
    after = (project / "params.yaml").read_text(encoding="utf-8")
    assert " # height, width" in after
    kept = set(before.splitlines()) - {line for line in before.splitlines() if line.startswith("datasets:")}
    assert kept <= set(after.splitlines())  # comments too
    assert "flip: true" not in after.replace(before, "").split("families:")[0]
    sheet = Path(re.search("Contact sheet: (.*)", found["printed"])[1])  # type: ignore[index]
    assert Image.open(sheet).format == "PNG"


def transparent(ink: int) -> Callable[[np.ndarray], np.ndarray]:
    def drawn(pixels: np.ndarray) -> np.ndarray:
        whole = np.full((*pixels.shape, 4), ink, np.uint8)
        whole[..., 3] = pixels
        return whole

    return drawn


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (lambda pixels: (pixels.astype(np.uint32) * 4095 // 255).astype(np.uint16), {"depth": 12}),
        (lambda pixels: (pixels.astype(np.uint32) * 1023 // 255).astype(np.uint16), {"depth": 10}),
        (lambda pixels: pixels.astype(np.uint16) * 257, {}),
        (transparent(40), {"background": "white"}),
        (transparent(230), {"background": "black"}),
        (lambda pixels: np.dstack([pixels, pixels // 2, 255 - pixels]), {"channels": 3}),
        (lambda pixels: np.dstack([pixels] * 3), {"channels": 1}),
    ],
    ids=["12-bits", "10-bits", "16-bits", "dark-ink", "light-ink", "colour", "grey-as-colour"],
)
def test_what_the_pixels_show_is_set(
    add: Add, project: Path, drawn: Callable[[np.ndarray], np.ndarray], expected: dict[str, Any]
) -> None:
    for index, (label, pixels) in enumerate(patterns(24)):
        save(project.parent / "set", label, index, drawn(pixels))
    found = add(project.parent / "set")
    shown = {key: found[key] for key in ("channels", "depth", "background") if key in found}
    assert shown == {"channels": 1, **expected}


def test_splits_of_the_publisher_are_kept_and_val_joins_train(add: Add, project: Path) -> None:
    for index, (label, pixels) in enumerate(patterns(80)):
        save(project.parent / "set" / ("Train", "Train", "Val", "Test")[index // 2 % 4], label, index, pixels)
    found = add(project.parent / "set")
    assert found["validation"] == "join"
    assert "test_fraction" not in found
    assert "0: 40 (20 train, 10 val, 10 test)" in found["printed"]


@pytest.mark.parametrize(("header", "label"), [(["label"], None), (["digit"], "digit"), (None, None)])
def test_a_table_of_pixels_has_its_own_size(
    add: Add, project: Path, header: list[str] | None, label: str | None
) -> None:
    rows = [[label, *pixels.ravel()] for label, pixels in patterns(24, side=12)]
    names = [] if header is None else [[*header, *(f"pixel{place}" for place in range(144))]]
    table = project.parent / "letters" / "train.csv"
    table.parent.mkdir()
    table.write_text("\n".join(",".join(map(str, row)) for row in (*names, *rows)), encoding="utf-8")
    found = add(table.parent)
    assert (found["name"], found["format"], found["size"]) == ("letters", "pixels", [12, 12])
    assert found.get("label") == label


@pytest.mark.parametrize(("prefix", "transposed"), [("emnist-letters-", True), ("own-", None)])
def test_idx_files_give_first_label_and_orientation(
    add: Add, project: Path, prefix: str, transposed: bool | None
) -> None:
    home = project.parent / "idx"
    home.mkdir()
    for part, count in (("train", 30), ("test", 12)):
        made = patterns(count, side=9, seed=count)
        head = len(made).to_bytes(4, "big")
        images = b"\0\0\x08\x03" + head + (9).to_bytes(4, "big") * 2 + b"".join(each.tobytes() for _, each in made)
        labels = b"\0\0\x08\x01" + head + bytes(label + 1 for label, _ in made)
        (home / f"{prefix}{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (home / f"{prefix}{part}-labels-idx1-ubyte").write_bytes(labels)
    if transposed is None:
        for file in list(home.iterdir()):  # names that say nothing: the larger one is train
            file.rename(home / f"part {len(file.name)}{file.name.split('-')[2][0]}{file.suffix}")
    found = add(home)
    assert (found["first_label"], found["classes"], found.get("transpose")) == (1, ["1", "2"], transposed)
    assert ("roles" in found) == (transposed is None)
    assert "1: 21 (15 train, 6 test)" in found["printed"]


def test_speakers_are_groups_and_numbers_are_not(add: Add, project: Path) -> None:
    for index, (label, pixels) in enumerate(patterns(80)):
        speaker = ("anna", "ben", "eve", "zoe", "tom")[index // 2 % 5]
        save(project.parent / "spoken", label, index, pixels, f"{label}_{speaker}_{{}}.png")
        save(project.parent / "plain", label, index, pixels, "image_{}.png")
    found = add(project.parent / "spoken")
    assert [re.search(found["group"], f"0/0_{name}_7.png")[1] for name in ("anna", "zoe")] == ["anna", "zoe"]  # type: ignore[index]
    assert "5 groups in the names of files: anna, ben, eve, tom, zoe" in found["printed"]
    assert "group" not in add(project.parent / "plain")


def test_two_classes_and_a_burst_are_one_refusal_that_names_all_files(project: Path) -> None:
    root = fill(project.parent / "set")
    (root / "b" / "again.png").write_bytes((root / "a" / "0.png").read_bytes())
    message = refused(project, root)
    assert "1 picture lies in two classes" in message
    assert "a/0.png (the same picture as b/again.png)" in message
    (root / "b" / "again.png").unlink()
    frame = patterns(1, seed=9)[0][1].astype(int)
    for index in range(12):
        noise = np.random.default_rng(index).integers(-2, 3, frame.shape)
        save(root, "ship", index, (frame + noise).clip(0, 255).astype(np.uint8))
    message = refused(project, root)
    assert "all pictures to learn from of the class 'ship' are one group" in message
    listed = (project / "data" / "own" / "set" / "damaged.csv").read_text(encoding="utf-8")
    assert listed.count("one of 12 that are near duplicates") == 12
    save(root, "ship", 12, patterns(1, seed=77)[0][1])  # what the message advises: another one
    assert command.main(parser().parse_args(["add-dataset", str(root), "--yes"])) == 0


def test_bad_input_is_one_error_and_params_stay(project: Path) -> None:
    root = project.parent
    assert "no such folder or file" in refused(project, root / "nowhere")
    (root / "empty" / "inner").mkdir(parents=True)
    assert "is empty" in refused(project, root / "empty")
    save(root / "one", "a", 0, patterns(1)[0][1])
    assert "at least two classes" in refused(project, root / "one")
    fill(root / "fine")
    assert "download has 'mnist' already" in refused(project, root / "fine", "--name", "mnist")
    assert "--name mnist-2" in refused(project, root / "fine", "--name", "mnist")
    assert "not a name" in refused(project, root / "fine", "--name", "a b")
    (root / "fine" / "a" / "broken.png").write_bytes(b"no picture")
    message = refused(project, root / "fine")
    assert "a/broken.png" in message
    assert "--skip-damaged" in message
    (project / "params.yaml").chmod(0o444)
    assert "cannot be written" in refused(project, root / "fine", "--skip-damaged")


def test_damaged_files_are_left_out_when_asked(add: Add, project: Path) -> None:
    fill(project.parent / "set")
    (project.parent / "set" / "a" / "broken.png").write_bytes(b"no picture")
    found = add(project.parent / "set", "--skip-damaged")
    assert found["skip_damaged"] is True
    assert "a: 20 (" in found["printed"]


@pytest.mark.parametrize("answers", [["n", "n"], ["y", KeyboardInterrupt], [EOFError]])
def test_no_and_ctrl_c_leave_params_as_they_were(
    project: Path, answers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter(answers)

    def answer(_: str) -> str:
        said = next(given)
        if isinstance(said, str):
            return said
        raise said

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    before = (project / "params.yaml").read_bytes()
    arguments = parser().parse_args(["add-dataset", str(fill(project.parent / "set"))])
    if answers == ["n", "n"]:
        assert command.main(arguments) == 1
    else:
        with pytest.raises((KeyboardInterrupt, PipelineError)):
            command.main(arguments)
    assert (project / "params.yaml").read_bytes() == before


def test_a_yes_to_the_flip_is_set_for_families_that_can(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda question: "y")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert command.main(parser().parse_args(["add-dataset", str(fill(project.parent / "set"))])) == 0
    content = params.read(project / "params.yaml")
    assert [content[family]["space_for"]["set"] for family in ("mlp", "cnn")] == [{"flip": True}] * 2
    assert content["datasets"] == ["set"]


def test_a_workspace_gets_params_of_its_own_and_a_command_that_has_it_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, before = fill(tmp_path / "it's mine"), (ROOT / "params.yaml").read_bytes()
    words = ["add-dataset", str(root), "--yes", "--workspace", str(tmp_path / "a b")]
    assert command.main(parser().parse_args(words)) == 0
    assert (ROOT / "params.yaml").read_bytes() == before
    written = params.read(tmp_path / "a b" / "params.yaml")
    assert written["datasets"] == ["it-s-mine"]
    run = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert run[:4] == ["pipeline", "run", "--workspace", str(tmp_path / "a b")]
    arguments = parser().parse_args(run[1:])
    text = params_edit.override(before.decode(), arguments.settings)
    assert YAML(typ="safe").load(text)["download"]["it-s-mine"] == written["download"]["it-s-mine"]


def test_the_size_is_the_smallest_that_is_good_enough() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(120) % 2
    coarse, fine = ([random.integers(0, 60, (120, side, side, 1)) for side in size_choice.SIDES] for _ in range(2))
    for stack in coarse:  # what tells the classes apart shows in every size
        stack[labels == 1, : len(stack[0]) // 2] += 120
    fine[-1][labels == 1, :48] += 120  # and here in the largest alone
    chosen = [
        size_choice.choose([stack.astype(np.uint8) for stack in stacks], labels, [(96, 96)] * 120)[0]
        for stacks in (coarse, fine)
    ]
    assert chosen == [(28, 28), (96, 96)]
    in_own_size = [stack.astype(np.uint8) for stack in coarse[:2]]
    assert size_choice.choose(in_own_size, labels, [(32, 32)] * 120)[0] == (32, 32)
    assert size_choice.candidates([(28, 28)] * 9) == [(28, 28)]
    assert size_choice.candidates([(300, 150)] * 9) == [(28, 28), (32, 32), (64, 32), (96, 48)]


def test_no_picture_of_test_helps_to_choose_the_size(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    choose = size_choice.choose
    monkeypatch.setattr(
        size_choice, "choose", lambda images, labels, native: seen.append(images) or choose(images, labels, native)
    )
    root = fill(project.parent / "set", count=60, side=40)
    found = own_pictures.propose(root, "set", project / "data")
    entries = folders.collect(root)
    images = np.stack([np.asarray(Image.open(entry.path).resize(found.size))[..., None] for entry in entries])
    labels = np.array([int(entry.label == "b") for entry in entries])
    place = [stack.shape[1:3] for stack in seen[0]].index(found.size)
    test = images[folders.choose_test(images, labels, 0.2, 0)]
    used = {image.tobytes() for image in seen[0][place]}
    assert len(test) == found.counts["a"]["test"] + found.counts["b"]["test"]
    assert used
    assert not used & {image.tobytes() for image in test}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("My Pets (2)", "my-pets-2"), ("Bücher", "bucher"), ("写真", "pictures"), ("-x_", "x"), ("a" * 99, "a" * 48)],
)
def test_names_are_made_valid(name: str, expected: str, tmp_path: Path) -> None:
    assert proposal.name_for(tmp_path / name) == expected


def test_without_a_terminal_it_asks_for_yes(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pipeline.cli.main", "add-dataset", str(fill(tmp_path / "set", 4))]
    done = subprocess.run(words, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "next: add --yes" in done.stderr


def test_a_second_dataset_is_added_beside_one_that_is_not_pinned_yet(add: Add, project: Path) -> None:
    add(fill(project.parent / "first"))
    add(fill(project.parent / "second", seed=1))
    content = check.check(project / "params.yaml", unpinned=True)
    assert content["datasets"] == ["second"]
    assert {"first", "second"} <= set(content["download"])
    with pytest.raises(PipelineError, match=r"download\.second is wrong: expected own images are not pinned"):
        check.check(project / "params.yaml")


def test_a_table_is_known_by_its_columns(add: Add, project: Path) -> None:
    home = fill(project.parent / "shots")
    rows = [f"{path.relative_to(home)},{path.parent.name}x" for path in sorted(home.rglob("*.png"))]
    (home / "labels.csv").write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    assert "rename the columns of its first line to path and label" in refused(project, home / "labels.csv")
    (home / "labels.csv").write_text("\n".join(["Path,Label", *rows]), encoding="utf-8")
    found = add(home)
    assert (found["name"], found["format"], found["path"]) == ("shots", "table", "../shots/labels.csv")
    assert found["classes"] == ["ax", "bx"]
