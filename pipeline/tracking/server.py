"""The tracking server: its address, whether it answers, and how long MLflow tries."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pipeline.core import credentials
from pipeline.core.addresses import without_secrets
from pipeline.core.errors import TrackingError
from pipeline.tracking import address, artifacts, database
from pipeline.tracking.address import Fault

DEFAULT_URI = "sqlite:///mlflow.db"
ANSWER_S = 3.0  # what a server may take to answer a request for its version
OLDEST = (3, 17)  # release of a server: the oldest that the tests run against
_REFUSED = (401, 403)
_FAILING = 500  # this HTTP status and those above it
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_VERSION = re.compile(r"\s*\"?(?P<text>(?P<major>\d+)\.(?P<minor>\d+)[\w.+-]*)\"?\s*")
_NEWEST = "/api/2.0/mlflow/logged-models/search"  # the newest of MLflow's calls that are used here; it changes nothing
_NO_SUCH_CALL = "ENDPOINT_NOT_FOUND"
_CHECK = "check MLFLOW_TRACKING_URI; unset, runs go to mlflow.db here"
# MLflow's own limits, 7 retries of 120 s, let a call wait for 8 minutes where nobody answers, and for 16 where a server
# hangs. With these it is 15 s and 2 minutes. A value that the user has set stays.
_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
_CHATTY = {
    "alembic": "WARNING",
    "mlflow.store": "WARNING",
    "mlflow.pyfunc": "WARNING",
    "mlflow.store.db.utils": "CRITICAL",  # it logs a traceback of each error that it raises, passwords included
    "mlflow.utils.environment": "ERROR",  # an environment by uv has no pip to pin
    "urllib3.connectionpool": "ERROR",  # it logs each retry
}


def tracking_uri() -> str:
    """Return where runs are logged: MLFLOW_TRACKING_URI, else a database in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def shown_uri() -> str:
    """Return the tracking URI without secrets, for messages."""
    return without_secrets(tracking_uri())


def load_mlflow() -> ModuleType:
    """Import MLflow, which takes 3 s, without telemetry and chatter, with limits on its retries."""
    credentials.move_to_environment()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name, value in _LIMITS.items():
        os.environ.setdefault(name, value)
    import logging

    import mlflow
    import mlflow.exceptions
    import mlflow.pyfunc

    for name, level in _CHATTY.items():
        logging.getLogger(name).setLevel(level)
    module: ModuleType = mlflow
    return module


def require() -> None:
    """Check that the tracking server can be used, and upgrade the SQLite file of an older MLflow.

    Raises:
        TrackingError: It cannot.
    """
    found = examine()
    if found.fault:
        raise unusable(found.fault)
    if found.outdated:
        database.upgrade(tracking_uri(), lambda line: print(line, file=sys.stderr, flush=True))


@dataclass(frozen=True)
class Examination:
    """What is known about the tracking server.

    Attributes:
        fault: Why it cannot be used; None if it can.
        outdated: Revision of a SQLite file of an older MLflow, which the next run upgrades; empty for all else.
    """

    fault: Fault | None = None
    outdated: str = ""


def examine(experiments: Iterable[str] = (), timeout_s: float = ANSWER_S, *, write: bool = True) -> Examination:
    """Find out whether the tracking server can be used: its address, its release, its database, its artifacts.

    A server on HTTP is sent its requests by MLflow itself: with the user's credentials, certificates and plugins. No
    run, experiment or table changes.

    Args:
        experiments: Experiments whose artifacts must be within reach, where they exist.
        timeout_s: What the server may take to answer.
        write: False leaves a SQLite file alone in which a killed process was writing.
    """
    credentials.move_to_environment()
    uri = tracking_uri()
    if found := address.fault(uri):
        return Examination(found)
    if address.is_http(uri):
        return Examination(_http(uri, timeout_s) or _artifacts_of_server(uri, experiments))
    if address.scheme_of(uri) not in address.DATABASES:
        return Examination()  # a plugin of MLflow
    if found := _unreachable(uri, timeout_s):
        return Examination(found)
    contents = database.examine(uri, timeout_s=timeout_s, write=write)
    if isinstance(contents, Fault):
        return Examination(contents)
    named = [contents.artifacts[name] for name in experiments if name in contents.artifacts]
    faults = (artifacts.fault(uri, location) for location in named)
    return Examination(next(filter(None, faults), None), contents.revision if contents.state == "older" else "")


