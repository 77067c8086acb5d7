"""Tracking servers on this machine that break and recover when a test wants it."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class MlflowServer:
    """MLflow's server, in this process, on SQLite. All servers of one process share the first one's database."""

    def __init__(self, folder: Path) -> None:
        import mlflow
        from mlflow.server import ARTIFACTS_DESTINATION_ENV_VAR, SERVE_ARTIFACTS_ENV_VAR, app, constants, handlers

        os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = f"sqlite:///{folder / 'server.db'}"
        os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
        os.environ[SERVE_ARTIFACTS_ENV_VAR] = "true"
        os.environ[ARTIFACTS_DESTINATION_ENV_VAR] = str(folder / "artifacts")
        handlers._get_tracking_store()  # it sets the tracking URI of the process, once: the client's comes after it
        handlers._get_model_registry_store()  # it sets the registry of the process, which tests after it must not use
        mlflow.set_registry_uri("")
        os.environ.pop("MLFLOW_REGISTRY_URI", None)
        self._app = app
        self._server: Any = None
        self._status: str | None = None
        self.port = 0
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Serve, on the same port as before."""
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: Any) -> None:
                pass

        self._server = make_server("127.0.0.1", self.port, self._answer, threaded=True, request_handler=Quiet)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()

    def fail(self, how: str) -> None:
        """Refuse connections (``refuses``), or answer every request with a status (``503 Service Unavailable``)."""
        if how == "refuses":
            self.stop()
        else:
            self._status = how

    def recover(self) -> None:
        """Work again."""
        if self._status is None:
            self.start()
        self._status = None

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if self._status is not None:
            start_response(self._status, [("Content-Length", "0")])
            return [b""]
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer


PAGE = "<!doctype html><html><title>404 Not Found</title></html>"


@contextmanager
def answering(
    status: int | None,
    certificate: tuple[Path, Path] | None = None,
    *,
    version: str = "3.17.2",
    api: tuple[int, str] = (404, PAGE),
) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server that answers with a status, and the authorizations that it was sent.

    Args:
        status: Of ``/version``, below any prefix; any other path is 404. None never answers.
        certificate: Files of a certificate and its key, for TLS.
        version: What ``/version`` answers.
        api: Status and content of the answer to any call of MLflow's API.
    """
    seen: list[str] = []
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if status is None:
                release.wait()
                return
            self.answer(*((status, version) if self.path.endswith("/version") else (404, PAGE)))

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(*api)

        def answer(self, code: int, text: str) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}", seen
        finally:
            release.set()
            server.shutdown()


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for this machine that nobody has signed, and its key; return their files."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
