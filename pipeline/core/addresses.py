"""Addresses of servers and mirrors, and texts that quote them, without the secrets in them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "<hidden>"
_LOCAL = re.compile(r"file:/(?!/[^/])|sqlite:///", re.IGNORECASE)  # a path follows, which may hold an @
_BAD_PORT = re.compile(r"^([^\[\]:]+|\[[^\]]*\]):(?!\d*$).*", re.DOTALL)  # the start of a password, more likely
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_PATH_QUERY = re.compile(r"\?[\w.~-]+=.*", re.DOTALL)
_SHORTEST = 3  # characters of a piece of a secret that is worth hiding by itself
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{0,30}://(?:\S{0,5000}@)?[^\s<>\"']*", re.IGNORECASE)
_NAMED = "password|passwd|pwd|token|secret|(?:api|access|secret)[_-]?key|sig|signature"
_IN_TEXT = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (
            r"(?<![^\s/'\"(,=\[])(?!(?:models|file):/)[^\s/:@'\"()]{1,200}:(?!//)\S{0,5000}@",
            f"{HIDDEN}@",
        ),  # user:password@host
        (r"(?<![^\s/'\"(])[^\s/'\"(]{1,200}%3a[^\s/]*%40", f"{HIDDEN}@"),  # the same, encoded
        (r"(?<![^\s'\"(=])(/[^\s?'\"<>]*)\?[^\s'\"<>]+", r"\1"),  # /path?query
        (rf"(\b(?:{_NAMED})=)[^\s&'\"]+", rf"\1{HIDDEN}"),
        (r"(\bauthorization\W+(?:(?:basic|bearer)\s+)?)[^\s'\"]+", rf"\1{HIDDEN}"),
    )
)


def without_secrets(address: str) -> str:
    """Return an address without user, password, query and fragment, any of which may be a secret.

    A password may hold any character, so everything up to the last ``@`` is dropped, even where a strict parser would
    end the password earlier. An ``@`` after a ``?`` or ``#`` may belong to the password or to the query: then nothing
    but the scheme is shown. Paths and ``package:`` sources stay as they are.

    Example: ``without_secrets("https://me:pass@host:5000/a?token=1")`` is ``"https://host:5000/a"``.
    """
    scheme, separator, rest = address.partition("://")
    if _LOCAL.match(address):
        return _PATH_QUERY.sub("", address)
    if separator:
        return f"{scheme}://{_public(rest)}"
    if address.startswith("//"):
        return f"//{_public(address[2:])}"
    before, at, _ = address.rpartition("@")
    named = "/" not in before and not before.startswith((".", "~"))  # me@host/a, not /mnt/me@home
    return _public(address) if at and (":" in before or named) else _PATH_QUERY.sub("", address)


def _public(rest: str) -> str:
    """Return what may be shown of an address after its scheme: host, port and path."""
    cut = _QUERY.search(rest)
    if cut and "@" in cut[0]:
        return HIDDEN
    authority, slash, path = _QUERY.sub("", rest).rpartition("@")[2].partition("/")
    authority = re.split("%40", authority, flags=re.IGNORECASE)[-1]
    return _BAD_PORT.sub(rf"\1:{HIDDEN}", authority) + slash + path


def redacted(text: str, *addresses: str) -> str:
    """Return a text, such as an exception's message, without the secrets of the addresses in it.

    Hidden are the parts that `without_secrets` drops of every URL, ``user:password@host``, the query of a path, and
    the values of ``password=``, ``token=`` and the like.

    Args:
        text: Any text; redacting it twice changes nothing more.
        addresses: Addresses that the text may quote in part: whatever is secret in them is hidden wherever it occurs.
    """
    pieces = {piece for address in addresses for piece in _secret_pieces(address) if len(piece) >= _SHORTEST}
    for piece in sorted(pieces, key=len, reverse=True):
        text = re.sub(re.escape(piece), HIDDEN, text, flags=re.IGNORECASE)
    text = _URL.sub(_url_without_secrets, text)
    for pattern, replacement in _IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _url_without_secrets(match: re.Match[str]) -> str:
    url = match[0].rstrip(").,;:]}")  # of the sentence around
    return without_secrets(url) + match[0][len(url) :]


def _secret_pieces(address: str) -> Iterator[str]:
    """Yield the parts of an address's user, password, query and fragment, as written and decoded.

    A parser that ends the password at a ``/`` quotes only a part of it.
    """
    rest = address.partition("://")[2] or address
    cut = _QUERY.search(rest)
    secrets = [rest.rpartition("@")[0]]
    for field in cut[0][1:].split("&") if cut else ():
        key, _, value = field.partition("=")
        secrets.append(value or key)
    for secret in secrets:
        for form in (secret, unquote(secret)):
            yield from re.split(r"[^\w.%~+-]+", form)


class RedactingFilter(logging.Filter):
    """Redacts the records of a library's logger, and drops their tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args, record.exc_info = redacted(record.getMessage()), (), None
        return True
