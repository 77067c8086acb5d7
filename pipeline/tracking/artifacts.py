"""Where an experiment keeps its artifacts, and whether this process can store any there."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipeline.core.files import unwritable
from pipeline.tracking.address import Fault, is_http
from pipeline.tracking.errors import first_line

_OTHER_PLACE = "let this user write there, or set MLFLOW_TRACKING_URI to another server or database"
_SERVED = "mlflow-artifacts"  # scheme of artifacts that only MLflow's server reads and writes


def fault(tracking_uri: str, location: str) -> Fault | None:
    """Return why artifacts cannot be stored in a place; None if they can, as far as reading there shows.

    Args:
        tracking_uri: Address of the server or database that holds the experiment.
        location: Where the experiment keeps its artifacts.
    """
    scheme = urlsplit(location).scheme
    if scheme == _SERVED and not is_http(tracking_uri):
        return Fault(
            f"an experiment whose artifacts only MLflow's server can reach ({location})",
            "set MLFLOW_TRACKING_URI to the http:// address of the server that made it, or to another database",
        )
    if scheme in ("", "file"):
        folder = Path(url2pathname(urlsplit(location).path))
        reason = unwritable(folder)
        return Fault(f"artifacts in {folder}: {reason}", _OTHER_PLACE) if reason else None
    return _listing_fault(tracking_uri, location)


def _listing_fault(tracking_uri: str, location: str) -> Fault | None:
    """Return why a store of artifacts cannot be listed: a missing package, credentials, a server that serves none."""
    import mlflow.artifacts

    try:
        mlflow.artifacts.list_artifacts(artifact_uri=location, tracking_uri=tracking_uri)
    except ImportError as error:
        return Fault(f"artifacts in {location}, which need the package {error.name}", "install that package")
    except Exception as error:  # noqa: BLE001 (each store has errors of its own)
        next_step = "check the credentials of that store, and that MLflow's server was started with --serve-artifacts"
        return Fault(f"artifacts in {location}, which cannot be listed: {first_line(error)}", next_step)
    return None
