"""The section `register` of params."""

from __future__ import annotations

from typing import Annotated

import pydantic

from pipeline.core import names, params


def _prefix(text: str) -> str:
    return names.checked(text, "register.prefix") if text else text


class RegisterSettings(params.Settings):
    """Section `register` of params.

    Attributes:
        alpha: Level of the paired test.
        prefix: Beginning of the names of registered models, so that teams can share a server.
    """

    alpha: float = pydantic.Field(gt=0, lt=1)
    prefix: Annotated[str, pydantic.AfterValidator(_prefix)]
