"""Connections to file hosts: kept, given up, timed out, ended from another thread."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import cli_here
from support.bodies import body_of, downloads_of
from support.host import Authority, Host, Script, answer, chunks, cut_off, reset
from urllib3 import HTTPConnectionPool

from g2a_archive.demo import SimulatedService
from g2a_archive.errors import InputError
from g2a_archive.transport import answer as answers
from g2a_archive.transport import connections
from g2a_archive.transport.adapter import check_certificates
from g2a_archive.transport.answer import Answer
from g2a_archive.transport.downloads import Downloads
from g2a_archive.transport.errors import NetworkError

BODY = random.Random(4).randbytes(300_000)


def read_into(came: bytearray, found: Answer) -> None:
    """Read on, for ever."""
    while True:
        came += found.read(1 << 20)


def sends(data: bytes) -> Script:
    return lambda sock: sock.sendall(data)


def test_one_connection_serves_many(host: Host, downloads: Downloads) -> None:
    host.script = sends(answer(BODY))
    assert [body_of(downloads, host.url) == BODY for _ in range(3)] == [True] * 3
    assert host.accepted == 1


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "403 Forbidden", "416 No"])
def test_what_follows_an_empty_answer_is_asked_for_once(
    status: str, host: Host, downloads: Downloads
) -> None:
    empty = answer(b"", status=status, length=not status.startswith("204"))
    host.script = lambda sock: sock.sendall(empty if len(host.requests) == 1 else answer(BODY))
    assert body_of(downloads, host.url) == b""
    assert [body_of(downloads, host.url) == BODY for _ in range(2)] == [True] * 2
    assert (host.accepted, len(host.requests)) == (1, 3)


def test_a_body_where_there_can_be_none_is_nobody_s(host: Host, downloads: Downloads) -> None:
    line = "Transfer-Encoding: chunked"
    empty = answer(b"5\r\nhello\r\n0\r\n\r\n", line, status="204 No Content", length=False)
    host.script = lambda sock: sock.sendall(empty if len(host.requests) == 1 else answer(BODY))
    assert body_of(downloads, host.url) == b""
    assert body_of(downloads, host.url) == BODY
    assert (host.accepted, len(host.requests)) == (2, 2)


def test_an_empty_answer_is_over_where_the_host_hangs_up(host: Host, downloads: Downloads) -> None:
    host.script = sends(answer(b"", "Connection: close"))
    found = downloads.get(host.url, {})
    found.close()
    assert found._raw.closed
    assert found._raw._fp.isclosed()  # type: ignore[attr-defined]


def test_a_redirect_is_not_kept_until_the_end(host: Host, downloads: Downloads) -> None:
    there = answer(b"moved", "Location: /b", status="302 Found")
    host.script = lambda sock: sock.sendall(there if b" /a " in host.head else answer(BODY))
    assert body_of(downloads, host.url) == BODY
    assert host.accepted == 1


def test_who_gives_up_in_the_middle_waits_for_nothing(host: Host, downloads: Downloads) -> None:
    """Were the rest read to keep the connection, a host that trickles would hold a worker."""
    given_up = threading.Event()

    def script(sock: socket.socket) -> None:
        head, body = answer(b"x" * 100)[:-100], b"x" * 100
        sock.sendall(head + body[:10])
        assert given_up.wait(30)
        sock.sendall(body[10:])

    host.script = script
    found = downloads.get(host.url, {})
    assert len(found.read(10)) == 10
    releasing = threading.Thread(target=found.close)
    releasing.start()
    releasing.join(1.5)  # the time-out, for which the old way waited, is 2 s
    assert not releasing.is_alive()
    given_up.set()


@pytest.mark.parametrize("chunked", [False, True])
def test_what_an_error_says_costs_no_connection(
    chunked: bool, host: Host, downloads: Downloads
) -> None:
    lines = ["Transfer-Encoding: chunked"] if chunked else []
    words = chunks(BODY[:5000], 30) if chunked else BODY[:5000]
    busy = answer(words, *lines, status="503 Slow Down", length=not chunked)
    host.script = lambda sock: sock.sendall(busy if len(host.requests) == 1 else answer(BODY))
    found = downloads.get(host.url, {})
    head = found.error_head(100)
    assert head == BODY[:100], "however small the pieces are in which it comes"
    found.close()
    assert body_of(downloads, host.url) == BODY
    assert host.accepted == 1


@pytest.mark.parametrize(
    ("lines", "length"), [(("Link: </a.css>",), False), ((), True)], ids=["plain", "with a length"]
)
def test_an_interim_answer_is_not_the_file(
    lines: tuple[str, ...], length: bool, host: Host, downloads: Downloads
) -> None:
    """Or the file itself would come later, as the next one."""
    interim = answer(b"", *lines, status="103 Early Hints", length=length)

    def script(sock: socket.socket) -> None:
        number = len(host.requests)
        sock.sendall(interim)
        sock.sendall(interim + answer(b"file %d" % number))

    host.script = script
    assert [body_of(downloads, host.url) for _ in range(2)] == [b"file 1", b"file 2"]
    assert host.accepted == 1


@pytest.mark.parametrize("status", ["101 Switching Protocols", "103 Early Hints"])
def test_what_only_looks_like_an_answer_ends_the_connection(
    status: str, host: Host, downloads: Downloads
) -> None:
    endless = answer(b"", status=status) * 20
    host.script = lambda sock: sock.sendall(endless if len(host.requests) == 1 else answer(BODY))
    with pytest.raises(NetworkError, match="breaks the rules of HTTP"):
        downloads.get(host.url, {})
    assert body_of(downloads, host.url) == BODY
    assert host.accepted == 2


def test_a_kept_connection_that_the_host_closed_costs_no_failure(
    host: Host, downloads: Downloads
) -> None:
    """Also where its end is seen only once the next request is sent."""

    def script(sock: socket.socket) -> None:
        if len(host.requests) == 2:
            cut_off(sock)
            raise OSError
        sock.sendall(answer(BODY))

    host.script = script
    assert body_of(downloads, host.url) == BODY
    assert body_of(downloads, host.url) == BODY
    assert host.accepted == 2


def test_an_old_connection_is_not_used_again(
    host: Host, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.script = sends(answer(BODY))
    monkeypatch.setattr(connections, "_LONGEST_IDLE", 0.0)
    assert body_of(downloads, host.url) == body_of(downloads, host.url) == BODY
    assert host.accepted == 2


def test_a_connection_that_times_out_takes_the_old_ones_along(host: Host) -> None:
    """A load balancer that forgot one has forgotten all."""
    downloads = downloads_of(0.5, jobs=4)
    host.script = sends(answer(BODY))
    both = threading.Barrier(2)

    def together(_: int) -> None:
        found = downloads.get(host.url, {})
        both.wait(30)
        while found.read(100_000):
            pass
        found.close()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(together, range(2)))
        assert host.accepted == 2
        host.script = lambda _: host.silence()
        with pytest.raises(NetworkError, match="nothing came within the time-out"):
            downloads.get(host.url, {})
        assert host.accepted == 2
        host.script = sends(answer(BODY))
        list(pool.map(together, range(2)))  # else one of these would be by the other old one
    assert host.accepted == 4
    downloads.close()


def test_connecting_has_a_time_out_of_its_own(
    plain_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[object] = []
    urlopen = HTTPConnectionPool.urlopen

    def note(self: HTTPConnectionPool, *args: Any, **more: Any) -> Any:
        limits.append((more["timeout"].connect_timeout, more["timeout"].read_timeout))
        return urlopen(self, *args, **more)

    monkeypatch.setattr(HTTPConnectionPool, "urlopen", note)
    for timeout in (60.0, 2.5):
        body_of(downloads_of(timeout, jobs=1), plain_host.url)
    assert limits == [(10.0, 60.0), (2.5, 2.5)]


@pytest.mark.parametrize("begun", [False, True])
def test_abort_ends_a_wait(begun: bool, host: Host) -> None:
    """A signal takes effect at once, whatever the time-out is."""
    waiting = threading.Event()

    def script(sock: socket.socket) -> None:
        if begun:
            sock.sendall(answer(BODY)[:1000])
        waiting.set()
        host.silence()

    host.script = script
    downloads = downloads_of(3600.0, jobs=1)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(body_of, downloads, host.url)
        assert waiting.wait(30)
        while not ended.done():  # until it has come so far that it waits
            downloads.network.abort()
        assert ended.exception() is not None
    with pytest.raises(NetworkError, match="connection reset"):
        downloads.get(host.url, {})
    assert host.accepted == 1


def test_a_host_that_falls_silent(host: Host) -> None:
    downloads = downloads_of(0.3, jobs=1)

    def script(sock: socket.socket) -> None:
        sock.sendall(answer(BODY)[:100_000])
        host.silence()

    host.script = script
    found = downloads.get(host.url, {})
    came = bytearray()
    with pytest.raises(NetworkError, match="nothing came within the time-out"):
        read_into(came, found)
    head = answer(BODY).index(BODY[:50])
    assert len(came) == 100_000 - head, "what came before the stall is not lost"
    found.close()


def test_a_wait_that_begins_after_an_abort_ends_at_once() -> None:
    network = connections.Network(2.0)
    network.abort()
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(0)
        network.begin(here, 2.0)
        assert here.recv(1) == b""


def test_headers_that_trickle_run_out_of_time(host: Host) -> None:
    """The library's time-out counts from byte to byte."""
    downloads = downloads_of(0.5, jobs=1)
    stop = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\n")
        while not stop.wait(0.1):
            sock.sendall(b"X: y\r\n")

    host.script = script
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(downloads.get, host.url, {})
        while not ended.done():
            downloads.network.end_overdue()
        error = ended.exception()
    stop.set()
    assert isinstance(error, NetworkError)
    assert error.timed_out


