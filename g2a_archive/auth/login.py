"""Signing in with a browser, for those without a personal access token: `login`, `logout`.

The authorization-code flow of OAuth 2.0 (RFC 6749, section 4.1) as the vendor has it: a person
opens the address that is shown and agrees; the browser is sent back to this machine with a code;
the code is exchanged for a refresh token. That and the client are kept in `login/` of the
configuration directory, where `with_stored_login` finds them for the runs to come.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from g2a_archive.archive.disk import strictpath
from g2a_archive.auth.credentials import AuthSettings, client_endpoint
from g2a_archive.auth.endpoint import TokenEndpoint, require_safe_address
from g2a_archive.auth.secretfile import (
    Wait,
    Warn,
    beside,
    check_secret,
    locked,
    read_secret,
    reserve_replacement,
)
from g2a_archive.errors import CredentialsError, InputError, storage_error

if TYPE_CHECKING:
    from g2a_archive.auth.redirect import AuthorizationResponse

AUTHORIZE_URL = "https://authentication.logmeininc.com/oauth/authorize"

REDIRECT_URI = "http://127.0.0.1:47113/"
"""Where the browser is sent back to by default; to be registered with the client as it is."""

TIME_LIMIT = 300.0
"""Seconds that a person has to sign in."""

_PASTES = 3
_FILES = ("client_id", "client_secret", "refresh_token")

Show = Callable[[str], None]
Ask = Callable[[str], str]


def login(
    settings: AuthSettings,
    config_dir: Path,
    *,
    authorize_url: str = AUTHORIZE_URL,
    redirect_uri: str = REDIRECT_URI,
    paste: bool = False,
    show: Show,
    ask: Ask,
    warn: Warn,
    wait: Wait,
    limit: float = TIME_LIMIT,
) -> Path:
    """Let a person sign in, and keep what later runs need; return the directory with it.

    `settings` holds the client (ID and secret), the token endpoint and its time-outs. With `paste`
    nothing listens: the person pastes the address that the browser was sent to. `show` prints,
    `ask` prompts. Raises `CredentialsError` (no client, refused, nobody came within `limit`
    seconds), `InputError` (an address or port that cannot be used), `ServiceError`, `StorageError`,
    `Interrupted`.
    """
    from g2a_archive.auth.redirect import RedirectListener  # an HTTP server: for this command alone

    endpoint = client_endpoint(settings, warn=warn, wait=wait)
    require_safe_address(authorize_url, "the authorization address")
    directory = _make_directory(config_dir)
    state = secrets.token_urlsafe(24)
    if paste:
        require_safe_address(redirect_uri, "the redirect address")
        show(_invitation(authorize_url, endpoint.client_id, redirect_uri, state))
        found = _pasted(state, show, ask)
    else:
        with RedirectListener(redirect_uri, state) as listener:
            redirect_uri = listener.redirect_uri
            show(_invitation(authorize_url, endpoint.client_id, redirect_uri, state))
            show(f"Waiting for the browser to come back to {redirect_uri} ...")
            response = listener.wait_for_response(limit, wait)
        if response is None:
            raise CredentialsError(
                f"nobody signed in within {limit:.0f} s",
                hint="try again; --paste where the browser cannot reach this machine",
            )
        found = response
    if found.error:
        raise CredentialsError(
            f"the sign-in did not succeed ({found.error})", hint="try again, and agree there"
        )
    _keep(directory, endpoint, _refresh_token(endpoint, found.code, redirect_uri), wait)
    return directory


def logout(config_dir: Path, *, wait: Wait) -> bool:
    """Forget the sign-in; return whether there was one.

    The service is not told: the refresh token ends there by its own age, or where the account's
    owner revokes it. Raises `StorageError`, `Interrupted`.
    """
    directory = _directory(config_dir)
    if not strictpath.is_dir(directory):
        return False
    found = False
    token = directory / "refresh_token"
    with locked(token, wait):  # not while a run is about to write a new one
        try:
            for name in reversed(_FILES):
                found |= _unlink(directory / name)
                _unlink(beside(directory / name, ".new"))
            _unlink(beside(token, ".lock"))
        except OSError as error:
            raise storage_error(error, "remove the sign-in from", directory) from None
    with suppress(OSError):  # something of the user's own is in there
        directory.rmdir()
    return found


def stored_login(config_dir: Path) -> AuthSettings | None:
    """Return the client and the refresh token that `login` has kept; None where there is none.

    Only `client_id`, `client_secret_file` and `refresh_token_file` are set. Raises
    `CredentialsError` if what is there cannot be read.
    """
    client_id, client_secret, refresh_token = (_directory(config_dir) / name for name in _FILES)
    if not all(map(os.path.exists, (client_id, client_secret, refresh_token))):
        return None
    return AuthSettings(
        client_id=read_secret(client_id, "the client ID"),
        client_secret_file=str(client_secret),
        refresh_token_file=str(refresh_token),
    )


def with_stored_login(settings: AuthSettings, config_dir: Path) -> AuthSettings:
    """Return `settings` with the stored sign-in where they hold no token or grant themselves.

    A sign-in of another client than the configured one is left alone. Raises as `stored_login`.
    """
    if settings.has_grant:
        return settings
    stored = stored_login(config_dir)
    if stored is None or (settings.client_id and settings.client_id != stored.client_id):
        return settings
    own_secret = bool(settings.client_id) and settings.has_client_secret
    return replace(
        settings,
        client_id=stored.client_id,
        client_secret=settings.client_secret if own_secret else None,
        client_secret_file=(settings if own_secret else stored).client_secret_file,
        refresh_token_file=stored.refresh_token_file,
    )


def _directory(config_dir: Path) -> Path:
    return config_dir / "login"


def _make_directory(config_dir: Path) -> Path:
    """Make the directory before anybody signs in for nothing."""
    directory = _directory(config_dir)
    try:
        config_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise storage_error(error, "make the directory", directory, option="") from None
    return directory


def _invitation(authorize_url: str, client_id: str, redirect_uri: str, state: str) -> str:
    """Return what to say of the address at which a person agrees."""
    query = urlencode(
        {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": redirect_uri,
            "state": state,
        }
    )
    parts = urlsplit(authorize_url)
    address = parts._replace(query="&".join(filter(None, (parts.query, query)))).geturl()
    return f"Open this address in a browser, and sign in there:\n\n  {address}\n"


def _pasted(state: str, show: Show, ask: Ask) -> AuthorizationResponse:
    """Return what a person pastes: the address that the browser was sent to, or its code."""
    from g2a_archive.auth.redirect import read_code, read_response

    for _ in range(_PASTES):
        text = ask("The address that the browser was sent to, or the code in it: ").strip()
        _, question, query = text.partition("?")
        if question or "code=" in text or "error=" in text:
            found = read_response((query if question else text).partition("#")[0], state)
        else:
            found = read_code(text)
        if found:
            return found
        show("That is not the answer to this sign-in. Please paste the whole address.")
    raise InputError(
        "nothing that was pasted belongs to this sign-in",
        hint="begin again, and paste the address that the browser shows after you agreed",
    )


def _refresh_token(endpoint: TokenEndpoint, code: str, redirect_uri: str) -> str:
    """Exchange an authorization code."""
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
    answer = endpoint.ask(
        form,
        hint="try again soon after signing in; the redirect address must be the registered one",
    )
    if answer.refresh_token is None:
        raise CredentialsError(
            "the service granted no refresh token",
            hint="check what the client is allowed to do, or use a personal access token",
        )
    return answer.refresh_token


def _keep(directory: Path, endpoint: TokenEndpoint, refresh_token: str, wait: Wait) -> None:
    """Keep the client and the refresh token, that one last: with it the sign-in is complete."""
    values = (endpoint.client_id, endpoint.client_secret, refresh_token)
    with locked(directory / _FILES[-1], wait):
        for name, value in zip(_FILES, values, strict=True):
            with reserve_replacement(directory / name) as store:
                store(check_secret(value, name))


def _unlink(path: Path) -> bool:
    """Remove a file; return whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
