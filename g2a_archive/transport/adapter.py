"""The one set-up of requests and urllib3: sessions, their adapters, and certificates.

The libraries speak HTTP, keep the pools, and read proxies and certificates from the environment.
"""

from __future__ import annotations

import os
import ssl
import sys
import threading
from functools import cache
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from g2a_archive import __version__
from g2a_archive.errors import InputError
from g2a_archive.transport.connections import Network, track

USER_AGENT = f"g2a-archive/{__version__} (Python {sys.version_info.major}.{sys.version_info.minor})"

CONNECT_TIMEOUT = 10.0
"""Seconds to connect to one address, or `--timeout` if that is shorter."""


class Adapter(HTTPAdapter):
    """requests' adapter, on connections of ours. No request is ever repeated by it."""

    def __init__(self, network: Network, *, connections: int) -> None:
        """Pools for the four hosts used last, with so many idle `connections` each."""
        self._network = network
        self._lock = threading.Lock()
        super().__init__(pool_connections=4, pool_maxsize=connections, max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **more: Any) -> Any:
        """A host's pool, as requests finds it, with connections of ours."""
        with self._lock:  # of a proxy, two threads would make two managers
            pool = super().get_connection_with_tls_context(*args, **more)
            track(pool, self._network)
        return pool


class Session(requests.Session):
    """A session that follows no redirect, and looks at none.

    `requests` reads a redirect's whole body, and parses its `Location`, even where it is told not
    to follow it: both can be anything.
    """

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.headers["User-Agent"] = USER_AGENT
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, always."""
        return


def check_certificates() -> None:
    """Raise `InputError` for a `REQUESTS_CA_BUNDLE` (or `CURL_CA_BUNDLE`) that cannot be used."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if bundle := os.environ.get(name):
            if (what := _wrong_with(bundle)) is not None:
                raise InputError(
                    f"{name} names {bundle!r}, which cannot be used: {what}",
                    hint="name a file of certificates in PEM form, or unset it",
                )
            return


@cache  # a usual bundle takes a tenth of a second to load
def _wrong_with(bundle: str) -> str | None:
    folder = os.path.isdir(bundle)
    try:
        ssl.create_default_context(
            cafile=None if folder else bundle, capath=bundle if folder else None
        )
    except ssl.SSLError:
        return "it holds no certificates"
    except OSError as error:
        return str(error.strerror)
    return None