def unavailable(timeout_s: float = ANSWER_S) -> str | None:
    """Return why the tracking server cannot be used; None if it can. See `examine`."""
    found = examine(timeout_s=timeout_s).fault
    return found.found if found else None


def unusable(found: Fault | str) -> TrackingError:
    """Return the error for a tracking server that cannot be used."""
    if isinstance(found, str):
        found = Fault(found, _CHECK)
    return TrackingError(
        "the tracking server cannot be used",
        expected=f"an MLflow server at {shown_uri()}",
        found=found.found,
        next_step=found.next_step,
    )


def require_artifacts(location: str) -> None:
    """Check that this process can store artifacts where an experiment keeps them.

    Raises:
        TrackingError: It cannot.
    """
    if found := artifacts.fault(tracking_uri(), location):
        raise unusable(found)


def _http(uri: str, timeout_s: float) -> Fault | None:
    """Return why a server on HTTP cannot be used: it is away, is no MLflow, or is older than what the tests run on."""
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    def request(path: str, method: str, **content: Any) -> Any:
        return http_request(
            get_default_host_creds(uri),
            path,
            method,
            max_retries=0,
            timeout=timeout_s,
            raise_on_status=False,
            **content,
        )

    try:
        answer = request("/version", "GET")
        if (found := _refused(answer.status_code)) is not None:
            return found
        version = _VERSION.fullmatch(answer.text[:100]) if answer.ok else None
        if version:
            return _too_old(version)
        newest = request(_NEWEST, "POST", json={"experiment_ids": ["0"], "max_results": 1})
    except MlflowException as error:
        return Fault(_reason(error.__cause__ or error.__context__ or error), _CHECK, away=True)
    return _refused(newest.status_code) or _no_api(newest)


def _refused(status: int) -> Fault | None:
    if status in _REFUSED:
        names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return Fault(f"HTTP {status}: {names} are missing or wrong", f"set {names} as that server knows them")
    return Fault(f"HTTP {status}", _CHECK, away=True) if status >= _FAILING else None


def _too_old(version: re.Match[str]) -> Fault | None:
    if (int(version["major"]), int(version["minor"])) >= OLDEST:
        return None
    oldest = ".".join(map(str, OLDEST))
    return Fault(f"MLflow {version['text']}, older than {oldest}", f"upgrade that server to MLflow {oldest} or later")


def _no_api(answer: Any) -> Fault | None:
    """Return the fault of a server that does not know the newest of MLflow's calls that are used here."""
    try:
        code = answer.json().get("error_code", "")
        known = answer.ok or (code and code != _NO_SUCH_CALL)
    except (ValueError, AttributeError):  # a page
        known = False
    oldest = ".".join(map(str, OLDEST))
    found = f"HTTP {answer.status_code}, and not the answer of MLflow {oldest} or later"
    return None if known else Fault(found, f"set MLFLOW_TRACKING_URI to a server of MLflow {oldest} or later")


def _artifacts_of_server(uri: str, experiments: Iterable[str]) -> Fault | None:
    """Return why artifacts of some experiments are out of reach; of the default one for those that do not exist yet."""
    mlflow = load_mlflow()
    client = mlflow.MlflowClient(uri)
    for name in dict.fromkeys(experiments):
        with suppress(mlflow.exceptions.MlflowException):
            found = client.get_experiment_by_name(name) or client.get_experiment("0")
            if fault := artifacts.fault(uri, found.artifact_location):
                return fault
    return None


def _reason(error: BaseException) -> str:
    """Return an error of the network by its name: its text may repeat the address, with a password in it."""
    below = getattr(error.args[0], "reason", None) if error.args else None  # of urllib3, below a vague ConnectionError
    name = type(below or error).__name__
    if name == "SSLError":
        return f"{name}: its certificate is not trusted; see MLFLOW_TRACKING_SERVER_CERT_PATH and REQUESTS_CA_BUNDLE"
    return name


def _unreachable(uri: str, timeout_s: float) -> Fault | None:
    """Return why a database server does not accept connections: MLflow itself would retry for 100 s."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        return Fault("an address that cannot be read", _CHECK)
    if not url.host or url.host.startswith("/"):
        return None  # a file, a socket of this machine, or a host that the query names
    try:
        port = url.port or _PORTS[url.get_backend_name()]
        socket.create_connection((url.host, port), timeout_s).close()
    except (OSError, KeyError) as error:
        return Fault(f"{type(error).__name__} when connecting", _CHECK, away=True)
    return None
