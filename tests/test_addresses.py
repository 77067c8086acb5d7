"""No secret in an address survives, and an address without any stays what it is."""

from __future__ import annotations

import pytest

from pipeline.core.addresses import without_secrets


@pytest.mark.parametrize(
    "address",
    [
        "https://me:SECRET@host:5000/runs",
        "http://me:SEC/RET@host:5000",
        "http://me:SEC?RET#SECRET@host:5000/a",
        "http://SECRET@host/",
        "http://host/a?password=SECRET",
        "http://host/a#SECRET",
        "postgresql://me:SECRET@host:notaport/runs",
        "http://me:SECRET@[::1/a",
        "me:SECRET@host/a",
        "https://me:SEC@RET:SECRET@host/",
    ],
)
def test_a_secret_is_not_shown(address: str) -> None:
    shown = without_secrets(address)
    assert not any(part in shown for part in ("SEC", "RET"))
    assert "host" in shown or "[::1" in shown


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:///mlflow.db",
        "sqlite:////srv/runs/mlflow.db",
        "https://host:5000/a/b",
        "file:///mnt/a#b",
        "/mnt/me@home/mnist",
        "package:sklearn/datasets/data/x.gz",
        "../mirror",
    ],
)
def test_what_holds_none_stays(address: str) -> None:
    assert without_secrets(address) == address
