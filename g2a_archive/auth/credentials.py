"""Where an access token comes from, and renewing it: `credentials_from(settings)`.

::

    AuthSettings ──credentials_from──▶ Credentials ──authorization()──▶ "Bearer …"
                                            └── renew(refused header) ──▶ try once more?

Three sources, the first that is configured counts: an access token (or a file that holds one, which
another program may renew); a client with a personal access token; a client with a refresh token.
The last two renew themselves at the token endpoint (see `sources`), before the token's end
and when the service refuses it, once for all threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from g2a_archive.auth.endpoint import TOKEN_URL, TokenEndpoint, require_safe_address
from g2a_archive.auth.secretfile import Wait, Warn, check_secret, read_secret
from g2a_archive.auth.sources import (
    FixedToken,
    PersonalAccessToken,
    RefreshToken,
    TokenFile,
    TokenSource,
)
from g2a_archive.errors import CredentialsError, ServiceError

Scheme = Literal["bearer", "oauth"]

EARLY = 300.0
"""Seconds before its end at which a token is renewed; a third of its life if that is less."""

PAUSE_AFTER_FAILURE = 30.0
"""Seconds until an early renewal that failed is tried again, while the token still lives."""

_WHAT_TO_SET = (
    "set G2A_ARCHIVE_TOKEN or G2A_ARCHIVE_TOKEN_FILE; or, for unattended runs, "
    "G2A_ARCHIVE_CLIENT_ID and G2A_ARCHIVE_CLIENT_SECRET with G2A_ARCHIVE_PAT or "
    "G2A_ARCHIVE_REFRESH_TOKEN_FILE; or run `g2a-archive login`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """What is configured about credentials; empty strings are as good as None.

    Where a secret and a file for it are both given, the secret counts. `timeout` in seconds,
    `retries` of a call to the token endpoint after the first try.
    """

    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    client_secret_file: str | None = None
    pat: str | None = field(default=None, repr=False)
    pat_file: str | None = None
    refresh_token_file: str | None = None
    token_url: str = TOKEN_URL
    scheme: Scheme = "bearer"
    timeout: float = 60.0
    retries: int = 5

    @property
    def has_grant(self) -> bool:
        """Whether a token, or something to get one with, is configured."""
        return any((self.token, self.token_file, self.pat, self.pat_file, self.refresh_token_file))

    @property
    def has_client_secret(self) -> bool:
        """Whether a client secret, or a file for it, is configured."""
        return bool(self.client_secret or self.client_secret_file)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token; its `lifetime` in seconds counts from both clocks; None: nobody knows."""

    value: str = field(repr=False)
    lifetime: float | None
    monotonic: float
    wall: float

    def left(self, monotonic: float, wall: float) -> float:
        """Seconds that it still lives, by the clock that went further: either may stand or jump."""
        if self.lifetime is None:
            return float("inf")
        return self.lifetime - max(monotonic - self.monotonic, wall - self.wall)

    @property
    def margin(self) -> float:
        """Seconds before its end at which to renew it."""
        return 0.0 if self.lifetime is None else min(EARLY, self.lifetime / 3)


