"""Results that DVC takes for up to date although they were made from something else are found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import ParamsError
from pipeline.datasets import manifest
from pipeline.datasets.manifest import ManifestEntry
from pipeline.project import recorded

LOCK = """
schema: '2.0'
stages:
  prepare@toy:
    cmd: python3 -m pipeline.stages prepare --manifest reports/ingest/toy --output data/prepared/toy
    deps: [{{path: reports/ingest/toy, md5: {md5}}}]
    outs: [{{path: data/prepared/toy, md5: x.dir}}]
  search@toy-mlp:
    cmd: python3 -m pipeline.stages search --output reports/search/toy/mlp
    params: {{params.yaml: {{search: {{generation: {generation}, seed: 0}}, runtime.backend: torch}}}}
    outs: [{{path: reports/search/toy/mlp/best.json, md5: x}}]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project that has prepared two batches and searched in generation 2."""
    path = tmp_path / "reports/ingest/toy"
    for digest in ("a" * 64, "b" * 64):
        manifest.append(path, ManifestEntry(digest=digest, batch="x", images=1, classes=("0",)))
    for name, content in (
        ("data/prepared/toy/meta.json", {"batches": ["a" * 64, "b" * 64]}),
        ("reports/search/toy/mlp/best.json", {"study": "toy-mlp-g2-0123456789"}),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(json.dumps(content))
    record(tmp_path, 2)
    return tmp_path


def record(root: Path, generation: int) -> None:
    """Write what DVC would: the manifest and the settings of this moment."""
    md5 = recorded.folder_hash(root / "reports/ingest/toy")
    (root / "dvc.lock").write_text(LOCK.format(md5=md5, generation=generation))


def found(root: Path) -> list[str]:
    return [each.stage for each in recorded.disagreements(root)]


def test_results_of_what_is_recorded_agree(root: Path) -> None:
    assert found(root) == []
    (root / "dvc.lock").unlink()
    assert found(root) == []


def test_a_batch_recorded_as_learnt_from_and_not_in_the_data_is_found(root: Path) -> None:
    path = root / "reports/ingest/toy"
    manifest.append(path, ManifestEntry(digest="c" * 64, batch="x", images=1, classes=("0",)))
    assert found(root) == []  # DVC sees the change by itself
    record(root, 2)
    assert found(root) == ["prepare@toy"]
    (root / "data/prepared/toy/meta.json").unlink()
    assert found(root) == []  # DVC sees that, too


def test_a_search_recorded_under_another_generation_is_found(root: Path) -> None:
    record(root, 3)
    assert found(root) == ["search@toy-mlp"]


def test_a_merge_conflict_is_named_with_its_line(root: Path) -> None:
    text = (root / "dvc.lock").read_text()
    (root / "dvc.lock").write_text(
        text.replace("stages:\n", "<<<<<<< HEAD\nstages:\n=======\nstages:\n>>>>>>> other\n")
    )
    with pytest.raises(
        ParamsError, match=r"dvc.lock is not valid YAML: found a merge conflict in line 3; next: resolve"
    ):
        found(root)


def test_a_report_with_a_merge_conflict_is_left_to_dvc(root: Path) -> None:
    (root / "reports/search/toy/mlp/best.json").write_text("<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n")
    assert found(root) == []


def test_the_hash_of_a_manifest_is_the_one_that_dvc_records(tmp_path: Path) -> None:
    for batch in range(3):
        manifest.append(tmp_path / "in", ManifestEntry(digest=str(batch) * 64, batch="é", images=1, classes=("0",)))
    manifest.make(tmp_path / "in")
    (tmp_path / "in/.left.partial").write_text("x")
    (tmp_path / ".dvcignore").write_text(".*.partial\n")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: echo a > out, deps: [in], outs: [out]}}")
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=tmp_path, check=True)
    [dep] = recorded.locked_stages(tmp_path)["a"]["deps"]
    assert dep["md5"] == recorded.folder_hash(tmp_path / "in")
