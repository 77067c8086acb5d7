"""The names of datasets and families, which become shell words, parts of paths, and names of stages and models."""

from __future__ import annotations

import re

from pipeline.core.errors import ParamsError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SHOWN = 40  # characters of a refused name


def checked(name: object, place: str) -> str:
    """Return a name that can be used everywhere.

    Args:
        name: What the user typed or wrote into params.yaml.
        place: Where: ``params.yaml: datasets``, ``--dataset``.

    Raises:
        ParamsError: The name could mean something else to a shell, a file system, DVC or MLflow.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    shown = ascii(name)  # a look-alike by its code, a line break as \\n
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    raise ParamsError(
        f"{place}: not a name",
        expected="a letter or digit, then up to 63 letters, digits, - or _ (A to Z and a to z)",
        found=shown,
        next_step="choose another",
    )


def dataset(text: str) -> str:
    """Return the value of ``--dataset``; see `checked`."""
    return checked(text, "--dataset")


def family(text: str) -> str:
    """Return the value of ``--family``; see `checked`."""
    return checked(text, "--family")
