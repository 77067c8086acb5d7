"""A digest of what code does, for names of results that are found again: comments, layout and folders leave it alone.

The parsed code is hashed without docstrings, import statements and positions. So prose, formatting and a file that
moves change nothing, while a constant, an operator or a renamed symbol does.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]
_MODULE = re.compile(r"pipeline((?:\.\w+)+)(\.?)")  # a module of this package, named in a string


def code_digest(files: Iterable[Path]) -> str:
    """Return the digest of some Python files, in any order and wherever they lie.

    Args:
        files: Source files.

    Raises:
        SyntaxError: A file is not Python.
    """
    digests = sorted(_file_digest(path, path.stat().st_mtime_ns) for path in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def imported_files(files: Iterable[Path], packages: tuple[str, ...]) -> set[Path]:
    """Return some files of this package and those that they import, directly or not, wherever the import stands.

    Args:
        files: Source files to begin with.
        packages: Only modules in these packages of `pipeline` are followed, such as ``models``.
    """
    found: set[Path] = set()
    todo = set(files)
    while todo:
        found |= todo
        named = {name for path in todo for name in _imports(path, path.stat().st_mtime_ns)}
        inside = {name for name in named if name.startswith(tuple(f"pipeline.{package}." for package in packages))}
        paths = {_PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in inside}
        todo = {path for path in paths if path.exists()} - found
    return found


@functools.cache
def _imports(path: Path, version: int) -> set[str]:
    """Return the dotted names that a file imports, those of symbols among them."""
    del version
    tree = ast.parse(path.read_bytes(), filename=str(path))
    typing_only = {
        id(inner) for node in ast.walk(tree) if _for_types(node) for inner in ast.walk(node) if inner is not node
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing_only:
            names |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import) and id(node) not in typing_only:
            names |= {alias.name for alias in node.names}
    return names


@functools.cache
def _file_digest(path: Path, version: int) -> str:
    del version  # a file that was written again is read again
    tree = ast.parse(path.read_bytes(), filename=str(path))
    return hashlib.sha256(repr(_essence(tree)).encode()).hexdigest()


def _essence(node: Any) -> Any:
    """Return a node as nested tuples, without what has no effect and what Python's versions add with no value."""
    if isinstance(node, ast.AST):
        fields = ((name, _essence(value)) for name, value in ast.iter_fields(node) if not _ignored(node, name))
        return type(node).__name__, tuple((name, value) for name, value in fields if value not in (None, ()))
    if isinstance(node, list):
        return tuple(_essence(item) for item in node if not _no_effect(item))
    if isinstance(node, str):
        return _MODULE.sub(lambda match: match[1].rpartition(".")[2] + match[2], node)
    return (type(node).__name__, repr(node)) if node is not None else None


def _ignored(node: ast.AST, field: str) -> bool:
    return field in ("kind", "type_comment", "type_ignores") or (isinstance(node, ast.ImportFrom) and field == "level")


def _no_effect(node: Any) -> bool:
    """Return whether a statement has none of its own: an import, a docstring, or imports for type checkers."""
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant or _for_types(node) or isinstance(node, ast.Import | ast.ImportFrom)


def _for_types(node: Any) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
