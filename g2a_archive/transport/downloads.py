"""GETs of links: requests' adapter and its view of the environment, and no credentials at all."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urljoin

import requests

from g2a_archive.transport import address
from g2a_archive.transport.adapter import (
    CONNECT_TIMEOUT,
    USER_AGENT,
    FileAdapter,
    raw_of,
)
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
        self._timeout = min(CONNECT_TIMEOUT, timeout), timeout
        self.hosts = hosts
        self.network = Network(timeout)
        self._adapter = FileAdapter(self.network, connections=jobs)
        # Reads the environment as the service's calls do; sends nothing, and knows no secrets.
        self._session = requests.Session()
        self._environment: dict[str, Mapping[str, Any]] = {}

    def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """Send a GET, follow redirects, and return the answer with its body unread.

        `url` is one that `validate_url` let pass. Raises `NetworkError` where no answer came,
        or a redirect leads where it must not. The answer must be closed.
        """
        reused_hosts: set[HostPort] = set()
        for _ in range(_MOST_REDIRECTS + 1):
            request = self._prepared(url, headers)
            self.network.used.target = address.target_of(url)
            host = address.origin_of(url)
            response = self._ask(host, request)
            location = _location(response)
            answer = Answer(raw_of(response))
            reused_hosts |= answer.reused_hosts
            if location is None:
                answer.reused_hosts, answer.host = reused_hosts, host
                return answer
            answer.close()
            url = _redirected(url, location)
        raise NetworkError("too many redirects")

    def close(self) -> None:
        """Close every connection that is kept."""
        self._adapter.close()

    def _prepared(self, url: str, headers: Mapping[str, str]) -> requests.PreparedRequest:
        request = requests.PreparedRequest()
        try:
            request.prepare_method("GET")
            request.prepare_url(url, None)
        except (requests.RequestException, ValueError):  # whose texts would quote the address
            raise NetworkError("the address cannot be sent", final=True) from None
        # Ours, or printable ASCII: nothing that requests would have to look through.
        request.headers = cast(Any, {**_HEADERS, **headers})
        return request

    def _settings(self, url: str) -> Mapping[str, Any]:
        """Proxies and certificates for this host, as requests finds them in the environment."""
        origin = address.origin_of(url)
        if origin not in self._environment:
            self._environment[origin] = self._session.merge_environment_settings(
                url, {}, True, None, None
            )
        return self._environment[origin]

    def _ask(self, host: str, request: requests.PreparedRequest) -> requests.Response:
        """Send the request unless the host is known to be down, and tell what came of it."""
        self.hosts.check(host)
        try:
            response = self._send(request)
        except NetworkError as error:
            error.failed_host = host
            self.hosts.record_failure(host, str(error), at_once=error.at_once)
            raise
        if is_host_failure(status := response.status_code):
            wait = retry_after(raw_of(response).headers)
            self.hosts.record_failure(host, f"it answered {status}", at_once=True, wait=wait)
        else:
            self.hosts.record_success(host)
        return response

    def _send(self, request: requests.PreparedRequest) -> requests.Response:
        network = self.network
        for again in (False, True):
            network.used.connection = None
            try:
                response = self._adapter.send(
                    request, timeout=self._timeout, **self._settings(request.url or "")
                )
                if again or not _is_unsolicited(response, network.used.connection):
                    return response
                raw_of(response).close()
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


def _is_unsolicited(response: requests.Response, connection: Any) -> bool:
    """Whether this may be what a host says to a connection that is idle, as it ends it (HAProxy's
    400 and 408, say): it may have come just as the request went out."""
    ends = cast(Any, raw_of(response))._original_response.will_close
    said = response.status_code in (400, 408) or (response.status_code == 404 and ends)
    return said and connection.answers > 1


def _location(response: requests.Response) -> str | None:
    """Where a redirect leads; None where it is none."""
    location = raw_of(response).get_redirect_location() or ""
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