LARGE = random.Random(5).randbytes(4 << 20)


@pytest.fixture
def tls(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host over TLS that counts as a quick one."""
    monkeypatch.setattr(answers, "_QUICK", 1e12)
    host = Host(authority.context())
    yield host
    host.close()


def test_a_quick_host_is_read_in_large_pieces_over_tls(tls: Host, downloads: Downloads) -> None:
    tls.script = sends(answer(LARGE))
    found = downloads.get(tls.url, {})
    pieces = list(iter(lambda: found.read(200_000), b""))
    found.close()
    assert b"".join(pieces) == LARGE
    assert sum(len(piece) == 200_000 for piece in pieces) > 10
    assert body_of(downloads, tls.url) == LARGE
    assert tls.accepted == 1


def test_a_quick_host_that_trickles_runs_out_of_time(
    tls: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's time-out counts from byte to byte, and such a read waits for many.

    A read whose socket loses its TLS meanwhile would go on with what came encrypted.
    """
    ended_tls: list[int] = []
    monkeypatch.setattr(ssl.SSLSocket, "shutdown", lambda _, how: ended_tls.append(how))
    downloads = downloads_of(0.5, jobs=1)
    stop, waited_for_all = threading.Event(), threading.Event()

    def script(sock: socket.socket) -> None:
        whole = answer(LARGE)
        sock.sendall(whole[: 3 << 20])
        for byte in whole[3 << 20 :][:100]:
            if stop.wait(0.1):
                return
            sock.sendall(bytes([byte]))
        waited_for_all.set()

    tls.script = script
    found = downloads.get(tls.url, {})
    came = bytearray()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(read_into, came, found)
        while not ended.done():
            downloads.network.end_overdue()
        error = ended.exception()
    stop.set()
    assert isinstance(error, NetworkError)
    assert not waited_for_all.is_set()
    assert ended_tls == []
    assert came == LARGE[: len(came)]
    assert len(came) > 2 << 20
    found.close()


@pytest.mark.parametrize("how", [cut_off, reset])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_early_end(how: Any, chunked: bool, host: Host, downloads: Downloads) -> None:
    def script(sock: socket.socket) -> None:
        line = "Transfer-Encoding: chunked"
        whole = answer(b"%x\r\n" % len(BODY) + BODY, line, length=False)
        sock.sendall((whole if chunked else answer(BODY))[:200_000])
        how(sock)
        raise OSError

    host.script = script
    with pytest.raises(NetworkError, match=r"closed early|connection reset|TLS connection failed"):
        body_of(downloads, host.url)


@pytest.mark.parametrize("how", [cut_off, reset])
def test_a_tls_end_that_was_not_announced_is_none(
    how: Any, authority: Authority, downloads: Downloads
) -> None:
    """All that had come may be all of the file, or not: who knows the length may tell."""
    host = Host(authority.context())

    def script(sock: socket.socket) -> None:
        sock.sendall(answer(BODY, length=False))
        how(sock)
        raise OSError

    host.script = script
    found = downloads.get(host.url, {})
    came = bytearray()
    with pytest.raises(NetworkError) as caught:
        read_into(came, found)
    assert came == BODY[: len(came)]
    assert caught.value.ragged_end or how is reset
    found.close()
    host.close()


# --- certificates -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expired", "word"),
    [
        ("localhost", True, "has expired"),
        ("elsewhere.example", False, "is for another name"),
    ],
)
def test_a_certificate_that_is_wrong(
    name: str, expired: bool, word: str, authority: Authority, downloads: Downloads
) -> None:
    host = Host(authority.context(name, expired=expired))
    with pytest.raises(NetworkError, match=word) as caught:
        downloads.get(host.url, {})
    assert caught.value.unreachable
    host.close()


def test_a_certificate_of_an_unknown_authority(
    authority: Authority, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(authority.context())
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(NetworkError, match="of no authority that is trusted here"):
        downloads.get(host.url, {})
    host.close()


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize(
    ("content", "word"), [(None, "No such file"), (b"not PEM", "no certificates")]
)
def test_a_bundle_that_cannot_be_used(
    name: str, content: bytes | None, word: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    monkeypatch.setenv(name, str(bundle))
    with pytest.raises(InputError, match=word) as caught:
        check_certificates()
    assert str(bundle) in caught.value.message
    monkeypatch.delenv(name)
    check_certificates()


def test_a_bundle_that_is_missing_ends_a_run_before_it_begins(
    service: SimulatedService, root: Path
) -> None:
    args: list[str | int | Path] = ["download", "--dest", root, *service.recordings]
    result = cli_here(args, {**service.environment(), "REQUESTS_CA_BUNDLE": "/no/such/file.pem"})
    assert result.returncode == 2
    assert "REQUESTS_CA_BUNDLE names '/no/such/file.pem'" in result.stderr
    assert "Traceback" not in result.stderr
    assert not service.requests.counts
