"""Addresses of servers and mirrors as messages show them."""

from __future__ import annotations


def without_secrets(address: str) -> str:
    """Return an address without user, password, query and fragment, any of which may be a secret.

    A password may hold any character, so everything up to the last ``@`` is dropped, even where a strict parser would
    end the password earlier. Paths and ``package:`` sources stay as they are.

    Example: ``without_secrets("https://me:pass@host:5000/a?token=1")`` is ``"https://host:5000/a"``.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        before, _, after = address.rpartition("@")
        return after if ":" in before else address
    shown = rest.rpartition("@")[2]
    if scheme.lower() != "file":
        shown = shown.partition("?")[0].partition("#")[0]
    return f"{scheme}://{shown}"
