"""One call to the OAuth token endpoint: asked, retried, checked, its failures translated.

The endpoint is the vendor's `https://authentication.logmeininc.com/oauth/token`: a form-encoded
POST with HTTP Basic (client ID and secret), answered by JSON with `access_token`, `expires_in`
(seconds) and, only where the old one was replaced, `refresh_token`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from g2a_archive.auth.secretfile import Wait, Warn
from g2a_archive.errors import (
    BadResponseError,
    CredentialsError,
    InputError,
    Interrupted,
    UnreachableError,
)
from g2a_archive.service.pace import RetryableError, call_with_retries
from g2a_archive.transport import address
from g2a_archive.transport.retry_after import retry_after

if TYPE_CHECKING:
    from g2a_archive.transport.sessions import Reply

TOKEN_URL = "https://authentication.logmeininc.com/oauth/token"  # noqa: S105 - an address

LARGEST_ANSWER = 64 * 1024
"""Bytes of an answer at most."""

DEFAULT_LIFETIME = 3600.0
"""Seconds that an access token lives where the answer does not say (vendor's reference)."""

_TIMEOUTS = 3
"""A whole call may take so many time-outs: to connect, for the first byte, for the rest."""

_REFUSALS = (400, 401, 403)
_REFUSED = re.compile(r"(invalid|unsupported|unauthorized)_[a-z_]+|access_denied")
"""What RFC 6749 calls a refusal: some endpoints say it with status 200."""

_TRANSIENT = (408, 425, 429)
_IDENTIFIER = re.compile(r"[a-z_]{1,40}")
_TOKEN = re.compile(r"[\x21-\x7e]+")


def require_safe_address(url: str, what: str) -> None:
    """Refuse an address that would send secrets in the clear, or nowhere.

    Raises `InputError` naming `what`, never the address.
    """
    try:
        address.validate_url(url)
    except ValueError as error:
        raise InputError(f"{what} cannot be used: {error}") from None


def plain_error_code(value: object) -> str:
    """Return an OAuth `error` code if it is a short plain identifier, else nothing."""
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else ""


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What the endpoint granted; `lifetime` in seconds; no refresh token: the old one stays."""

    access_token: str = field(repr=False)
    lifetime: float
    refresh_token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEndpoint:
    """The endpoint and the client that asks it; `timeout` in seconds, `retries` after the first."""

    url: str
    client_id: str
    client_secret: str = field(repr=False)
    timeout: float
    retries: int
    warn: Warn
    wait: Wait

    def ask(self, form: Mapping[str, str], hint: str, *, grace: float = 0.0) -> TokenAnswer:
        """Return what the endpoint grants for `form`; `hint` says what to do if it refuses.

        `grace`: seconds that the answer is still waited for when the run is asked to stop.

        Connection errors, 408, 429, 5xx and unreadable answers are tried again. Raises
        `CredentialsError` (400, 401, 403), `UnreachableError`, `BadResponseError`, `InputError`
        (certificates), `Interrupted`; none of them shows or is chained to anything secret.
        """
        return call_with_retries(
            lambda: self._ask_once(form, hint, grace), self.retries, tell=self.warn, wait=self.wait
        )

    def _ask_once(self, form: Mapping[str, str], hint: str, grace: float) -> TokenAnswer:
        """Return the answer; raises `RetryableError` for what may pass."""
        from g2a_archive.transport.errors import NetworkError
        from g2a_archive.transport.sessions import Caller, run_with_deadline

        if self.wait(0):
            raise Interrupted
        client = self.client_id.encode("latin-1"), self.client_secret.encode("latin-1")
        try:
            reply = run_with_deadline(
                lambda: Caller(self.timeout).call(
                    "POST", self.url, most=LARGEST_ANSWER, basic=client, form=form
                ),
                seconds=_TIMEOUTS * self.timeout,
                stopped=lambda: self.wait(0),
                grace=grace,
            )
        except NetworkError as error:
            kind = BadResponseError if error.not_http else UnreachableError
            failure = kind(f"{self._name}: {error}")
            raise (failure if error.final else RetryableError(failure)) from None
        return self._judge(reply, hint)

    @property
    def _name(self) -> str:
        return f"token endpoint {urlsplit(self.url).hostname}"

    def _judge(self, reply: Reply, hint: str) -> TokenAnswer:
        """Decide what an answer means."""
        status, told = reply.status, _json_object(reply.body)
        code = plain_error_code(told.get("error"))
        if status in _REFUSALS or (status == 200 and _REFUSED.fullmatch(code)):
            if code in ("invalid_client", "unauthorized_client"):
                hint = "check the client ID and the client secret"
            said = f"HTTP {status}, {code}" if code else f"HTTP {status}"
            raise CredentialsError(f"{self._name} refused ({said})", hint=hint)
        if status in _TRANSIENT or status >= 500:
            after = retry_after(reply.headers)
            raise RetryableError(BadResponseError(f"{self._name} answered HTTP {status}"), after)
        if status != 200:
            where = "check the token endpoint's address, and whether a proxy answers in its place"
            raise BadResponseError(f"{self._name} answered HTTP {status}", hint=where)
        answer = _token_answer(told)
        if answer is None:
            raise RetryableError(
                BadResponseError(f"{self._name} sent an answer that cannot be read")
            )
        return answer


def _json_object(body: bytes | None) -> Mapping[str, object]:
    """Return the JSON object in `body`; an empty one where there is none."""
    try:
        value = json.loads(body or b"")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _token_answer(answer: Mapping[str, object]) -> TokenAnswer | None:
    """Return a granted answer, checked; None if it cannot be used."""
    access, refresh = answer.get("access_token"), answer.get("refresh_token") or None
    if not isinstance(access, str) or not _TOKEN.fullmatch(access):
        return None
    if refresh is not None and not (isinstance(refresh, str) and _TOKEN.fullmatch(refresh)):
        return None
    try:
        lifetime = float(str(answer.get("expires_in", DEFAULT_LIFETIME)))
    except ValueError:
        lifetime = DEFAULT_LIFETIME
    if not 0 < lifetime < 1e9:
        lifetime = DEFAULT_LIFETIME
    return TokenAnswer(access, lifetime, refresh)
