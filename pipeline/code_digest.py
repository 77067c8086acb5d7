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
    """Tell whether a statement has none of its own: an import, a docstring, or imports for type checkers."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test).endswith("TYPE_CHECKING")
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant or isinstance(node, ast.Import | ast.ImportFrom)
