"""Which tests a change touches: a test that is left out would let the change break what it shows."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import changed_tests
from tests.import_graph import ROOT, graph, path_of


@pytest.mark.parametrize(
    ("file", "inside", "outside"),
    [
        ("pipeline/validation/near_duplicates.py", "near_duplicates prepare validate", "gan download"),
        (
            "pipeline/models/families/gan/networks.py",
            "gan models end_to_end search backends",
            "cifar near_duplicates validate",
        ),
        ("pipeline/registry/promotion.py", "register end_to_end", "gan study"),
        ("pipeline/search/scheduler.py", "search_replay search ray", "gan download"),
        ("tests/test_search.py", "search ray", "study"),
        ("tests/executor_tasks.py", "executors ray", "study"),
        ("docs/data.md", "packaging", "study end_to_end"),
    ],
)
def test_a_change_touches_the_tests_that_load_it_and_not_the_others(file: str, inside: str, outside: str) -> None:
    assert (ROOT / file).exists()
    found = set(changed_tests.touched([file]))
    assert {f"tests/test_{name}.py" for name in inside.split()} <= found
    assert not {f"tests/test_{name}.py" for name in outside.split()} & found


@pytest.mark.parametrize("file", ["params.yaml", "pyproject.toml", "tests/conftest.py", "pipeline/removed.py"])
def test_what_is_no_module_touches_every_test(file: str) -> None:
    assert changed_tests.touched([file]) == changed_tests.test_files()


def test_every_module_has_a_test_that_reaches_it() -> None:
    for module in graph().modules:
        assert len(changed_tests.touched([str(path_of(module))])) > 2, module


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_change_is_found_whether_it_is_committed_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        named = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        subprocess.run(["git", *named, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def commit(*names: str) -> None:
        for name in names:
            (tmp_path / name).write_text(name)
        git("add", "--all")
        git("commit", "-m", "one")

    monkeypatch.setattr(changed_tests, "ROOT", tmp_path)
    git("init", "-b", "main")
    commit("old", "edited", "removed")
    git("checkout", "-b", "mine")
    commit("committed")
    git("checkout", "main")
    commit("of-others")
    git("checkout", "mine")
    (tmp_path / "edited").write_text("edited by hand")
    (tmp_path / "removed").unlink()
    (tmp_path / "untracked").touch()
    assert changed_tests.changed_files("main") == {"committed", "edited", "removed", "untracked"}
    with pytest.raises(SystemExit, match=r"error: git merge-base unknown HEAD: .*; next: make test"):
        changed_tests.changed_files("unknown")
