"""What the service's calls and the token endpoint's share: sessions, and words for failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests


def new_session() -> requests.Session:
    """A session that follows no redirect, and looks at none.

    `requests` reads a redirect's whole body, and parses its `Location`, even where it is told not
    to follow it: both can be anything.
    """
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> None:
            return None

    return Session()


def rule_breaking() -> tuple[type[Exception], ...]:
    """What an answer that breaks the rules of HTTP raises, and `requests` does not translate."""
    import http.client

    import urllib3

    return ValueError, urllib3.exceptions.HTTPError, http.client.HTTPException


def explain(error: Exception) -> str:
    """A word for a `requests` exception; its own text may hold the address, so it isn't used."""
    from requests import exceptions

    if isinstance(error, exceptions.ConnectTimeout):
        return "no connection within the time-out"
    if isinstance(error, exceptions.Timeout):
        return "no answer within the time-out"
    if isinstance(error, exceptions.SSLError):
        return "the TLS connection failed (certificate or protocol)"
    if isinstance(error, exceptions.ProxyError):
        return "the proxy refused the connection"
    if isinstance(error, exceptions.ContentDecodingError):
        return "the answer cannot be decoded"
    if "NameResolutionError" in repr(error):
        return "the host name cannot be resolved"
    if isinstance(error, exceptions.ConnectionError):
        # `requests` reports a time-out while reading a streamed body as a ConnectionError.
        if "timed out" in str(error):
            return "no answer within the time-out"
        return "the connection failed"
    return "the connection broke off"
