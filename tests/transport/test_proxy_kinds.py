"""What holds for a direct connection holds through every kind of proxy."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.bodies import downloads_of
from support.host import Authority, Host, answer, cut_off
from support.proxy import Proxy

from g2a_archive.transport.answer import Answer
from g2a_archive.transport.downloads import Downloads
from g2a_archive.transport.errors import NetworkError

BODY = b"what the host has" * 100
URL = "https://files.example/a?secret"
ADDRESS = ipaddress.ip_address("2001:db8::7")


@pytest.fixture
def secure(authority: Authority) -> Iterator[Host]:
    host = Host(authority.context("files.example", "localhost", "b\u00fccher.test", "2001:db8::7"))
    host.script = lambda sock: sock.sendall(answer(BODY))
    yield host
    host.close()


@pytest.fixture(params=["http", "tls", "socks"])
def proxy(
    request: pytest.FixtureRequest,
    secure: Host,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Proxy]:
    kind = request.param
    if kind == "socks":
        pytest.importorskip("socks")
    made = Proxy(
        secure, context=authority.context() if kind == "tls" else None, socks=kind == "socks"
    )
    monkeypatch.setenv("ALL_PROXY", made.url)
    yield made
    made.close()


def fetched(downloads: Downloads, url: str = URL) -> bytes:
    """The whole body."""
    found = downloads.get(url, {})
    try:
        return b"".join(iter(lambda: found.read(1000), b""))
    finally:
        found.close()


@pytest.fixture
def downloads() -> Iterator[Downloads]:
    made = downloads_of(20.0, jobs=2)
    yield made
    made.close()


def test_one_connection_serves_many(proxy: Proxy, secure: Host, downloads: Downloads) -> None:
    assert [fetched(downloads) for _ in range(3)] == [BODY] * 3
    downloads.close()
    assert (len(proxy.asked), secure.accepted) == (1, 1)
    assert b"files.example" in proxy.asked[0], "the proxy resolves the name"


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("b\u00fccher.test", b"xn--bcher-kva.test"),
        ("[2001:db8::7]", b"2001:db8::7"),
        ("[2001:db8::7]:8443", b"2001:db8::7]:8443"),
    ],
)
def test_a_host_that_only_the_proxy_reaches(
    place: str, told: bytes, proxy: Proxy, secure: Host, downloads: Downloads
) -> None:
    assert fetched(downloads, f"https://{place}/a?secret") == BODY
    asked = proxy.asked[0]
    assert told in asked or ADDRESS.packed in asked  # by SOCKS (RFC 1928, 4)
    host = place.encode("idna") if place.startswith("b") else place.encode()
    assert b"\r\nHost: " + host + b"\r\n" in secure.requests[0]


def test_every_connection_is_the_proxys(proxy: Proxy, secure: Host, downloads: Downloads) -> None:
    """Also to a host that could be reached without it, and where the proxy is known already."""
    secure.script = lambda sock: sock.sendall(answer(BODY, "Connection: close"))
    beside = f"https://localhost:{secure.port}/a"
    assert [fetched(downloads, url) for url in (URL, beside, beside)] == [BODY] * 3
    downloads.close()
    assert len(proxy.asked) == 3


def test_an_end_that_tls_did_not_announce_is_none(
    proxy: Proxy, secure: Host, downloads: Downloads
) -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(answer(BODY, length=False))
        cut_off(sock)
        raise OSError

    secure.script = script
    with pytest.raises(NetworkError) as caught:
        fetched(downloads)
    assert caught.value.ragged_end
    downloads.close()


def test_what_nobody_asked_for_ends_a_kept_connection(
    proxy: Proxy, secure: Host, downloads: Downloads
) -> None:
    release = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.sendall(answer(BODY))
        if len(secure.requests) == 1:
            release.wait(30)
            sock.sendall(answer(b"WRONG FILE"))

    secure.script = script
    assert fetched(downloads) == BODY
    before = proxy.taken
    release.set()
    assert proxy.has_returned(before)
    assert fetched(downloads) == BODY
    downloads.close()


@pytest.mark.parametrize("begun", [False, True])
def test_abort_ends_a_wait(begun: bool, proxy: Proxy, secure: Host) -> None:
    waiting, over = threading.Event(), threading.Event()

    def script(sock: socket.socket) -> None:
        if begun:
            sock.sendall(answer(BODY)[:1000])
        waiting.set()
        over.wait(30)

    secure.script = script
    downloads = downloads_of(20.0, jobs=1)

    def rest(found: Answer) -> bytes:
        return b"".join(iter(lambda: found.read(1000), b""))

    with ThreadPoolExecutor(1) as pool:
        if begun:
            found = downloads.get(URL, {})
            assert found.read(10) == BODY[:10]
            ended = pool.submit(rest, found)
        else:
            ended = pool.submit(fetched, downloads)
            assert waiting.wait(30)
        while not ended.done():  # until it has come so far that it waits
            downloads.network.abort()
        error = ended.exception()
    over.set()
    assert isinstance(error, NetworkError)
    assert not error.timed_out
    downloads.close()


def test_a_socks_proxy_that_is_not_there(
    downloads: Downloads, no_proxies: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("socks")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{server.getsockname()[1]}")
    with pytest.raises(NetworkError, match="no connection to the proxy") as caught:
        downloads.get(URL, {})
    assert caught.value.unreachable


def test_a_name_that_a_socks_proxy_is_not_asked_for(
    secure: Host, downloads: Downloads, no_proxies: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With socks5:// it is resolved here, and the proxy is not to blame."""
    pytest.importorskip("socks")
    made = Proxy(secure, socks=True)
    monkeypatch.setenv("ALL_PROXY", made.url.replace("socks5h", "socks5"))
    with pytest.raises(NetworkError, match="name cannot be resolved here"):
        downloads.get(URL.replace("example", "invalid"), {})
    made.close()


@pytest.mark.parametrize("expired", [True, False])
def test_a_certificate_of_the_proxys_that_is_wrong(
    expired: bool,
    secure: Host,
    authority: Authority,
    downloads: Downloads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "localhost" if expired else "proxy.example"
    made = Proxy(secure, context=authority.context(name, expired=expired))
    monkeypatch.setenv("ALL_PROXY", made.url)
    word = "has expired" if expired else "is for another name"
    with pytest.raises(NetworkError, match=f"^the proxy's TLS certificate {word}") as caught:
        downloads.get(URL, {})
    assert caught.value.unreachable
    made.close()


@pytest.mark.parametrize(
    ("refusal", "word", "final"),
    [
        (b"\xff", "user name and password", True),
        (b"\x02", "does not let this host through", False),
        (b"\x05", "the proxy cannot reach the host", False),
    ],
)
def test_what_a_socks_proxy_refuses(
    refusal: bytes,
    word: str,
    final: bool,
    secure: Host,
    downloads: Downloads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("socks")
    made = Proxy(secure, socks=True)
    made.refusal = refusal
    monkeypatch.setenv("ALL_PROXY", made.url)
    with pytest.raises(NetworkError, match=word) as caught:
        downloads.get(URL, {})
    assert (caught.value.final, caught.value.unreachable) == (final, True)
    made.close()
