"""Print the test files that a change touches, for ``make test-changed``: those whose imports reach a changed module.

A change is what git finds between the commit where the branch left main and the files as they are now, untracked ones
included. Text for readers touches no test of its own; whatever else is no module of the package touches every test.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from collections.abc import Iterable

from tests.import_graph import ROOT, choices, graph, loads, path_of

_ALWAYS = {"tests/test_graph.py", "tests/test_packaging.py"}  # they read the whole repository
_TEXT = re.compile(r"docs/.*|[^/]+\.md|LICENSE")
_NAME = re.compile(r"pipeline(?:\.\w+)+")
_STARTS_STAGES = {"pipeline.cli.main", "pipeline.project.dvc"}  # DVC imports no stage: it runs them all


def test_files() -> list[str]:
    """Return every test file, relative to the project's root."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("test_*.py"))


def changed_files(base: str) -> set[str]:
    """Return the files that differ from where this branch left another one."""

    def git(*arguments: str) -> list[str]:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"error: git {' '.join(arguments)}: {done.stderr.strip()}; next: make test")
        return done.stdout.splitlines()

    [fork] = git("merge-base", base, "HEAD")
    return {*git("diff", "--name-only", "--no-renames", fork), *git("ls-files", "--others", "--exclude-standard")}


def touched(changed: Iterable[str]) -> list[str]:
    """Return the test files that changed files touch."""
    code = {file for file in changed if not _TEXT.fullmatch(file)}
    known = {str(path_of(module)) for module in graph().modules} | set(_helpers().values()) - {"tests/conftest.py"}
    if not code <= known:
        return test_files()
    return [test for test in test_files() if test in _ALWAYS or code & _reached(test)]


@functools.cache
def _helpers() -> dict[str, str]:
    """Return the files of the tests' folder by name: tests import each other, and scripts that they start."""
    return {path.stem: str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("*.py")}


@functools.cache
def _reached(test: str) -> frozenset[str]:
    """Return a test file, and the files of the package and of the tests' folder that it imports, names or starts."""
    todo, files, begun = {test}, set[str](), set[str]()
    while todo:
        files |= todo
        texts = [(ROOT / file).read_text(encoding="utf-8") for file in todo]
        begun |= {module for text in texts for module in _named(text)}
        words = {word for text in texts for word in re.findall(r"\w+", text)}
        todo = {_helpers()[word] for word in words & _helpers().keys()} - files
    everything = graph().modules if begun & _STARTS_STAGES else _closure(begun)
    return frozenset(files | {str(path_of(module)) for module in everything})


def _named(text: str) -> set[str]:
    """Return the modules that source text imports, or names in a string: as a command, or as work for a worker."""
    found = set[str]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(_NAME.findall(node.value))
    return found & graph().modules


def _closure(begun: set[str]) -> set[str]:
    """Return the modules that some modules can load, themselves included."""
    todo, seen = begun, set[str]()
    while todo:
        seen |= todo
        found = {other for name in todo for other in graph().find_modules_directly_imported_by(name)}
        found |= {choice for name in todo for package in loads(name) for choice in choices(package, None)}
        todo = found - seen
    return seen


if __name__ == "__main__":
    print(*touched(changed_files("main")))
