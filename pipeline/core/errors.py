"""The errors that users can meet, each with a one-line message.

A message states what was worked on, what was expected, what was found, what was done about it and what to do next.
Passwords and other secrets of addresses in it are hidden.
Anything that is not a `PipelineError` is a bug, and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pipeline.core.addresses import redacted

_MOST = 2000  # characters of a part of a message (chosen)
_LONGEST = 200  # characters of a value in a message


class PipelineError(Exception):
    """Something went wrong that the user can understand and act on.

    Args:
        what: The thing worked on and what is wrong with it: ``mnist: train-images-idx3-ubyte.gz has the wrong sha256``.
        expected: What should have been there.
        found: What was there instead.
        done: What was done about it, such as ``file removed``.
        next_step: What the user can do now.
    """

    def __init__(
        self,
        what: str,
        *,
        expected: object = None,
        found: object = None,
        done: str | None = None,
        next_step: str | None = None,
    ) -> None:
        parts = []
        if expected is not None:
            parts.append(f"expected {_bounded(expected)}")
        if found is not None:
            parts.append(f"found {_bounded(found)}")
        what = _bounded(what)
        message = what if not parts else f"{what}: {', '.join(parts)}"
        for prefix, text in (("", done), ("next: ", next_step)):
            if text is not None:
                message += f"; {prefix}{text}"
        super().__init__(redacted(" ".join(message.split())))


def _bounded(part: object) -> str:
    """Return a part of a message: a file from elsewhere may hold names of any length.

    Secrets are removed first: half of an address would not be recognised as one.
    """
    text = redacted(str(part))
    return text if len(text) <= _MOST else f"{text[: _MOST // 2]} … {text[-_MOST // 2 :]}"


class ParamsError(PipelineError):
    """A setting is unknown, missing, of the wrong type or out of range."""


class DownloadError(PipelineError):
    """A file could not be fetched, or is not the file that was pinned."""


class DataError(PipelineError):
    """A file or an array is damaged, lies about itself, or is not what its format says."""


class GateError(PipelineError):
    """Data did not meet an expectation of the validation gate."""


class EngineError(PipelineError):
    """Training could not be carried out: every trial failed, or workers kept dying."""


class TrackingError(PipelineError):
    """The MLflow tracking server or registry is out of reach, or lacks what was recorded."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``expected`` text for an unknown name: the nearest known one first, then all of them."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listed = "one of " + ", ".join(names) if names else "none is defined"
    return f"{close[0]!r}? ({listed})" if close else listed


def shown(value: object) -> str:
    """Return ``found`` text for a value from outside: its ``repr``, shortened where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or a list that contains itself
        return f"a value of type {type(value).__name__} that is too long to print"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
