"""What the service's calls and the token endpoint's share: sessions, time, words for failures."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from g2a_archive import __version__
from g2a_archive.errors import Interrupted

if TYPE_CHECKING:
    import requests

USER_AGENT = f"g2a-archive/{__version__} (Python {sys.version_info.major}.{sys.version_info.minor})"

_T = TypeVar("_T")
_LOOK_EVERY = 0.1


class TooSlowError(Exception):
    """An answer did not come to its end in time."""


def overseen(
    act: Callable[[], _T], *, seconds: float, stopped: Callable[[], bool], grace: float = 0.0
) -> _T:
    """What `act` returns or raises, done in a thread that is left to itself when it takes too long.

    The time-outs of `requests` count from byte to byte, so that an answer that trickles has none;
    and what waits for a byte hears of no signal. Raises `TooSlowError` after `seconds`, and
    `Interrupted` as soon as `stopped` says so, or `grace` seconds later.
    """
    ended: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            ended.put((act(), None))
        except BaseException as error:
            ended.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    until = time.monotonic() + seconds
    while True:
        try:
            value, error = ended.get(timeout=_LOOK_EVERY)
            break
        except queue.Empty:
            if stopped():
                if grace <= 0:
                    raise Interrupted from None
                grace -= _LOOK_EVERY
            elif time.monotonic() > until:
                raise TooSlowError from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


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


def body_of(response: requests.Response, most: int) -> bytes | None:
    """The body of an answer that streams; None where it is larger than `most` bytes."""
    body = bytearray()
    for part in response.iter_content(min(most, 65536)):
        body += part
        if len(body) > most:
            return None
    return bytes(body)


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
