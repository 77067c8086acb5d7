"""Rulers: they measure."""

from __future__ import annotations

from typing import Any, ClassVar

from pipeline.models.base import BaseFamily, Fitted
from pipeline.models.space import Choice, Space


class Family(BaseFamily):
    """Names its task and how it is served; this test does not train it."""

    task: ClassVar[str] = "measure"
    serving: ClassVar[str] = "ruler"
    objective: ClassVar[str] = "val_value"
    space: ClassVar[Space] = {"marks": Choice(choices=(10, 100))}

    def fit(self, *arguments: Any, **named: Any) -> Fitted:
        """Not called."""
        raise NotImplementedError
