"""The sources of access tokens: given, in a file, or granted by the token endpoint.

Each `fetch` brings a token; keeping it, and knowing when to fetch the next,
is the work of `credentials`.
"""

from __future__ import annotations

import base64
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import cache

from g2a_archive.auth.endpoint import TokenAnswer, TokenEndpoint
from g2a_archive.auth.secretfile import (
    Wait,
    Warn,
    check_secret,
    locked,
    read_secret,
    reserve_replacement,
)
from g2a_archive.errors import CredentialsError, Interrupted


class TokenSource(ABC):
    """What hands out access tokens."""

    description: str
    """What a person calls it; no secret in it."""
    renewable = True
    granted = True
    """Whether each `fetch` asks the token endpoint, whose answer counts even where it is the same
    token: it may give one out for as long as it lives."""
    grace = 0.0
    """Seconds for which a renewal under way is waited for at the end of a run."""

    @abstractmethod
    def fetch(self) -> tuple[str, float | None]:
        """Return an access token and its lifetime in seconds, as far as that is known."""

    @abstractmethod
    def secrets(self) -> frozenset[str]:
        """Return what must not be seen in any output."""

    def renewed(self) -> float | None:
        """When it was last renewed (Unix time), where it lapses if nobody uses it; else None."""
        return None


class FixedToken(TokenSource):
    """An access token that a person gave."""

    description = "an access token"
    renewable = False

    def __init__(self, token: str) -> None:
        self._token = _checked_token(token, "the access token")

    def fetch(self) -> tuple[str, float | None]:
        return self._token, None

    def secrets(self) -> frozenset[str]:
        return frozenset({self._token})


class TokenFile(TokenSource):
    """A file with an access token, which another program may renew."""

    granted = False

    def __init__(self, path: str, warn: Warn, wait: Wait) -> None:
        self._path, self._wait = path, wait
        self.description = f"the access token in {path}"
        self._first: str | None = self._read_patiently(cache(warn))  # which is told once
        self._seen = frozenset({self._first})

    def fetch(self) -> tuple[str, float | None]:
        token, self._first = self._first or self._read_patiently(), None
        self._seen |= {token}
        return token, None

    def secrets(self) -> frozenset[str]:
        return self._seen

    def _read_patiently(self, warn: Warn | None = None) -> str:
        try:
            return self._read(warn)
        except CredentialsError:  # it may just be being written
            if self._wait(1.0):
                raise Interrupted from None
        return self._read(warn)

    def _read(self, warn: Warn | None = None) -> str:
        what = "the access token"
        return _checked_token(read_secret(self._path, what, warn=warn), f"{what} in {self._path}")


class PersonalAccessToken(TokenSource):
    """A client with a personal access token (`grant_type=personal_access_token`)."""

    description = "a client with a personal access token"

    def __init__(self, endpoint: TokenEndpoint, pat: str) -> None:
        self._endpoint, self._pat = endpoint, pat

    def fetch(self) -> tuple[str, float | None]:
        answer = self._endpoint.ask(
            {"grant_type": "personal_access_token", "pat": self._pat},
            hint="check the personal access token: it may have expired or been revoked; and that "
            "it belongs to this client",
        )
        return answer.access_token, answer.lifetime

    def secrets(self) -> frozenset[str]:
        return _client_secrets(self._endpoint) | {self._pat}


class RefreshToken(TokenSource):
    """A client with a refresh token in a file, where its replacements are kept."""

    # The old one may be spent by the call: the answer, with the new one, must not be missed.
    grace = 5.0

    def __init__(self, endpoint: TokenEndpoint, path: str, warn: Warn) -> None:
        self._endpoint, self._path = endpoint, path
        self.description = f"a client with the refresh token in {path}"
        self._seen = frozenset({self._read(warn)})

    def fetch(self) -> tuple[str, float | None]:
        # Read under the lock, as another process may have got a new one; and room for the next
        # one is made before this one is spent, for then it may be dead.
        with locked(self._path, self._endpoint.wait) as target:
            token = self._read()
            self._seen |= {token}
            with reserve_replacement(target) as store:
                answer = self._ask(token)
                if answer.refresh_token and answer.refresh_token != token:
                    self._seen |= {answer.refresh_token}
                    store(answer.refresh_token)
                else:
                    with suppress(OSError):
                        os.utime(target)  # its age is the time since its last use
        return answer.access_token, answer.lifetime

    def secrets(self) -> frozenset[str]:
        return _client_secrets(self._endpoint) | self._seen

    def renewed(self) -> float | None:
        try:
            return os.stat(self._path).st_mtime
        except OSError:
            return None

    def _read(self, warn: Warn | None = None) -> str:
        return read_secret(self._path, "the refresh token", warn=warn)

    def _ask(self, token: str) -> TokenAnswer:
        form = {"grant_type": "refresh_token", "refresh_token": token}
        return self._endpoint.ask(
            form,
            hint="the refresh token has expired or been revoked: `g2a-archive login` again",
            grace=self.grace,
        )


def _client_secrets(endpoint: TokenEndpoint) -> frozenset[str]:
    """Return the client's secret, plain and as HTTP Basic encodes it."""
    pair = f"{endpoint.client_id}:{endpoint.client_secret}".encode("latin-1")
    return frozenset({endpoint.client_secret, base64.b64encode(pair).decode()})


def _checked_token(value: str, what: str) -> str:
    """Return an access token that fits behind `Bearer`; raises `CredentialsError`."""
    token = check_secret(value, what)
    if " " in token or "\xa0" in token:
        raise CredentialsError(
            f"{what} holds a space", hint="give the token alone, without a word such as Bearer"
        )
    return token
