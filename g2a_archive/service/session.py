"""The session for the service's calls: user agent, time-outs, retries, errors translated.

`requests` does the work here, where comfort counts; the bytes of recordings come over
`connection.py`. Exceptions of the library are never chained or quoted: their texts hold addresses.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from g2a_archive.errors import (
    BadAnswerError,
    CallTooLongError,
    ForbiddenError,
    Interrupted,
    MalformedCallError,
    ServiceError,
    UnreachableError,
)
from g2a_archive.service.clock import Clock
from g2a_archive.service.pace import CallPacer, backoff, pause, retry_after
from g2a_archive.transport.sessions import (
    USER_AGENT,
    TooSlowError,
    body_of,
    explain,
    new_session,
    overseen,
    rule_breaking,
)

if TYPE_CHECKING:
    import requests

log = logging.getLogger("g2a_archive")

_T = TypeVar("_T")


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


class _Again(Exception):  # noqa: N818 - a signal between two functions, never seen outside
    """This call may be tried again."""

    def __init__(self, error: ServiceError, wait: float | None = None) -> None:
        super().__init__()
        self.error = error
        self.wait = wait


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
        pacer: CallPacer | None = None,
        share: int = 1,
    ) -> None:
        """`share` is how many machines share the service's limit of calls (see `CallPacer`)."""
        self._base = base_url.rstrip("/")
        self.credentials = credentials
        self._timeout = timeout
        self._retries = retries
        self._stop = stop
        self._pacer = pacer or CallPacer(stop, share)
        self._sessions: list[requests.Session] = []
        self.clock = Clock()

    def call(
        self,
        name: str,
        method: str,
        path: str,
        read: Callable[[Any], _T],
        params: str = "",
        body: object = None,
    ) -> _T:
        """Make one call and return what `read` makes of its JSON (None where there is no body).

        `params` is the query, `body` is sent as JSON if it is not None. `name` stands in messages;
        `read` raises `BadAnswerError` for an answer it cannot use.
        Connection errors, 429, 5xx and unreadable answers are tried again. Raises the
        `ServiceError` of what stayed wrong, and `Interrupted`.
        """
        attempt = 0
        while True:
            try:
                return read(self._once(name, method, path, params, body))
            except _Again as again:
                error, wait = again.error, again.wait
            except BadAnswerError as unreadable:
                error, wait = unreadable, None
            attempt += 1
            if attempt > self._retries:
                raise error
            seconds = backoff(attempt, wait)
            log.warning("%s, retry %d/%d in %.1f s", error.message, attempt, self._retries, seconds)
            pause(self._stop, seconds)

    def _once(self, name: str, method: str, path: str, params: str, sent: object) -> Any:
        import requests

        header = self.credentials.authorization()
        address = f"{self._base}{path}" + (f"?{params}" if params else "")
        try:
            with self._pacer.turn():
                status, body, after = overseen(
                    lambda: self._exchange(method, address, header, sent),
                    seconds=max(_LONGEST_CALL, 5 * self._timeout),
                    stopped=self._stop.is_set,
                )
        except requests.exceptions.RequestException as error:
            if self._stop.is_set():
                raise Interrupted from None
            reason = explain(error)
            raise _Again(UnreachableError(f"{name}: {reason}")) from None
        except TooSlowError:
            raise _Again(UnreachableError(f"{name}: the answer came too slowly")) from None
        except rule_breaking():
            raise _Again(BadAnswerError(f"{name}: the answer breaks the rules of HTTP")) from None
        if body is None:
            raise _Again(BadAnswerError(f"{name}: the answer is too large"))
        self._judge(name, status, after, header)
        if not body:
            return None
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise _Again(BadAnswerError(f"{name}: the answer is not JSON")) from None

    def _exchange(
        self, method: str, address: str, header: str, sent: object
    ) -> tuple[int, bytes | None, float | None]:
        """Send a request: the answer's status, its body unless that is too large, `Retry-After`.

        A session is used by one call at a time, as `requests` does not promise more, and never
        again after a call that failed, or that nobody waits for any more.
        """
        try:
            session = self._sessions.pop()
        except IndexError:
            session = self._new_session()
        with session.request(
            method,
            address,
            json=sent,
            # Given as `auth`, a .netrc entry can't take the header's place.
            auth=_Header(header),
            timeout=(self._timeout, self._timeout),
            allow_redirects=False,
            stream=True,
        ) as response:
            body = body_of(response, _LARGEST_ANSWER)
            date = response.headers.get("Date")
            after = retry_after(response.headers.get("Retry-After"), date)
            self.clock.heard(date)
        if body is not None:
            self._sessions.append(session)
        return response.status_code, body, after

    def _judge(self, name: str, status: int, after: float | None, header: str) -> None:
        """Raise the error that a status stands for (vendor's reference: 200, 400, 403, 500)."""
        if 200 <= status < 300:
            return
        text = f"{name}: the service answered {status}"
        if status == 429:
            self._pacer.slow_down()
            raise _Again(BadAnswerError(f"{text} (too many calls)"), after)
        if status >= 500 or status == 408:
            raise _Again(BadAnswerError(text), after)
        if status in (401, 403):
            error = ForbiddenError(text, status=status)
            error.header = header
            raise error
        failure: ServiceError
        if status in (413, 414, 431):
            failure = CallTooLongError(f"{text} (the call is too long)")
        elif status == 400:
            failure = MalformedCallError(f"{text} (malformed)")
        else:
            hint = "check --api-url" if status == 404 or 300 <= status < 400 else ""
            failure = _UnusableAnswerError(text, hint=hint)
        failure.status = status
        raise failure

    def _new_session(self) -> requests.Session:
        session = new_session()
        session.headers["User-Agent"] = USER_AGENT
        session.headers["Accept"] = "application/json"
        return session


class _UnusableAnswerError(ServiceError):
    """An answer that trying again would not change."""


class _Header:
    """Puts the `Authorization` header on a request (`requests` calls it)."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value
        return request
