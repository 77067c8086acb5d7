"""The manifest of accepted batches: branches merge without a conflict, and a batch that was removed stays removed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts import base as artifacts
from pipeline.artifacts.register import Report
from pipeline.artifacts.search import Trial
from pipeline.core import params
from pipeline.core.errors import DataError, PipelineError
from pipeline.datasets import manifest
from pipeline.datasets.manifest import ManifestEntry
from pipeline.validation import duplicate_pairs
from tests.test_ingest import GOOD, NAMES, OTHER, ROOT, made, put, take

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org")
TOY = Path("reports/ingest/toy")
A, B, C, D = (letter * 64 for letter in "abcd")


def entry(digest: str, batch: str = "") -> ManifestEntry:
    return ManifestEntry(digest=digest, batch=batch or digest[0], images=1, classes=("x", "y"))


def listed(folder: Path) -> list[str]:
    return [each.digest for each in manifest.read_manifest(folder)]


def git(root: Path, *words: str, code: int = 0) -> None:
    done = subprocess.run([*GIT, *words], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr


def commit(root: Path, branch: str, change: Callable[[], object]) -> None:
    """Make a change on a branch that begins at main."""
    git(root, "checkout", "-q", "-b", branch, "main")
    change()
    git(root, "add", "-A", ".")
    git(root, "commit", "-qm", branch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository whose main branch has accepted two batches."""
    git(tmp_path, "init", "-q", "-b", "main")
    manifest.make(tmp_path / TOY)
    for digest in (B, A):
        manifest.append(tmp_path / TOY, entry(digest))
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "two batches")
    return tmp_path


def test_two_branches_that_each_accept_a_batch_merge_to_the_same_order(root: Path) -> None:
    commit(root, "one", lambda: manifest.append(root / TOY, entry(D)))
    commit(root, "two", lambda: manifest.append(root / TOY, entry(C)))
    git(root, "merge", "-q", "one")
    assert listed(root / TOY) == [B, A, C, D]
    git(root, "checkout", "-q", "one")
    git(root, "merge", "-q", "two")
    assert listed(root / TOY) == [B, A, C, D]
    manifest.append(root / TOY, entry("e" * 64))
    assert listed(root / TOY)[-1] == "e" * 64


def test_a_batch_that_one_branch_removed_stays_removed(root: Path) -> None:
    commit(root, "one", lambda: manifest.entry_file(root / TOY, B).unlink())
    commit(root, "two", lambda: manifest.append(root / TOY, entry(C)))
    git(root, "merge", "-q", "one")
    assert listed(root / TOY) == [A, C]
    for digest in (A, C):
        manifest.entry_file(root / TOY, digest).unlink()
    git(root, "commit", "-qam", "no batch")
    git(root, "clone", "-q", ".", "clone")
    assert (root / "clone" / TOY).is_dir()
    assert listed(root / "clone" / TOY) == []


def test_a_batch_that_two_branches_accept_under_two_names_is_a_conflict_with_a_way_out(root: Path) -> None:
    commit(root, "one", lambda: manifest.append(root / TOY, entry(C, "monday")))
    commit(root, "two", lambda: manifest.append(root / TOY, entry(C, "tuesday")))
    git(root, "merge", "-q", "one", code=1)
    with pytest.raises(DataError, match=r"c.json is damaged: .*found a merge conflict in line 3; next: ") as failure:
        listed(root / TOY)
    for command in re.search("next: (.*), then (git add .*):", str(failure.value)).groups():  # type: ignore[union-attr]
        subprocess.run(shlex.split(command), cwd=root, check=True)
    assert [(each.digest, each.batch) for each in manifest.read_manifest(root / TOY)][2:] == [(C, "tuesday")]
    git(root, "commit", "-qm", "merged")


# ---------------------------------------------------------------- manifests of earlier releases


def earlier(root: Path, *digests: str) -> Path:
    """Write what an earlier release has written."""
    file = manifest.earlier_file(root / TOY)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(entry(digest).model_dump(exclude={"order"})) for digest in digests]
    file.write_text("".join(f"{line}\n" for line in lines) or "\n")
    return file


def test_an_earlier_manifest_is_converted_once_in_its_order(tmp_path: Path) -> None:
    file = earlier(tmp_path, C, A, C, B)
    assert manifest.convert(tmp_path / TOY) == 3
    assert not file.exists()
    assert listed(tmp_path / TOY) == [A, C, B]  # a batch that was listed twice: as earlier releases read it
    manifest.entry_file(tmp_path / TOY, A).unlink()
    assert manifest.convert(tmp_path / TOY) is None
    assert listed(tmp_path / TOY) == [C, B]
    first = {path.name: path.read_bytes() for path in (tmp_path / TOY).iterdir()}
    earlier(tmp_path, C, B)  # as a kill before the removal leaves it
    assert manifest.convert(tmp_path / TOY) == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / TOY).iterdir()} == first


def test_branches_that_convert_and_accept_merge(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    earlier(tmp_path, B, A)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "earlier release")

    def accept(digest: str) -> None:
        manifest.convert(tmp_path / TOY)
        manifest.append(tmp_path / TOY, entry(digest))

    commit(tmp_path, "one", lambda: accept(D))
    commit(tmp_path, "two", lambda: accept(C))
    git(tmp_path, "merge", "-q", "one")
    assert listed(tmp_path / TOY) == [B, A, C, D]


