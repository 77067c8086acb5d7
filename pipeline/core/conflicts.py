"""Merge conflicts that git has left in a file."""

from __future__ import annotations

import re
from pathlib import Path

_MARK = re.compile(r"(?:<{7}|\|{7}|>{7})(?: .*)?|={7}")


def conflict(text: str) -> str | None:
    """Return the place of the first conflict marker in a text, for an error: ``a merge conflict in line 3``."""
    for number, line in enumerate(text.split("\n"), 1):
        if _MARK.fullmatch(line.rstrip("\r")):
            return f"a merge conflict in line {number}"
    return None


def conflict_in(path: Path) -> str | None:
    """Return the place of the first conflict marker in a file; None if there is none, or it cannot be read."""
    try:
        return conflict(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
