"""Which addresses this program talks to: https anywhere, plain http to this machine alone."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, quote, urlsplit


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this very machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked(url: str) -> SplitResult:
    """Split an address and see that it may be used.

    Raises `ValueError`, whose text never holds the address itself, since a link is a secret.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        raise ValueError("it is no address") from error
    if any(c.isspace() or ord(c) < 32 or ord(c) == 127 for c in url):
        raise ValueError("it has a space or a control character")
    if parts.scheme not in ("http", "https"):
        raise ValueError("it is no https:// address")
    if not host:
        raise ValueError("it names no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it holds a user name")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("plain http:// is accepted to loopback hosts only; use https://")
    try:
        host.encode("ascii" if is_loopback(host) else "idna")
    except UnicodeError as error:
        raise ValueError("its host name is no host name") from error
    return parts


def request_target(parts: SplitResult) -> str:
    """The path and query to send in a request line: ASCII only."""
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    return quote(target, safe="/?:@!$&'()*+,;=-._~%[]{}|^`\"<>\\")