class Credentials:
    """The access token of a run, kept fresh; safe to use from several threads."""

    def __init__(
        self,
        source: TokenSource,
        *,
        scheme: Scheme = "bearer",
        warn: Warn,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._prefix = "OAuth oauth_token=" if scheme == "oauth" else "Bearer "
        self._warn = warn
        self._monotonic, self._wall = monotonic, wall
        self._lock = threading.Lock()
        self._token: AccessToken | None = None
        self._seen: frozenset[str] = frozenset()
        self._not_before = 0.0
        self._refusal: CredentialsError | None = None

    @property
    def renewable(self) -> bool:
        """Whether `renew` could ever bring another token."""
        return self._source.renewable

    @property
    def description(self) -> str:
        """Where the access token comes from, in words that hold no secret."""
        return self._source.description

    @property
    def renewed(self) -> float | None:
        """When a sign-in was last renewed (Unix time); None where that does not matter."""
        return self._source.renewed()

    def authorization(self) -> str:
        """Return the value of the Authorization header, renewed first if it is near its end.

        Raises `CredentialsError` (refused), `ServiceError` (the token endpoint failed to the end),
        `StorageError` (a new refresh token cannot be kept), `InputError`, `Interrupted`.
        """
        with self._lock:
            token = self._token
            if token is None:
                return self._header(self._fetch())
            left = token.left(self._monotonic(), self._wall())
            if left > token.margin or (left > 0 and self._monotonic() < self._not_before):
                return self._header(token)
            try:
                return self._header(self._fetch())
            except ServiceError as error:
                if token.left(self._monotonic(), self._wall()) <= 0:
                    raise
                self._not_before = self._monotonic() + PAUSE_AFTER_FAILURE
                self._warn(f"the access token is not renewed yet: {error.message}")
                return self._header(token)

    def renew(self, stale: str) -> bool:
        """Replace the token whose header the service refused; return whether to try once more.

        Of all threads whose `stale` is the same, one asks and the others get what it got. Raises
        as `authorization` does.
        """
        with self._lock:
            if self._token is not None and self._header(self._token) != stale:
                return True
            if not self.renewable:
                return False
            return self._header(self._fetch()) != stale or self._source.granted

    def wait_for_renewal(self) -> None:
        """Wait, not for long, for a renewal under way in another thread: what it brings is kept."""
        grace = self._source.grace
        if grace and self._lock.acquire(timeout=grace + 1.0):
            self._lock.release()

    def secrets(self) -> frozenset[str]:
        """Return every secret known so far, for the log to leave out; access tokens of old too."""
        return self._source.secrets() | self._seen

    def _header(self, token: AccessToken) -> str:
        return self._prefix + token.value

    def _fetch(self) -> AccessToken:
        if self._refusal is not None:  # it would not be granted to the next thread either
            raise CredentialsError(self._refusal.message, hint=self._refusal.hint)
        monotonic, wall = self._monotonic(), self._wall()  # before the call: rather too early
        try:
            value, lifetime = self._source.fetch()
        except CredentialsError as refusal:
            self._refusal = refusal
            raise
        self._seen |= {value}
        self._token = AccessToken(value, lifetime, monotonic, wall)
        return self._token


def credentials_from(
    settings: AuthSettings,
    *,
    warn: Warn,
    wait: Wait,
    monotonic: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> Credentials:
    """Return the credentials that are configured; the network is not touched yet.

    `warn` hears of secret files that others can read and of retries; `wait(seconds)` returns True
    when the run should stop (`threading.Event().wait` will do). Raises `CredentialsError` if there
    are none, if some part is missing or unusable; `InputError` for an unsafe token address.
    """
    source = _source(settings, warn, wait)
    return Credentials(source, scheme=settings.scheme, warn=warn, monotonic=monotonic, wall=wall)


def _source(settings: AuthSettings, warn: Warn, wait: Wait) -> TokenSource:
    if settings.token:
        return FixedToken(settings.token)
    if settings.token_file:
        return TokenFile(settings.token_file, warn, wait)
    if not (settings.has_grant or settings.client_id or settings.has_client_secret):
        raise CredentialsError("there are no credentials", hint=_WHAT_TO_SET)
    grant = (
        "a personal access token (G2A_ARCHIVE_PAT or _PAT_FILE) or a refresh token "
        "(G2A_ARCHIVE_REFRESH_TOKEN_FILE, or `g2a-archive login`)"
    )
    missing = () if settings.has_grant else (grant,)
    endpoint = client_endpoint(settings, warn=warn, wait=wait, also_missing=missing)
    pat = _secret(settings.pat, settings.pat_file, "the personal access token", warn)
    if pat:
        return PersonalAccessToken(endpoint, pat)
    assert settings.refresh_token_file
    return RefreshToken(endpoint, settings.refresh_token_file, warn)


def client_endpoint(
    settings: AuthSettings, *, warn: Warn, wait: Wait, also_missing: tuple[str, ...] = ()
) -> TokenEndpoint:
    """Return the token endpoint with the client that asks it.

    Raises `CredentialsError` that names what is missing or unusable, `InputError` for an unsafe
    address.
    """
    missing = list(also_missing)
    if not settings.has_client_secret:
        missing.insert(0, "the client secret (G2A_ARCHIVE_CLIENT_SECRET or _CLIENT_SECRET_FILE)")
    if not settings.client_id:
        missing.insert(0, "the client ID (G2A_ARCHIVE_CLIENT_ID)")
    if missing:
        raise CredentialsError(
            "the credentials are incomplete", hint="set " + " and ".join(missing)
        )
    require_safe_address(settings.token_url, "the token endpoint's address")
    return TokenEndpoint(
        url=settings.token_url,
        client_id=check_secret(settings.client_id or "", "the client ID"),
        client_secret=_secret(
            settings.client_secret, settings.client_secret_file, "the client secret", warn
        ),
        timeout=settings.timeout,
        retries=settings.retries,
        warn=warn,
        wait=wait,
    )


def _secret(value: str | None, path: str | None, what: str, warn: Warn) -> str:
    """Return a secret that is given itself or in a file; the empty string where neither is."""
    if value:
        return check_secret(value, what)
    return read_secret(path, what, warn=warn) if path else ""
