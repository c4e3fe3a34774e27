"""The token endpoint and the authorization page: OAuth 2.0 as the vendor's account service has it.

Sources: the vendor's public reference on personal access tokens and on renewal; RFC 6749 for the
rest, such as the names of errors.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import threading
from urllib.parse import urlencode, urlsplit, urlunsplit

from g2a_archive.demo.behaviour import Behaviour
from g2a_archive.demo.messages import Request, Response

TOKEN_PATH = "/oauth/token"
AUTHORIZE_PATH = "/oauth/authorize"


class AuthorizationServer:
    """Who may call, and how one comes to a token."""

    def __init__(self, behaviour: Behaviour) -> None:
        """Begin without any token."""
        self._behaviour = behaviour
        self._lock = threading.Lock()
        self._expiry: dict[str, float] = {}
        self._refresh: dict[str, str | None] = {}
        """Each refresh token that is valid, with the one that it is to replace."""
        self._codes: dict[str, str] = {}
        """Each authorization code that is valid, with its redirect address."""

    def issue(self, lifetime: float | None = None) -> str:
        """Return a new access token; those before it stay valid."""
        seconds = self._behaviour.token_lifetime if lifetime is None else lifetime
        token = f"access-{secrets.token_hex(16)}"
        with self._lock:
            self._expiry[token] = self._behaviour.clock() + seconds
        return token

    def issue_refresh(self, replaces: str | None = None) -> str:
        """Return a new refresh token; the one that it replaces is valid until its first use."""
        token = f"refresh-{secrets.token_hex(16)}"
        with self._lock:
            self._refresh[token] = replaces
        return token

    def revoke(self, token: str | None = None) -> None:
        """End one token of either sort, or all access tokens."""
        with self._lock:
            if token is None:
                self._expiry.clear()
            else:
                self._expiry.pop(token, None)
                self._refresh.pop(token, None)

    def header(self, token: str) -> str:
        """Return the Authorization header that a token goes into."""
        return f"{self._prefix()}{token}"

    def accepts(self, header: str) -> bool:
        """Return whether an Authorization header holds a token that is valid now."""
        prefix = self._prefix()
        if header[: len(prefix)].lower() != prefix.lower():
            return False
        with self._lock:
            expiry = self._expiry.get(header[len(prefix) :])
        return expiry is not None and self._behaviour.clock() < expiry

    def _prefix(self) -> str:
        return "OAuth oauth_token=" if self._behaviour.auth_scheme == "oauth" else "Bearer "

    def token_answer(self, request: Request) -> Response:
        """Answer the token endpoint."""
        if request.method != "POST":
            return Response.json({"error": "invalid_request"}, 405)
        if not self._is_client(request.headers.get("authorization", "")):
            answer = Response.json({"error": "invalid_client"}, 401)
            return Response(401, {**answer.headers, "WWW-Authenticate": "Basic"}, answer.body)
        form = request.form()
        grant = form.get("grant_type")
        if grant == "personal_access_token":
            return self._grant(self._is_pat(form.get("pat", "")))
        if grant == "refresh_token":
            return self._renew(form.get("refresh_token", ""))
        if grant == "authorization_code":
            with self._lock:  # a code is good for one attempt
                address = self._codes.pop(form.get("code", ""), None)
            valid = address is not None and address == form.get("redirect_uri")
            return self._grant(valid, self.issue_refresh() if valid else None)
        error = "unsupported_grant_type" if grant else "invalid_request"
        return Response.json({"error": error}, 400)

    def _is_client(self, header: str) -> bool:
        scheme, _, value = header.partition(" ")
        try:
            given = base64.b64decode(value, validate=True)
        except binascii.Error:
            return False
        client = f"{self._behaviour.client_id}:{self._behaviour.client_secret}"
        return scheme.lower() == "basic" and hmac.compare_digest(given, client.encode())

    def _is_pat(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._behaviour.pat.encode())

    def _renew(self, given: str) -> Response:
        with self._lock:
            valid = given in self._refresh
            if valid:
                replaced = self._refresh[given]
                self._refresh[given] = None
                if replaced is not None:
                    self._revoke_family(given, replaced)
        rotates = valid and self._behaviour.rotate_refresh_tokens
        return self._grant(valid, self.issue_refresh(given) if rotates else None)

    def _revoke_family(self, used: str, replaced: str) -> None:
        """End what a token replaces, with the other replacements that were handed out for it."""
        self._refresh.pop(replaced, None)
        for token in [t for t, old in self._refresh.items() if old == replaced and t != used]:
            del self._refresh[token]

    def _grant(self, valid: bool, refresh: str | None = None) -> Response:
        if not valid:
            return Response.json({"error": "invalid_grant"}, 400)
        answer: dict[str, object] = {
            "access_token": self.issue(),
            "token_type": "Bearer",
            "expires_in": int(self._behaviour.token_lifetime),
        }
        if refresh is not None:
            answer["refresh_token"] = refresh
        return Response.json(answer)

    def authorize_answer(self, request: Request) -> Response:
        """Answer the authorization page: the user agrees at once and is sent back."""
        address = request.parameter("redirect_uri") or ""
        if request.parameter("client_id") != self._behaviour.client_id or not address:
            return Response(400, {"Content-Type": "text/plain"}, b"Unknown client or address\n")
        fields: dict[str, str] = {}
        if request.parameter("response_type") != "code":
            fields["error"] = "unsupported_response_type"
        elif self._behaviour.deny_authorization:
            fields["error"] = "access_denied"
        else:
            fields["code"] = f"code-{secrets.token_hex(16)}"
            with self._lock:
                self._codes[fields["code"]] = address
        state = request.parameter("state")
        if state is not None:
            fields["state"] = state
        parts = urlsplit(address)
        query = "&".join(filter(None, (parts.query, urlencode(fields))))
        return Response(302, {"Location": urlunsplit(parts._replace(query=query))})
