"""No secret in an address or a text survives, and what holds none stays as it is."""

from __future__ import annotations

import logging

import pytest

from pipeline.core.addresses import RedactingFilter, redacted, without_secrets
from pipeline.core.errors import PipelineError


@pytest.mark.parametrize(
    "address",
    [
        "https://me:SECRET@host:5000/runs",
        "http://me:SEC/RET@host:5000",
        "http://SECRET@host/",
        "http://host/a?password=SECRET",
        "http://host/a?SECRET",
        "http://host/a#SECRET",
        "http://host:SECRET/a",
        "http://host:5000SECRET",
        "http://me:SEC RET@host/",
        "http://me:SEC'RET\"@host/",
        "http://me:SEC\nRET@host/",
        "http://me%3ASECRET%40host/",
        "http://me:[SEC]RET@host/",
        "http:///me:SECRET@host/",
        "http:/me:SECRET@host/",
        "http:me:SECRET@host/",
        "postgresql://me:SECRET@host:notaport/runs",
        "postgresql+psycopg2://host/runs?user=me&password=SECRET",
        "mysql://me:SECRET@host/runs?ssl=/SECRET",
        "http://me:SECRET@[::1/a",
        "me:SECRET@host/a",
        "me:SEC/RET@host/a?token=SECRET",
        "SECRET@host/a",
        "//me:SECRET@host/a",
        "/mnt/here/me:SECRET@host/a",
        "/mnt/host/a?token=SECRET",
        "file:///mnt/host?token=SECRET",
        "file://me:SECRET@host/a",
        "https://me:SEC@RET:SECRET@host/",
    ],
)
def test_a_secret_is_not_shown(address: str) -> None:
    shown = without_secrets(address)
    assert not any(part in shown for part in ("SEC", "RET"))
    assert "host" in shown or "[::1" in shown
    in_text = redacted(f"cannot reach {address} ({address!r}), at all; password: none", address)
    assert not any(part in in_text for part in ("SEC", "RET"))
    assert in_text.startswith("cannot reach ")
    assert in_text.endswith("at all; password: none")


@pytest.mark.parametrize(
    "address",
    ["http://me:SEC?RET#SECRET@host:5000/a", "http://host/a?token=SEC@RET", "http://host/#a@SECRET", "//host/?SEC@RET"],
)
def test_where_password_and_query_cannot_be_told_apart_nothing_is_shown(address: str) -> None:
    assert without_secrets(address) in ("http://<hidden>", "//<hidden>")


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:///mlflow.db",
        "sqlite:////srv/runs/mlflow.db",
        "sqlite:////srv/me@home/mlflow.db",
        "https://host:5000/a/b",
        "http://[::1]:5000/a",
        "file:///mnt/a#b",
        "file:///mnt/me@home/a",
        "file:data/own/pets/",
        "/mnt/me@home/mnist",
        "~/me@home/mnist",
        "package:sklearn/datasets/data/x.gz",
        "../mirror",
    ],
)
def test_what_holds_none_stays(address: str) -> None:
    assert without_secrets(address) == address
    assert redacted(address) == address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("API request to http://me:SECRET@host/api/2.0 failed", "API request to http://host/api/2.0 failed"),
        ("Max retries exceeded with url: /a/b?token=SECRET (Caused by x)", "exceeded with url: /a/b (Caused by x)"),
        ("url: /api?SECRET", "url: /api"),
        ("Failed to parse: http://me:SEC/RET@host:port/", "Failed to parse: http://host:<hidden>/"),
        ("HTTPConnectionPool(host='host', port=80): x", "HTTPConnectionPool(host='host', port=80): x"),
        ("at http://me:SECRET@a/, then http://me:SECRET@b/; next: c", "at http://a/, then http://b/; next: c"),
        ("proxy me:SECRET@host:3128 refused", "proxy <hidden>@host:3128 refused"),
        ("No such file: '/here/me:SECRET@host/a'", "No such file: '/here/<hidden>@host/a'"),
        ("host=h password=SECRET dbname=x", "host=h password=<hidden> dbname=x"),
        ("{'Authorization': 'Basic SECRET'}", "{'Authorization': 'Basic <hidden>'}"),
        ("Authorization: Bearer SECRET\r", "Authorization: Bearer <hidden>\r"),
        ("(sqlite:///a.db?key=SECRET)", "(sqlite:///a.db)"),
    ],
)
def test_a_text_is_shown_without_the_secrets_in_it(text: str, shown: str) -> None:
    assert shown in redacted(text)
    assert "SEC" not in redacted(text)
    assert redacted(redacted(text)) == redacted(text)
    assert str(PipelineError(text)) == redacted(text.strip())


def test_parts_of_a_known_address_are_hidden_wherever_they_are_quoted() -> None:
    address = "http://me:SEC/RET@host/a?sig=SEC%2FRET2"
    text = redacted("'me:sec' is not a valid host or port; no path /RET@host/a; bad SEC%2FRET2 or SEC/RET2", address)
    assert "SEC" not in text.upper()
    assert "RET" not in text.upper()
    assert "is not a valid host or port" in text


@pytest.mark.parametrize(
    "text",
    [
        "download: expected 'mnist'? (one of cifar10, mnist)",
        "mnist: stage validate@mnist is missing; next: dvc repro search@mnist-cnn",
        "models:/digits-classifier@champion is not there (models:/digits-classifier@champion)",
        "-S: expected key=value, found 'search.seed'",
        "offline? set MIRROR=<folder or URL laid out <dataset>/<file>> and run again",
        "write to maintainers@host.example, or see https://host/a/b.html.",
        "12:30:10 me@host: refused",
    ],
)
def test_an_ordinary_message_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["a.", "a:", "/a", "://", "a://b/", "%3a", "'", "?", "/?", "a=", " x:y", "key=", "@", "a:b@"]
)
def test_a_long_text_takes_no_long_time(piece: str) -> None:
    assert len(redacted(piece * 20_000)) <= len(piece) * 20_000


def test_a_record_of_a_library_is_redacted(caplog) -> None:
    logger = logging.getLogger("toy.library")
    logger.addFilter(RedactingFilter())
    try:
        raise ValueError("SECRET")
    except ValueError:
        logger.warning("Failed (url=%s)", "http://me:SECRET@host/a?x=SECRET", exc_info=True)
    assert "Failed (url=http://host/a)" in caplog.text
    assert "SECRET" not in caplog.text
