"""Errors of pydantic as text, without the address of its website."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pydantic

_LISTED = 3  # faults that a text lists


def summary(error: pydantic.ValidationError) -> str:
    """Return the first faults of a value as text: the place, the error and the value."""
    faults = []
    for fault in error.errors()[:_LISTED]:
        where = ".".join(str(part) for part in fault["loc"])
        value = "" if fault["type"] == "missing" else f" ({json.dumps(fault['input'], default=str)[:40]})"
        faults.append(f"{where}: {fault['msg']}{value}" if where else f"{fault['msg']}{value}")
    more = error.error_count() - len(faults)
    return "; ".join(faults) + (f" and {more} more" if more else "")
