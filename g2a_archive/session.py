"""The session for the service's calls: user agent, time-outs, retries, errors translated.

`requests` does the work here, where comfort counts; the bytes of recordings come over
`connection.py`. Exceptions of the library are never chained or quoted: their texts hold addresses.
"""

from __future__ import annotations

import json
import logging
import platform
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from g2a_archive import __version__
from g2a_archive.errors import (
    BadAnswerError,
    CallTooLongError,
    ForbiddenError,
    Interrupted,
    MalformedCallError,
    ServiceError,
    UnreachableError,
)
from g2a_archive.pace import CallPacer, backoff, pause, retry_after
from g2a_archive.transport import explain, new_session, rule_breaking

if TYPE_CHECKING:
    import requests

log = logging.getLogger("g2a_archive")

_T = TypeVar("_T")

USER_AGENT = f"g2a-archive/{__version__} (Python {platform.python_version()})"

_LARGEST_ANSWER = 32 << 20
"""Bytes; 500 recordings with three long links each are about 1 MB."""


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
    ) -> None:
        self._base = base_url.rstrip("/")
        self.credentials = credentials
        self._timeout = timeout
        self._retries = retries
        self._stop = stop
        self._pacer = pacer or CallPacer(stop)
        self._local = threading.local()
        self.last_date: str | None = None

    def call(
        self, name: str, method: str, path: str, read: Callable[[Any], _T], params: str = ""
    ) -> _T:
        """Make one call and return what `read` makes of its JSON (None where there is no body).

        `name` stands in messages; `read` raises `BadAnswerError` for an answer it cannot use.
        Connection errors, 429, 5xx and unreadable answers are tried again. Raises the
        `ServiceError` of what stayed wrong, and `Interrupted`.
        """
        attempt = 0
        while True:
            try:
                return read(self._once(name, method, path, params))
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

    def _once(self, name: str, method: str, path: str, params: str) -> Any:
        import requests

        header = self.credentials.authorization()
        session = self._session()
        address = f"{self._base}{path}" + (f"?{params}" if params else "")
        try:
            with (
                self._pacer.turn(),
                session.request(
                    method,
                    address,
                    # Given as `auth`, a .netrc entry can't take the header's place.
                    auth=_Header(header),
                    timeout=(self._timeout, self._timeout),
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                status = response.status_code
                body = self._body(name, response)
                after = retry_after(response.headers.get("Retry-After"))
                self.last_date = response.headers.get("Date")
        except requests.exceptions.RequestException as error:
            if self._stop.is_set():
                raise Interrupted from None
            reason = explain(error)
            raise _Again(UnreachableError(f"{name}: {reason}")) from None
        except rule_breaking():
            raise _Again(BadAnswerError(f"{name}: the answer breaks the rules of HTTP")) from None
        self._judge(name, status, after, header)
        if not body:
            return None
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise _Again(BadAnswerError(f"{name}: the answer is not JSON")) from None

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
        if status in (414, 431):
            raise CallTooLongError(f"{text} (the query is too long)")
        if status == 400:
            raise MalformedCallError(f"{text} (malformed)")
        hint = "check --api-url" if status == 404 or 300 <= status < 400 else ""
        raise _UnusableAnswerError(text, hint=hint)

    def _body(self, name: str, response: requests.Response) -> bytes:
        """The body, bounded in size and in time, as everything the service sends is hostile."""
        deadline = time.monotonic() + max(300.0, 5 * self._timeout)
        body = bytearray()
        for part in response.iter_content(65536):
            body += part
            if self._stop.is_set():
                raise Interrupted
            if len(body) > _LARGEST_ANSWER:
                raise _Again(BadAnswerError(f"{name}: the answer is too large"))
            if time.monotonic() > deadline:
                raise _Again(UnreachableError(f"{name}: the answer came too slowly"))
        return bytes(body)

    def _session(self) -> requests.Session:
        # One a thread: `requests` does not promise that a session can be shared.
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = new_session()
            session.headers["User-Agent"] = USER_AGENT
            session.headers["Accept"] = "application/json"
            self._local.session = session
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
