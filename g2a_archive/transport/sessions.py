"""Calls that answer with a small document: the service's, and the token endpoint's."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import requests

from g2a_archive.errors import Interrupted
from g2a_archive.threads import no_threads_error, spawn
from g2a_archive.transport.adapter import CONNECT_TIMEOUT, Adapter, Session, check_certificates
from g2a_archive.transport.connections import Network
from g2a_archive.transport.errors import NetworkError, translate_error

_T = TypeVar("_T")
_LOOK_EVERY = 0.1


class Reply(NamedTuple):
    """An answer; `body` is None where it was larger than it may be. Headers by any case."""

    status: int
    body: bytes | None
    headers: Mapping[str, str]


class Caller:
    """Makes calls; safe to use from several threads. Follows no redirect.

    A session is used by one call at a time, as `requests` does not promise more, and never again
    after a call that failed, or that nobody waits for any more.
    """

    def __init__(self, timeout: float) -> None:
        """`timeout` in seconds, without a byte; to connect, 10 s if that is shorter.

        Raises `InputError` for certificates that cannot be used.
        """
        check_certificates()
        self._timeout = timeout
        self._network = Network(timeout)
        self._sessions: list[Session] = []

    def call(
        self,
        method: str,
        url: str,
        *,
        most: int,
        authorization: str | None = None,
        basic: tuple[bytes, bytes] | None = None,
        form: Mapping[str, str] | None = None,
        sent: object = None,
    ) -> Reply:
        """Send a request, and read an answer of up to `most` bytes. Raises `NetworkError`.

        `authorization` is the header's value; `basic` are a name and a password for it. `form`
        goes along form-encoded, `sent` as JSON.
        """

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            # Given as `auth`, a .netrc entry can't take the header's place.
            if authorization is not None:
                request.headers["Authorization"] = authorization
            return request

        try:
            session = self._sessions.pop()
        except IndexError:
            session = Session(Adapter(self._network, connections=1))
        try:
            with session.request(
                method,
                url,
                data=None if form is None else dict(form),
                json=sent,
                auth=requests.auth.HTTPBasicAuth(*basic) if basic else authorize,
                headers={"Accept": "application/json"},
                timeout=(min(CONNECT_TIMEOUT, self._timeout), self._timeout),
                allow_redirects=False,
                stream=True,
            ) as response:
                reply = Reply(response.status_code, _body(response, most), response.headers)
        except Exception as error:  # an answer that breaks the rules raises all sorts
            raise translate_error(error) from None
        if reply.body is not None:
            self._sessions.append(session)
        return reply


def _body(response: requests.Response, most: int) -> bytes | None:
    body = bytearray()
    for part in response.iter_content(min(most, 65536)):
        body += part
        if len(body) > most:
            return None
    return bytes(body)


def run_with_deadline(
    act: Callable[[], _T], *, seconds: float, stopped: Callable[[], bool], grace: float = 0.0
) -> _T:
    """What `act` returns or raises, done in a thread that is left to itself when it takes too long.

    The time-outs of `requests` count from byte to byte, so that an answer that trickles has none;
    and what waits for a byte hears of no signal. Raises `NetworkError` after `seconds`, and
    `Interrupted` as soon as `stopped` says so, or `grace` seconds later. `StorageError`: there is
    no thread for it.
    """
    # No SimpleQueue: before Python 3.13 its `get` waits for ever where a signal's handler took what
    # was left of the time-out.
    ended: queue.Queue[tuple[_T | None, BaseException | None]] = queue.Queue()

    def work() -> None:
        try:
            ended.put((act(), None))
        except BaseException as error:
            ended.put((None, error))

    if spawn(work) is None:
        raise no_threads_error()
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
                raise NetworkError("the answer came too slowly", timed_out=True) from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
