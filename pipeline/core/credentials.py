"""Moves credentials out of addresses, so that no message, traceback or command line can show them."""

from __future__ import annotations

import os
from urllib.parse import unquote

_URI = "MLFLOW_TRACKING_URI"
_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


def move_to_environment() -> None:
    """Move user and password of MLFLOW_TRACKING_URI to the environment variables from which MLflow reads them.

    Call it before MLflow is imported and before another process is started. Only servers on HTTP take their credentials
    from those variables: the address of a database stays as it is, and messages show it without its secrets.
    """
    scheme, separator, rest = os.environ.get(_URI, "").strip().partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return
    user_info, host = _split(rest)
    if not user_info:
        return
    user, given, password = user_info.partition(":")
    os.environ[_URI] = f"{scheme}://{host}"
    os.environ[_USER] = unquote(user)
    if given:
        os.environ[_PASSWORD] = unquote(password)


def _split(rest: str) -> tuple[str, str]:
    """Return user and password, and the rest of an address after its scheme.

    Where the address keeps to the standard, the user ends at the last ``@`` before the path. A password that holds a
    ``/``, ``?`` or ``#`` as it is makes the port unreadable: then the user ends at the last ``@`` of all.
    """
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    authority = rest[:end]
    user_info, found, host = authority.rpartition("@")
    if found:
        return user_info, host + rest[end:]
    port = authority.rpartition(":")[2] if ":" in authority else "0"
    if port.isdigit() or authority.startswith("["):
        return "", rest  # an @ in the path is part of the path
    user_info, _, host = rest.rpartition("@")
    return (user_info, host) if user_info else ("", rest)
