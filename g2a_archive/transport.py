"""What kept an answer from coming, in words: for the service's calls and the token endpoint's."""

from __future__ import annotations


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
