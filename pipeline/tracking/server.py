"""The tracking server: its address, whether it answers, and how long MLflow tries."""

from __future__ import annotations

import os
import socket
from types import ModuleType

from pipeline.core import credentials
from pipeline.core.addresses import without_secrets
from pipeline.core.errors import TrackingError

DEFAULT_URI = "sqlite:///mlflow.db"
ANSWER_S = 10.0  # what a server may take to answer a request for its health
_REFUSED = (401, 403)
_FAILING = 500  # this HTTP status and those above it
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
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
    """Check that the tracking server answers.

    Raises:
        TrackingError: It does not.
    """
    if reason := unavailable():
        raise unusable(reason)


def unavailable(timeout_s: float = ANSWER_S) -> str | None:
    """Return why the tracking server cannot be used; None if it answers or is a file.

    A server on HTTP is sent one request, by MLflow itself: with the user's credentials, certificates and plugins. Any
    answer counts but an error of the server or a refusal of the credentials; some servers that speak MLflow's protocol
    have no ``/health``.
    """
    credentials.move_to_environment()
    uri = tracking_uri()
    scheme = uri.partition("://")[0].partition("+")[0].lower()
    if scheme in ("http", "https"):
        return _http(uri, timeout_s)
    return _database(uri, _PORTS[scheme], timeout_s) if scheme in _PORTS else None


def unusable(found: str) -> TrackingError:
    """Return the error for a tracking server that cannot be used."""
    return TrackingError(
        "the tracking server cannot be used",
        expected=f"an MLflow server at {shown_uri()}",
        found=found,
        next_step="check MLFLOW_TRACKING_URI; unset, runs go to mlflow.db here",
    )


def _http(uri: str, timeout_s: float) -> str | None:
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        answer = http_request(
            get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=timeout_s, raise_on_status=False
        )
    except MlflowException as error:
        return _reason(error.__cause__ or error.__context__ or error)
    if answer.status_code in _REFUSED:
        return f"HTTP {answer.status_code}: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD are missing or wrong"
    return f"HTTP {answer.status_code}" if answer.status_code >= _FAILING else None


def _reason(error: BaseException) -> str:
    """Return an error of the network by its name: its text may repeat the address, with a password in it."""
    below = getattr(error.args[0], "reason", None) if error.args else None  # of urllib3, below a vague ConnectionError
    name = type(below or error).__name__
    if name == "SSLError":
        return f"{name}: its certificate is not trusted; see MLFLOW_TRACKING_SERVER_CERT_PATH and REQUESTS_CA_BUNDLE"
    return name


def _database(uri: str, default_port: int, timeout_s: float) -> str | None:
    """Return why a database server does not accept connections: MLflow itself would retry for 100 s."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        return "an address that cannot be read"
    if not url.host or url.host.startswith("/"):
        return None  # a socket of this machine, or a host that the query names
    try:
        socket.create_connection((url.host, url.port or default_port), timeout_s).close()
    except OSError as error:
        return f"{type(error).__name__} when connecting"
    return None
