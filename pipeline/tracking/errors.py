"""Translates errors of MLflow, and of the libraries below it, into a `TrackingError` of one line without secrets."""

from __future__ import annotations

import base64
import functools
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, quote_plus

from pipeline.core import addresses
from pipeline.core.errors import TrackingError

# Packages whose errors are the server's, the database's or the network's, and not those of this project's code.
_PACKAGES = frozenset(
    {"mlflow", "sqlalchemy", "alembic", "requests", "urllib3", "botocore", "boto3", "google", "azure"}
)
_URIS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
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
    """Return a text without the credentials of the tracking server; see `addresses.redacted`."""
    for secret in sorted(_known_secrets(), key=len, reverse=True):
        text = text.replace(secret, addresses.HIDDEN)
    return addresses.redacted(text, *filter(None, map(os.environ.get, _URIS)))


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
    """Return the secrets in MLflow's environment variables, in every form in which a library may show them."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    secrets = {value for name in _SECRETS if (value := os.environ.get(name))}
    if not os.environ.get("MLFLOW_TRACKING_PASSWORD"):
        secrets.add(user)  # a user without a password is a token
    forms = {base64.b64encode(f"{user}:{secret}".encode()).decode() for secret in secrets}
    for secret in secrets:
        forms |= {secret, quote(secret), quote(secret, safe=""), quote_plus(secret)}
    return {form for form in forms if len(form) >= _SHORTEST}
