"""What the responses and errors of servers mean for a download."""

from __future__ import annotations

import re
import urllib.request
from typing import TYPE_CHECKING

from pipeline.core.addresses import redacted

if TYPE_CHECKING:
    import requests


def continues(response: requests.Response, offset: int, expected: str) -> bool:
    """Return whether a partial response is the rest of the same edition, from exactly the requested byte on."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(?:\d+|\*)", response.headers.get("Content-Range", ""))
    edition = validator(response)
    return found is not None and int(found[1]) == offset and (not expected or edition in ("", expected))


def validator(response: requests.Response) -> str:
    """Return what identifies an edition byte for byte: a strong ETag, else the time of its last change."""
    etag = str(response.headers.get("ETag", ""))
    return etag if etag.startswith('"') else str(response.headers.get("Last-Modified", ""))


def reason(error: BaseException, url: str) -> str:
    """Return the innermost of a chain of wrapped network errors in a few words, without secrets."""
    import requests

    if isinstance(error, ValueError | TypeError) and not isinstance(error, requests.exceptions.InvalidSchema):
        return "malformed URL of the mirror, a redirect or a proxy"
    while isinstance(inner := getattr(error, "reason", None) or error.__cause__ or error.__context__, BaseException):
        error = inner
    text = redacted(getattr(error, "strerror", None) or str(error), url, *urllib.request.getproxies().values())
    return text if len(text) < 120 else type(error).__name__
