"""Translates errors of MLflow, and of the libraries below it, into a `TrackingError` of one line without secrets."""

from __future__ import annotations

import base64
import functools
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from pipeline.core.addresses import without_secrets
from pipeline.core.errors import TrackingError

# Packages whose errors are the server's, the database's or the network's, and not those of this project's code.
_PACKAGES = frozenset(
    {"mlflow", "sqlalchemy", "alembic", "requests", "urllib3", "botocore", "boto3", "google", "azure"}
)
_URIS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_SHORTEST = 4  # shorter secrets would also blank out parts of ordinary words
_LONGEST_TEXT = 300
_AGAIN = "check the server; finished work is kept, and the same command continues from there"


@contextmanager
def translated() -> Iterator[None]:
    """Raise errors of MLflow and of the libraries below it as a `TrackingError`.

    The error is also an `MlflowException` with its `error_code`, so that a caller can handle a code.
    """
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _PACKAGES:
            raise
        raise _translation(error) from None


def release_session(error: BaseException) -> None:
    """Release the database session of a call that was interrupted: the frames of the error hold it, and so a lock.

    SQLAlchemy closes a session that an error leaves, but not always the cursor of a statement that Ctrl-C cuts short.
    """
    traceback.clear_frames(error.__traceback__)


def redacted(text: str) -> str:
    """Return a text without credentials: known secrets are replaced, addresses shortened."""
    for secret in sorted(_known_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _ADDRESS.sub(lambda found: without_secrets(found.group()), text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error without secrets."""
    lines = [line.strip() for line in redacted(str(error)).splitlines() if line.strip()]
    return lines[0][:_LONGEST_TEXT] if lines else type(error).__name__


def _translation(error: Exception) -> TrackingError:
    text = str(error)
    what, next_step = "the tracking server failed", _AGAIN
    if "database is locked" in text:
        what, next_step = "the tracking database is locked", "wait for the process that uses it, and run this again"
    elif "database or disk is full" in text:
        what, next_step = "no space left for the tracking database", "make room and run the same command again"
    elif "must be in the 'active' state" in text:
        what, next_step = (
            "the run or experiment was deleted",
            "restore it in MLflow, or remove it for good: `mlflow gc`",
        )
    translation: Any = _error_type()(what, found=first_line(error), next_step=next_step)
    translation.error_code = getattr(error, "error_code", "TEMPORARILY_UNAVAILABLE")
    return translation  # type: ignore[no-any-return]


@functools.cache
def _error_type() -> type[TrackingError]:
    from mlflow.exceptions import MlflowException

    class MlflowTrackingError(TrackingError, MlflowException):
        """An error of MLflow as a `TrackingError`."""

    return MlflowTrackingError


def _known_secrets() -> set[str]:
    """Return the secrets in the environment, in every form in which a library may show them."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    secrets = {value for name in _SECRETS if (value := os.environ.get(name))}
    if not os.environ.get("MLFLOW_TRACKING_PASSWORD"):
        secrets.add(user)  # a user without a password is a token
    forms = {base64.b64encode(f"{user}:{secret}".encode()).decode() for secret in secrets}
    for uri in filter(None, map(os.environ.get, _URIS)):
        rest = uri.partition("://")[2]
        user_info = rest.rpartition("@")[0]
        secrets |= {user_info, user_info.partition(":")[2]}
        _, _, query = rest.rpartition("@")[2].partition("?")
        secrets |= {query, *(part.partition("=")[2] for part in re.split("[&;#]", query))}
    for secret in secrets:
        forms |= {secret, unquote(secret), quote(secret), quote(secret, safe=""), quote_plus(secret)}
    return {form for form in forms if len(form) >= _SHORTEST}
