"""The section `register` of params."""

from __future__ import annotations

import pydantic

from pipeline.core import params


class RegisterSettings(params.Settings):
    """Section `register` of params.

    Attributes:
        alpha: Level of the paired test.
        prefix: Beginning of the names of registered models, so that teams can share a server.
    """

    alpha: float = pydantic.Field(gt=0, lt=1)
    prefix: str = pydantic.Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$", max_length=64)