def test_a_merge_conflict_in_an_earlier_manifest_is_named_and_converted_without_its_marks(tmp_path: Path) -> None:
    file = earlier(tmp_path, A, B, C)
    first, second, third = file.read_text().splitlines()
    file.write_text(f"{first}\n<<<<<<< HEAD\n{second}\n=======\n{third}\n>>>>>>> other\n")
    with pytest.raises(
        DataError, match=r"toy.jsonl is damaged: .*found a merge conflict in line 2; next: remove the lines"
    ):
        manifest.convert(tmp_path / TOY)
    assert not (tmp_path / TOY).exists()
    file.write_text(f"{first}\n{second}\n{third}\n")
    assert manifest.convert(tmp_path / TOY) == 3


def test_an_earlier_manifest_is_not_overlooked_and_the_next_command_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = made(tmp_path, monkeypatch)
    put(root, "monday.npz", GOOD)
    take(root)
    [known] = manifest.read_manifest(root / TOY)
    manifest.entry_file(root / TOY, known.digest).unlink()
    earlier(root).write_text(json.dumps(known.model_dump(exclude={"order"})) + "\n")
    with pytest.raises(
        DataError, match=r"toy.jsonl is a manifest of an earlier release: .*next: pipeline ingest, which"
    ):
        manifest.read_manifest(root / TOY)
    put(root, "tuesday.npz", GOOD)
    assert "tuesday.npz is known, taken in as monday.npz; removed" in take(root).said[0]
    assert manifest.read_manifest(root / TOY) == [known]
    assert "toy.jsonl has become the folder" in capsys.readouterr().err
    earlier(root)  # without a batch
    take(root)
    assert capsys.readouterr().err == ""
    assert not manifest.earlier_file(root / TOY).exists()


def test_a_workspace_whose_graph_reads_the_earlier_manifest_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made(tmp_path, monkeypatch)
    file = earlier(root, A)
    before = file.read_bytes()
    (root / "dvc.yaml").write_text("deps: [reports/ingest/${item.dataset}.jsonl]\n")
    with pytest.raises(
        PipelineError, match=r"is a workspace of an earlier release: .*next: call `pipeline run` with its"
    ):
        take(root)
    assert file.read_bytes() == before
    shutil.copyfile(ROOT / "dvc.yaml", root / "dvc.yaml")  # as `pipeline run` does
    take(root)
    assert listed(root / TOY) == [A]


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{", "is damaged: .*Invalid JSON"),
        ("", "is damaged: .*Invalid JSON"),
        ('{"digest": "x"}', "is damaged: .*digest: .*batch: Field required"),
        ("\xff", "is damaged"),
        (json.dumps(entry(B).model_dump()), f"is another batch's: expected a file named {B}.json"),
    ],
)
def test_a_damaged_entry_is_one_line_without_an_address_of_pydantic(content: str, found: str, tmp_path: Path) -> None:
    manifest.make(tmp_path / TOY)
    manifest.entry_file(tmp_path / TOY, A).write_text(content)
    with pytest.raises(DataError, match=found) as failure:
        listed(tmp_path / TOY)
    assert "pydantic" not in str(failure.value)


def test_a_damaged_entry_is_replaced_as_it_advises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made(tmp_path, monkeypatch)
    put(root, "monday.npz", GOOD)
    put(root, "tuesday.npz", OTHER)
    take(root)
    file = manifest.entry_file(root / TOY, GOOD.digest())
    file.write_text("{")
    with pytest.raises(DataError, match="next: restore it, or remove it and put the batch into incoming again"):
        manifest.read_manifest(root / TOY)
    file.unlink()
    put(root, "monday.npz", GOOD)
    assert take(root).answer.accepted == 1
    assert listed(root / TOY) == [OTHER.digest(), GOOD.digest()]
    assert manifest.read_manifest(root / TOY)[0].classes == NAMES


def test_other_files_in_the_folder_do_not_count(tmp_path: Path) -> None:
    manifest.make(tmp_path / TOY)
    manifest.append(tmp_path / TOY, entry(A))
    for name in ("notes.txt", f"{A}.json.orig", ".hidden.json"):
        (tmp_path / TOY / name).write_text("<<<<<<< ours")
    assert listed(tmp_path / TOY) == [A]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("params.yaml", params.read),
        ("report.json", lambda path: artifacts.read_json(path, Report, "register")),
        ("trials.csv", lambda path: artifacts.read_rows(path, Trial, "search")),
        ("near.csv", lambda path: duplicate_pairs.load(path, "train", 3)),
    ],
)
def test_a_merge_conflict_is_recognised_in_every_file_that_git_tracks(
    name: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text("a: 1\n<<<<<<< HEAD\nb: 1\n||||||| base\n=======\nb: 2\n>>>>>>> other\n")
    with pytest.raises(PipelineError, match="found a merge conflict in line 2") as failure:
        read(path)
    assert "pydantic" not in str(failure.value)
