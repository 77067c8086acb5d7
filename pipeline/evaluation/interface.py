"""Inputs and outputs of a task's models, from which MLflow's signature is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Pixels:
    """Arrays of dtype uint8 and shape (N, *shape)."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Column:
    """A column of a data frame; ``doubles`` is a list of numbers per row."""

    name: str
    kind: Literal["long", "string", "doubles"]
    required: bool = True


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of models.

    Attributes:
        inputs: What a caller sends.
        outputs: What the model returns.
        example: An example of the inputs.
    """

    inputs: Pixels | tuple[Column, ...]
    outputs: Pixels | tuple[Column, ...]
    example: Any
