"""What can go wrong on a connection, in words; translated once, here at the edge.

The texts of the libraries' exceptions hold addresses, so none of them is ever quoted or chained.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import requests
import urllib3.exceptions as urllib3_errors

_CERTIFICATE = {
    10: "the host's TLS certificate has expired (or this machine's clock is wrong)",
    9: "the host's TLS certificate is not valid yet (or this machine's clock is wrong)",
    62: "the host's TLS certificate is for another name",
    64: "the host's TLS certificate is for another address",
}
"""By OpenSSL's verify codes (X509_verify_cert_error_string); others are of no known authority."""

_UNKNOWN_AUTHORITY = (
    "the host's TLS certificate is of no authority that is trusted here "
    "(REQUESTS_CA_BUNDLE can name others)"
)
_WANTS_USER = "the proxy wants a user name and password, or other ones"
_NOT_LET_THROUGH = "the proxy does not let this host through"
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")


@dataclass(eq=False)
class NetworkError(Exception):
    """No answer, or a broken one; the text says how, and holds no address.

    `final`: trying again would not change it. `unreachable`: the host was not reached at all.
    `ragged_end`: TLS ended without saying so, which may be a cut. `timed_out`: nothing came.
    `not_http`: something came that breaks the rules; `bad_range`: a part that is not what it says.
    `failed_host`: the host, be it a redirect's, that was not reached, or had no answer.
    `not_sent`: it was not even asked, as it is down.
    """

    text: str
    _: KW_ONLY
    final: bool = False
    unreachable: bool = False
    ragged_end: bool = False
    timed_out: bool = False
    not_http: bool = False
    bad_range: bool = False
    failed_host: str = ""
    not_sent: bool = False

    def __str__(self) -> str:
        return self.text

    @property
    def at_once(self) -> bool:
        """Whether the host was there, and nobody had to wait for it."""
        return not (self.unreachable or self.timed_out or self.not_sent or self.final)


def proxy_error(status: int) -> NetworkError:
    """A proxy's own answer instead of the host's."""
    if status == 407:
        return NetworkError(f"{_WANTS_USER} (407)", final=True, unreachable=True)
    if status == 403:
        return NetworkError(f"{_NOT_LET_THROUGH} (403)", unreachable=True)
    return NetworkError(f"the proxy answered {status}", unreachable=True)


def translate_error(error: BaseException) -> NetworkError:
    """What an exception of requests, urllib3, http.client, ssl or socket comes to."""
    if isinstance(error, NetworkError):
        return error
    causes = list(_causes(error))
    for read in (_proxy, _socks, _tls, _unreached, _broken):
        for cause in causes:
            if (found := read(cause)) is not None:
                return found
    return NetworkError("the answer breaks the rules of HTTP", not_http=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that led to it, the innermost first: libraries wrap in several ways."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            inner = [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
            waiting.extend(inner)
    yield from reversed(seen)


def _proxy(cause: BaseException) -> NetworkError | None:
    if isinstance(cause, requests.exceptions.InvalidSchema):
        return NetworkError(
            "the proxy is a SOCKS proxy, and PySocks is not installed (pip install PySocks)",
            final=True,
            unreachable=True,
        )
    if isinstance(cause, requests.exceptions.InvalidURL):  # the host's own was checked before
        text = "the proxy's address is no address (one begins with http://, say)"
        return NetworkError(text, final=True, unreachable=True)
    if found := _TUNNEL.search(str(cause)):
        return proxy_error(int(found[1]))
    if isinstance(cause, urllib3_errors.ProxyError):
        for inner in _causes(cause):
            if isinstance(inner, ssl.SSLCertVerificationError):  # it is the proxy's own
                text = _certificate(inner).replace("the host's", "the proxy's")
                return NetworkError(text, unreachable=True)
        return NetworkError("no connection to the proxy", unreachable=True)
    return None


def _socks(cause: BaseException) -> NetworkError | None:
    """By the names of PySocks' exceptions: it need not be there."""
    if type(cause).__module__ != "socks":
        return None
    name = type(cause).__name__
    if name == "SOCKS5AuthError":
        return NetworkError(_WANTS_USER, final=True, unreachable=True)
    if name == "SOCKS5Error" and str(cause).startswith("0x02"):  # RFC 1928, 6: by its rules
        return NetworkError(_NOT_LET_THROUGH, unreachable=True)
    if name in ("SOCKS5Error", "SOCKS4Error"):
        return NetworkError("the proxy cannot reach the host", unreachable=True)
    unknown = isinstance(getattr(cause, "socket_err", None), socket.gaierror)
    if name == "GeneralProxyError" and unknown:  # that of a proxy is a ProxyConnectionError
        text = "the host name cannot be resolved here (with socks5h:// the proxy resolves it)"
        return NetworkError(text, unreachable=True)
    return NetworkError("no connection to the proxy", unreachable=True)


def _certificate(cause: ssl.SSLCertVerificationError) -> str:
    return _CERTIFICATE.get(cause.verify_code, _UNKNOWN_AUTHORITY)


def _tls(cause: BaseException) -> NetworkError | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return NetworkError(_certificate(cause), unreachable=True)
    # Python 3.11.2 has no error of its own for it in every place.
    if isinstance(cause, ssl.SSLError) and (
        isinstance(cause, ssl.SSLEOFError) or "UNEXPECTED_EOF" in str(cause)
    ):
        return NetworkError("the connection was closed early", ragged_end=True)
    return None


def _unreached(cause: BaseException) -> NetworkError | None:
    if isinstance(cause, socket.gaierror | urllib3_errors.NameResolutionError):
        return NetworkError("the host name cannot be resolved", unreachable=True)
    if isinstance(cause, ConnectionRefusedError):
        return NetworkError("connection refused", unreachable=True)
    if isinstance(cause, urllib3_errors.NewConnectionError):
        untold = NetworkError("no connection could be made", unreachable=True)
        return untold if _errno(cause) is None else None
    if isinstance(cause, urllib3_errors.ConnectTimeoutError):  # the one above is one, too
        return NetworkError("no connection within the time-out", unreachable=True, timed_out=True)
    return None


def _broken(cause: BaseException) -> NetworkError | None:
    if isinstance(cause, TimeoutError | urllib3_errors.ReadTimeoutError):
        return NetworkError("nothing came within the time-out", timed_out=True)
    early = http.client.RemoteDisconnected | http.client.IncompleteRead
    if isinstance(cause, early | urllib3_errors.IncompleteRead):
        return NetworkError("the connection was closed early")
    if isinstance(cause, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return NetworkError("connection reset")
    if isinstance(cause, urllib3_errors.InvalidHeader):
        return NetworkError("the host announces two lengths that differ", not_http=True)
    if isinstance(cause, urllib3_errors.DecodeError):
        return NetworkError("the compressed body is damaged", not_http=True)
    if isinstance(cause, ssl.SSLError):
        return NetworkError("the TLS connection failed")
    if isinstance(cause, OSError) and (number := _errno(cause)) is not None:
        return NetworkError(os.strerror(number).lower())
    return None


def _errno(error: BaseException) -> int | None:
    for cause in _causes(error):
        number = getattr(cause, "errno", None)
        if isinstance(cause, OSError) and isinstance(number, int) and number > 0:
            return number
    return None
