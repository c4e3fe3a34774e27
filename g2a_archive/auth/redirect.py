"""Where the browser comes back to after a sign-in: a listener on loopback with tiny pages.

A redirect counts only if it brings the `state` that this sign-in began with; whatever else
knocks gets a page that says so, and the waiting goes on.
"""

from __future__ import annotations

import hmac
import html
import queue
import re
import socket
import socketserver
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from g2a_archive.auth.endpoint import plain_error_code, require_safe_address
from g2a_archive.auth.secretfile import Wait
from g2a_archive.errors import InputError, Interrupted
from g2a_archive.threads import no_threads_error, spawn
from g2a_archive.transport.address import is_loopback

_POLL = 0.2
_CODE = re.compile(r"[\x21-\x7e]{1,4096}")
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<body style="font: 1.2em/1.5 system-ui, sans-serif; max-width: 32em; margin: 4em auto">
<h1>{title}</h1><p>{text}</p></body></html>
"""
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}


@dataclass(frozen=True, slots=True)
class AuthorizationResponse:
    """What a browser brought back: a `code`, or the `error` that there is instead."""

    code: str = field(default="", repr=False)
    error: str = ""


def read_code(text: str) -> AuthorizationResponse | None:
    """Return an authorization code as a response; None if it cannot be one."""
    return AuthorizationResponse(code=text) if _CODE.fullmatch(text) else None


def read_response(query: str, state: str) -> AuthorizationResponse | None:
    """Return what the query of a redirect says; None if it is not the response to `state`."""
    try:
        fields = parse_qs(query, max_num_fields=20)
    except ValueError:
        return None
    if any(len(values) > 1 for values in fields.values()):
        return None
    given = {name: values[0] for name, values in fields.items()}
    if not hmac.compare_digest(given.get("state", "").encode(), state.encode()):
        return None
    if "error" in given:
        return AuthorizationResponse(error=plain_error_code(given["error"]) or "no reason given")
    return read_code(given.get("code", ""))


class RedirectListener:
    """Listens on loopback for the redirect of one sign-in, from `with` to its end.

    Port 0 in `redirect_uri` means any free one; the attribute `redirect_uri` then has it.
    Raises `InputError` if that address is not loopback or cannot be listened on.
    """

    def __init__(self, redirect_uri: str, state: str) -> None:
        require_safe_address(redirect_uri, "the redirect address")
        parts = urlsplit(redirect_uri)
        host, port = parts.hostname or "", 80 if parts.port is None else parts.port
        if parts.scheme != "http" or not is_loopback(host):
            raise InputError(
                "this machine cannot listen on the redirect address",
                hint="use http://127.0.0.1:PORT/ (as registered with the client), or --paste",
            )
        self._arrived: queue.Queue[AuthorizationResponse] = queue.Queue()
        bound = "127.0.0.1" if host.lower() == "localhost" else host
        try:
            self._server = _Server((bound, port), parts.path or "/", state, self._arrived)
        except OSError as error:
            raise InputError(
                f"cannot listen on port {port}: {error.strerror}",
                hint="choose another --redirect-uri, or --paste",
            ) from None
        self.redirect_uri = redirect_uri  # as registered, to the letter
        if port == 0:
            name = f"[{host}]" if ":" in host else host
            netloc = f"{name}:{self._server.server_address[1]}"
            self.redirect_uri = parts._replace(netloc=netloc).geturl()

    def __enter__(self) -> Self:
        """Begin to listen. Raises `StorageError` where there is no thread for it."""
        if spawn(self._server.serve_forever, 0.05) is None:
            self._server.server_close()
            raise no_threads_error()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def wait_for_response(self, limit: float, wait: Wait) -> AuthorizationResponse | None:
        """Return the response, or None if there is none within `limit` seconds.

        Raises `Interrupted` when `wait` says that the run should stop.
        """
        deadline = time.monotonic() + limit
        while not wait(0):
            left = deadline - time.monotonic()
            try:
                return self._arrived.get(timeout=max(0.0, min(_POLL, left)))
            except queue.Empty:
                if left <= 0:
                    return None
        raise Interrupted


class _Server(socketserver.ThreadingTCPServer):
    """A thread for each connection: browsers open some that they never use."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        address: tuple[str, int],
        path: str,
        state: str,
        arrived: queue.Queue[AuthorizationResponse],
    ) -> None:
        self.path, self.state, self.arrived = path, state, arrived
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that hangs up is no event, and a traceback holds the code."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10

    def do_GET(self) -> None:
        """Answer the redirect, or whatever else came."""
        parts = urlsplit(self.path)
        if parts.path != self.server.path:
            self._page(HTTPStatus.NOT_FOUND, "Nothing here", "This is not the sign-in's address.")
            return
        found = read_response(parts.query, self.server.state)
        if found is None:
            self._page(
                HTTPStatus.BAD_REQUEST,
                "Not this sign-in",
                "This does not belong to the sign-in that g2a-archive waits for. Please open the "
                "address that the terminal shows.",
            )
            return
        if found.error:
            text = f"The service said: {found.error}. The terminal says what to do."
            self._page(HTTPStatus.OK, "Not signed in", text)
        else:
            text = "g2a-archive goes on in the terminal. You may close this page."
            self._page(HTTPStatus.OK, "Thank you", text)
        self.server.arrived.put(found)

    def _page(self, status: HTTPStatus, title: str, text: str) -> None:
        body = _PAGE.format(title=html.escape(title), text=html.escape(text)).encode()
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Name the program, not Python's version."""
        return "g2a-archive"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing: the line would hold the code."""
