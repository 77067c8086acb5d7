"""Relative paths in the environment, which are relative to where the command was typed.

A command starts its stages in another folder, where a relative path would be another file. So paths become absolute
before anything is started or printed. A plain `dvc repro` starts stages in the project's root: there, relative paths
are relative to the root.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

URIS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_PATHS = (
    "TMPDIR",
    "DVC_SITE_CACHE_DIR",
    "DVC_GLOBAL_CONFIG_DIR",
    "DVC_SYSTEM_CONFIG_DIR",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "KERAS_HOME",
    "MPLCONFIGDIR",
    "RAY_TMPDIR",
)
_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(?!/|file:|:memory:)([^?]+)(.*)", re.DOTALL | re.IGNORECASE)
_FILE = re.compile(r"file:(?!/)(?P<path>.+)", re.DOTALL | re.IGNORECASE)
_typed: dict[str, tuple[str, str]] = {}  # by variable: as it was typed, and as it is now


def resolve() -> None:
    """Make paths in the environment absolute; what was typed stays available by `typed`."""
    if not _working_directory_exists():
        return
    for name in (*URIS, *_PATHS):
        if before := os.environ.get(name):
            after = absolute_uri(before) if name in URIS else str(Path(before).absolute())
            if after != before:
                _typed[name] = (before, after)
                os.environ[name] = after


def typed(name: str) -> str:
    """Return the value of an environment variable as it was typed, before `resolve`; empty if there is none."""
    now = os.environ.get(name, "")
    before, after = _typed.get(name, ("", ""))
    return before if now and now == after else now


def absolute_uri(uri: str, base: Path | None = None) -> str:
    """Return the address of a database or folder with an absolute path; any other address as it is.

    Args:
        uri: ``sqlite:///team.db``, ``file:runs``, ``./runs``, ``https://host``.
        base: What a relative path is relative to; None for the working directory.
    """
    if match := _SQLITE.fullmatch(uri):
        path = str(_absolute(unquote(match[2]), base))  # SQLAlchemy decodes it
        return f"{match[1]}{path.replace('%', '%25').replace('?', '%3F')}{match[3]}"
    if match := _FILE.fullmatch(uri):
        return _absolute(match["path"], base).as_uri()
    first, slash, _ = uri.partition("/")
    return str(_absolute(uri, base)) if slash and first and ":" not in first else uri


def local_path(uri: str) -> Path | None:
    """Return the file of a SQLite database, or the folder of a file store; None for any other address."""
    scheme, separator, rest = uri.partition(":///")
    if separator and scheme.lower().partition("+")[0] == "sqlite":
        path = unquote(rest.partition("?")[0])
        return None if not path or path.startswith((":memory:", "file:")) else Path(path)
    if match := _FILE.fullmatch(uri):
        return Path(match["path"])
    if uri.lower().startswith("file:///"):
        return Path(unquote(urlsplit(uri).path))
    first, slash, _ = uri.partition("/")
    return Path(uri) if slash and ":" not in first else None


def _working_directory_exists() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _absolute(path: str, base: Path | None) -> Path:
    """Return an absolute path without ``..``; a link at its end stays one."""
    found = (base or Path()).absolute() / path
    return found.parent.resolve() / found.name
