"""Which addresses this program talks to: https anywhere, plain http to this machine alone."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, quote, urlsplit

_UNFIT = re.compile(r"[\x00-\x1f\x7f]")
_TARGET = re.compile(r"[^:/]+://[^/?#]*([^#]*)")
_UNSENDABLE = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~:/?@!$&'()*+,;=%]")


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this very machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origin_of(url: str) -> str:
    """Scheme, host, and port where that is named, of an address that may be used."""
    return "/".join(url.split("?", 1)[0].split("/", 3)[:3]).lower()


def target_of(url: str) -> str:
    """What an address asks its host for, byte by byte: a signature may be one of these bytes.

    Only what no request may hold is encoded, as requests does it. requests would write `%2f` as
    `%2F`, and `%7E` as `~`: the same to a host that decodes them, and a wrong signature to others.
    """
    found = _TARGET.search(url)
    target = _UNSENDABLE.sub(lambda one: quote(one[0], safe=""), found[1] if found else "")
    return target if target.startswith("/") else f"/{target}"


def validate_url(url: str) -> SplitResult:
    """Split an address and see that it may be used.

    Raises `ValueError`, whose text never holds the address itself, since a link is a secret.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        raise ValueError("it is no address") from error
    if _UNFIT.search(url):
        raise ValueError("it has a control character")
    if parts.scheme not in ("http", "https"):
        raise ValueError("it is no https:// address")
    if not host:
        raise ValueError("it names no host")
    if any(character.isspace() or character == "%" for character in parts.netloc):
        raise ValueError("its host name is no host name")
    if parts.username is not None:
        raise ValueError("it holds a user name")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("plain http:// is accepted to loopback hosts only; use https://")
    try:
        url.encode()
        if ":" in host:  # IPv6
            ipaddress.ip_address(host)
        elif not host.isascii() or len(host) > 200:
            host.encode("idna")
    except ValueError as error:
        raise ValueError("it is no address") from error
    return parts
