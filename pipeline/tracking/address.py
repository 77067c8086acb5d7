"""The address in MLFLOW_TRACKING_URI: what MLflow would misread, found without a connection and without MLflow."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipeline.core.addresses import without_secrets

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
_QUOTES = "\"'`‘’“”"
_PLUGINS = "mlflow.tracking_store"  # entry points of packages that add schemes to MLflow
_BUILT_IN = ("databricks", "databricks-uc", "uc")
_MISSPELT = {"postgres": "postgresql", "sqlite3": "sqlite", "mariadb": "mysql"}
_HOST = re.compile(
    r"(?:[^/\s]*@)?(?:localhost|[\w-]+(?:\.[\w-]+)+|[\w-]+(?=:\d)|\[[0-9a-f:.]+\])(?::\d+)?(?:/.*)?", re.IGNORECASE
)
_DATABASE_FILES = (".db", ".sqlite", ".sqlite3")


@dataclass(frozen=True)
class Fault:
    """Why a tracking server cannot be used.

    Attributes:
        found: What is wrong.
        next_step: What to do about it.
        away: Whether it may work again although no setting changes.
    """

    found: str
    next_step: str
    away: bool = False


def scheme_of(uri: str) -> str:
    """Return an address's scheme in lower case, without the driver of a database; empty if it has none."""
    before, separator, _ = uri.partition(":")
    return before.partition("+")[0].lower() if separator and re.fullmatch(r"[A-Za-z][\w+.-]*", before) else ""


def is_http(uri: str) -> bool:
    """Return whether an address is that of a server on HTTP."""
    return scheme_of(uri) in _SERVERS


def fault(uri: str) -> Fault | None:
    """Return what is wrong with the form of an address; None if MLflow reads it as it is meant."""
    plain = uri.strip().strip(_QUOTES).strip()
    if plain != uri:
        return _instead("quotes or blanks around it", plain)
    scheme = scheme_of(uri)
    if scheme == "file":
        return _folder(Path(url2pathname(urlsplit(uri).path or uri.partition(":")[2])))
    if uri in _BUILT_IN or scheme in (*_BUILT_IN, *_plugin_schemes()):
        return None
    rest = uri.partition(":")[2]
    if scheme in _SERVERS:
        return None if re.match("//[^/]", rest) else _instead("no // before its host", f"{scheme}://{rest.lstrip('/')}")
    if scheme in DATABASES:
        slashes = "///" if scheme == "sqlite" else "//"
        if rest.startswith(slashes) or (scheme == "sqlite" and rest == "//"):
            return None
        found = f"{len(rest) - len(rest.lstrip('/'))} slashes after its scheme, and not {len(slashes)}"
        return _instead(found, f"{uri.partition(':')[0]}:{slashes}{rest.lstrip('/')}")
    if scheme in _MISSPELT:
        return _instead(f"the scheme {scheme}", f"{_MISSPELT[scheme]}:{rest}")
    if "://" in uri:
        found = f"the scheme {scheme}, which MLflow does not know" if scheme else "no scheme"
        return Fault(found, "set MLFLOW_TRACKING_URI to an address such as http://HOST:5000 or sqlite:///FILE")
    return _without_scheme(uri)


def _without_scheme(uri: str) -> Fault:
    """Return the fault of an address without ``://``: MLflow takes every one for a folder."""
    path = Path(uri).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.is_file() or path.suffix in _DATABASE_FILES:
        return _instead("the path of a file", f"sqlite:///{path}")
    if not uri.startswith(("/", ".", "~")) and _HOST.fullmatch(uri):
        return _instead("no http:// before its host", f"http://{uri}")
    return _folder(path)


def _folder(path: Path) -> Fault:
    return _instead("a folder, to which MLflow logs no longer", f"sqlite:///{path / 'mlflow.db'}")


def _instead(found: str, uri: str) -> Fault:
    """Return a fault with the address that was meant; a user and password in it are left out."""
    shown = without_secrets(uri)
    rest = "" if shown == uri else ", with its user and password"
    return Fault(found, f"export MLFLOW_TRACKING_URI={shlex.quote(shown)}{rest}")


def _plugin_schemes() -> set[str]:
    return {entry.name for entry in importlib.metadata.entry_points(group=_PLUGINS)}
