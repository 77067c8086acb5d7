"""What a stage can load: static imports, as grimp finds them, and modules that are loaded by a name."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
FAMILIES = "pipeline.models.families"
_TASK = re.compile(
    r"(pipeline(?:\.\w+)+)(?::\w+)?"
)  # "pipeline.models.training.task:run", as work is named for workers


@functools.cache
def graph() -> grimp.ImportGraph:
    """Return the import graph of the package, imports inside of functions included, those for type checkers not."""
    return grimp.build_graph("pipeline", exclude_type_checking_imports=True, cache_dir=None)


def path_of(module: str) -> Path:
    """Return the file of a module, relative to the project's root."""
    path = Path(*module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


def families() -> set[str]:
    """Return the names of all families."""
    return {child.rpartition(".")[2] for child in graph().find_children(FAMILIES)}


def named(text: str, known: set[str]) -> Iterator[str]:
    """Yield the modules that source text names in strings: whole, or as ``f"pipeline.<package>.{name}"``.

    A package stands for the modules that can be loaded from it by a name.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "find_spec")):
            argument = node.args[0]
            first = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
            if isinstance(first, ast.Constant) and str(first.value).startswith("pipeline."):
                yield str(first.value).removesuffix(".")
            elif isinstance(first, ast.FormattedValue):
                raise AssertionError(f"unknown which modules {ast.unparse(node)} loads")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = _TASK.fullmatch(node.value)
            if match and match[1] in known:
                yield match[1]


@functools.cache
def loads(module: str) -> frozenset[str]:
    """Return the modules and packages that a module loads by a name."""
    return frozenset(named((ROOT / path_of(module)).read_text(encoding="utf-8"), graph().modules))


def choices(package: str, family: str | None) -> set[str]:
    """Return what can be loaded from a package: one family's module, or every module that can be chosen there."""
    if package == FAMILIES:
        return {f"{FAMILIES}.{name}.family" for name in ({family} if family else families())}
    children = set(graph().find_children(package))
    if package == "pipeline.evaluation":  # tasks lie beside what they share
        return {
            child
            for child in children
            if "class Task(base.Task[" in (ROOT / path_of(child)).read_text(encoding="utf-8")
        }
    return children or {package}


def closure(stage: str, family: str | None) -> set[str]:
    """Return every module that a stage can load, itself included, but for packages: they hold a docstring only."""
    todo, seen = {f"pipeline.stages.{stage}"}, set[str]()
    while todo:
        seen |= todo
        found = {other for name in todo for other in graph().find_modules_directly_imported_by(name)}
        found |= {choice for name in todo for package in loads(name) for choice in choices(package, family)}
        todo = found - seen
    return {name for name in seen if path_of(name).name != "__init__.py"}
