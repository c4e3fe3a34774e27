"""GETs of links: requests' view of the environment, urllib3's pools, and no credentials at all.

A host's pool is found once, and no request or answer is dressed up as requests has them: a GET of a
small file takes 0.27 ms of CPU so, and 0.37 by requests' adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urljoin
from weakref import WeakValueDictionary

import requests
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, Timeout
from urllib3.exceptions import LocationValueError

from g2a_archive.transport import address
from g2a_archive.transport.adapter import CONNECT_TIMEOUT, USER_AGENT, Adapter
from g2a_archive.transport.answer import Answer, is_host_failure
from g2a_archive.transport.connections import HostPort, Network
from g2a_archive.transport.errors import NetworkError, translate_error
from g2a_archive.transport.hosts import CircuitBreaker
from g2a_archive.transport.retry_after import retry_after

_MOST_REDIRECTS = 5
_HEADERS = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", "Accept": "*/*"}


class Downloads:
    """All of a run's connections to file hosts. Every method may be called by any thread.

    `network` tells and ends what is under way on them, `hosts` which of them are down.
    """

    def __init__(self, timeout: float, *, jobs: int, hosts: CircuitBreaker) -> None:
        """`timeout` in seconds, for headers to come and for each read; `jobs` at a time."""
        self._timeout = Timeout(connect=min(CONNECT_TIMEOUT, timeout), read=timeout)
        self.hosts = hosts
        self.network = Network(timeout)
        self._adapter = Adapter(self.network, connections=jobs)
        # Reads the environment as the service's calls do; sends nothing, and knows no secrets.
        self._session = requests.Session()
        # Nothing but this would keep a pool that the library has let go of, and its connections.
        self._pools: WeakValueDictionary[str, HTTPConnectionPool] = WeakValueDictionary()

    def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """Send a GET, follow redirects, and return the answer with its body unread.

        `url` is one that `validate_url` let pass. Raises `NetworkError` where no answer came,
        or a redirect leads where it must not. The answer must be closed.
        """
        reused_hosts: set[HostPort] = set()
        for _ in range(_MOST_REDIRECTS + 1):
            self._pool(url)  # what keeps it from being had is no failure of the host
            raw = self._ask(url, headers)
            location = _location(raw)
            answer = Answer(raw)
            reused_hosts |= answer.reused_hosts
            if location is None:
                answer.reused_hosts, answer.host = reused_hosts, address.origin_of(url)
                return answer
            answer.close()
            url = _redirected(url, location)
        raise NetworkError("too many redirects")

    def close(self) -> None:
        """Close every connection that is kept, also where something still knows of its pool: the
        library's own waits until nothing does."""
        for pool in list(self._pools.values()):
            pool.close()
        self._adapter.close()

    def _pool(self, url: str) -> HTTPConnectionPool:
        """The host's connections, by the proxies and certificates that requests finds for it.

        Raises `NetworkError`.
        """
        origin = address.origin_of(url)
        pool = self._pools.get(origin)
        if pool is None or pool.pool is None:  # one that was closed to make room for others
            request = requests.PreparedRequest()
            try:
                request.prepare_url(url, None)
            except (requests.RequestException, ValueError):  # whose texts would quote the address
                raise NetworkError("the address cannot be sent", final=True) from None
            found = self._session.merge_environment_settings(url, {}, True, None, None)
            verify, proxies = found["verify"], found["proxies"]
            try:
                pool = self._adapter.get_connection_with_tls_context(request, verify, proxies)
                cast(Any, self._adapter).cert_verify(pool, url, verify, None)
            except LocationValueError as error:  # a proxy's, as in requests' own adapter
                raise translate_error(requests.exceptions.InvalidURL(error)) from None
            except Exception as error:
                raise translate_error(error) from None
            self._pools[origin] = pool
        return pool

    def _ask(self, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Send the request unless the host is known to be down, and tell what came of it."""
        host = address.origin_of(url)
        self.hosts.check(host)
        try:
            raw = self._send(url, headers)
        except NetworkError as error:
            error.failed_host = host
            self.hosts.record_failure(host, str(error), at_once=error.at_once)
            raise
        if is_host_failure(raw.status):
            wait = retry_after(raw.headers)
            self.hosts.record_failure(host, f"it answered {raw.status}", at_once=True, wait=wait)
        else:
            self.hosts.record_success(host)
        return raw

    def _send(self, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        network, origin = self.network, address.origin_of(url)
        for again in (False, True):
            network.used.connection = None
            try:
                pool = self._pool(url)
                # A proxy that speaks plain HTTP to the host is to get all of the address.
                start = origin if pool.proxy and origin.startswith("http:") else ""
                network.used.target = f"{start}{address.target_of(url)}"
                raw = pool.urlopen(
                    "GET",
                    f"{start}/",
                    headers={**_HEADERS, **headers},
                    timeout=self._timeout,
                    retries=False,
                    redirect=False,
                    assert_same_host=False,
                    preload_content=False,
                    decode_content=False,
                )
                if again or not _is_unsolicited(raw, network.used.connection):
                    return raw
                raw.close()
                raise NetworkError("the file host closed a kept connection")
            except Exception as error:  # hostile headers raise all sorts
                found = translate_error(error)
            used = network.used.connection
            if used is None or not used.answers or network.aborted or found.final:
                break
            # The host may have closed a kept connection meanwhile, or forgotten it: the others
            # are as old. That is no failure of this file, so it gets a new connection at once.
            network.expire((used.host, used.port))
            if again or found.timed_out:
                break
        raise found from None


def _is_unsolicited(raw: BaseHTTPResponse, connection: Any) -> bool:
    """Whether this may be what a host says to a connection that is idle, as it ends it (HAProxy's
    400 and 408, say): it may have come just as the request went out."""
    ends = cast(Any, raw)._original_response.will_close
    said = raw.status in (400, 408) or (raw.status == 404 and ends)
    return said and connection.answers > 1


def _location(raw: BaseHTTPResponse) -> str | None:
    """Where a redirect leads; None where it is none."""
    location = raw.get_redirect_location() or ""
    with suppress(UnicodeError):
        # Headers are read as Latin-1, and some hosts write UTF-8.
        return location.encode("latin-1").decode() or None
    return None


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads. Raises `NetworkError`."""
    try:
        target = urljoin(url, location)
    except ValueError:  # whose text would quote the address
        raise NetworkError("a redirect cannot be followed: it is no address") from None
    try:
        address.validate_url(target)
    except ValueError as error:
        raise NetworkError(f"a redirect cannot be followed: {error}") from None
    return target
