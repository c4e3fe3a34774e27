"""The session for the service's calls: user agent, time-outs, retries, errors translated.

The exceptions of the libraries below are never chained or quoted: their texts hold addresses.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from g2a_archive.errors import (
    BadRequestError,
    BadResponseError,
    CallTooLongError,
    CredentialsError,
    ForbiddenError,
    Interrupted,
    ServiceError,
    UnreachableError,
)
from g2a_archive.models import Shard
from g2a_archive.service.clock import Clock
from g2a_archive.service.pace import CallPacer, RetryableError, call_with_retries
from g2a_archive.transport.errors import NetworkError
from g2a_archive.transport.retry_after import retry_after
from g2a_archive.transport.sessions import Caller, Reply, run_with_deadline

log = logging.getLogger("g2a_archive")

_T = TypeVar("_T")


_DIGITS = 640
"""As many digits every Python reads as a whole number, however it is set up."""

_LARGEST_ANSWER = 32 << 20
"""Bytes; 500 recordings with three long links each are about 1 MB."""

_LONGEST_CALL = 300.0
"""Seconds from a call's beginning to its answer's end, at least."""


class Authorizer(Protocol):
    """Where the `Authorization` header comes from (`auth.Credentials`)."""

    @property
    def renewable(self) -> bool: ...

    def authorization(self) -> str: ...

    def renew(self, stale: str) -> bool: ...


class Call(NamedTuple):
    """A call of the service: `name` stands in messages, `path` and `query` come after the base
    address, `body` is sent as JSON if it is not None."""

    name: str
    method: str
    path: str
    query: str = ""
    body: object = None


class ApiSession:
    """Calls to the service, paced and retried; safe to use from several threads."""

    def __init__(
        self,
        base_url: str,
        credentials: Authorizer,
        *,
        timeout: float,
        retries: int,
        stop: threading.Event,
        shard: Shard | None = None,
    ) -> None:
        """`shard` tells how many machines share the service's limit of calls (see `CallPacer`)."""
        self._base = base_url.rstrip("/")
        self.credentials = credentials
        self._timeout = timeout
        self._retries = retries
        self._stop = stop
        self._pacer = CallPacer(stop, shard)
        self._caller = Caller(timeout)
        self.clock = Clock()

    def make(self, call: Call, read: Callable[[Any], _T]) -> _T:
        """Make a call and return what `read` makes of its JSON (None where there is no body).

        `read` raises `BadResponseError` for an answer it cannot use.
        Connection errors, 429, 5xx and unreadable answers are tried again. Raises the
        `ServiceError` of what stayed wrong, and `Interrupted`.
        """

        def once() -> _T:
            header = self.credentials.authorization()  # whose own calls are retried already
            try:
                return read(self._once(call, header))
            except BadResponseError as unreadable:
                raise RetryableError(unreadable) from None

        return call_with_retries(once, self._retries, tell=log.warning, wait=self._stop.wait)

    def _once(self, call: Call, header: str) -> Any:
        address = f"{self._base}{call.path}" + (f"?{call.query}" if call.query else "")
        try:
            with self._pacer.turn():
                reply = run_with_deadline(
                    lambda: self._caller.call(
                        call.method,
                        address,
                        most=_LARGEST_ANSWER,
                        authorization=header,
                        sent=call.body,
                    ),
                    seconds=max(_LONGEST_CALL, 5 * self._timeout),
                    stopped=self._stop.is_set,
                )
        except NetworkError as error:
            if self._stop.is_set():
                raise Interrupted from None
            kind = BadResponseError if error.not_http else UnreachableError
            found = kind(f"{call.name}: {error}")
            raise (found if error.final else RetryableError(found)) from None
        self.clock.update(reply.headers.get("Date"))
        if reply.body is None:
            raise RetryableError(BadResponseError(f"{call.name}: the answer is too large"))
        self._raise_for_status(call.name, reply, header)
        if not reply.body:
            return None
        try:
            return _json(reply.body)
        except (ValueError, RecursionError):
            raise RetryableError(BadResponseError(f"{call.name}: the answer is not JSON")) from None

    def _raise_for_status(self, name: str, reply: Reply, header: str) -> None:
        """Raise the error that a status stands for (vendor's reference: 200, 400, 403, 500)."""
        status = reply.status
        after = retry_after(reply.headers)
        if 200 <= status < 300:
            return
        text = f"{name}: the service answered {status}"
        if status == 429:
            self._pacer.slow_down()
            raise RetryableError(BadResponseError(f"{text} (too many calls)"), after)
        if status >= 500 or status == 408:
            raise RetryableError(BadResponseError(text), after)
        failure: ServiceError
        if status in (401, 403):
            failure = ForbiddenError(text, header=header)
        elif status in (413, 414, 431):
            failure = CallTooLongError(f"{text} (the call is too long)")
        elif status == 400:
            failure = BadRequestError(f"{text} (malformed)")
        else:
            hint = "check --api-url" if status == 404 or 300 <= status < 400 else ""
            failure = ServiceError(text, hint=hint)  # trying again would not change it
        failure.status = status
        raise failure


def _json(body: bytes) -> Any:
    """What an answer says, read so that one odd value of one entry keeps no other from being read.

    Bytes that are no text become U+FFFD, and a number of more digits than Python reads an infinite
    one, which is no ID and no size. Raises `ValueError` and `RecursionError` where it is no JSON.
    """
    text = body.decode(json.detect_encoding(body), "replace")
    return json.loads(text, parse_int=_whole)


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < _DIGITS else float(digits)


def expired_credentials_error() -> CredentialsError:
    """What to say where what was accepted before no longer is."""
    return CredentialsError(
        "the service no longer accepts the credentials",
        hint="an access token lives 60 minutes: renew it, or configure a client ID and secret "
        "with a personal access token",
    )


def refused_credentials_error() -> CredentialsError:
    """What to say where nothing was ever accepted."""
    return CredentialsError(
        "the service refused the credentials, or every one of these IDs",
        hint="an access token lives 60 minutes: get a new one, and check that the IDs belong "
        "to this account",
    )
