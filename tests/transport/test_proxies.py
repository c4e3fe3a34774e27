"""Proxies, and what of the environment reaches a link's host: requests' way, and no secrets."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from support.host import Authority, Host, answer
from support.proxy import Proxy

from g2a_archive.transport.downloads import Downloads
from g2a_archive.transport.errors import NetworkError
from g2a_archive.transport.sessions import Caller

BODY = b"what the host has"


@pytest.fixture
def secure(authority: Authority) -> Iterator[Host]:
    """A host that is called `files.example`, and found through the proxy only."""
    context: ssl.SSLContext = authority.context("files.example")
    host = Host(context)
    host.script = lambda sock: sock.sendall(answer(BODY))
    yield host
    host.close()


@pytest.fixture
def proxy(secure: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    made = Proxy(secure)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{made.port}")
    yield made
    made.close()


def fetched(downloads: Downloads, url: str) -> bytes:
    found = downloads.get(url, {})
    try:
        return found.read(1000)
    finally:
        found.close()
        downloads.close()


def test_through_a_proxy(secure: Host, proxy: Proxy, downloads: Downloads) -> None:
    """The signature of a link covers `Host`, which has no port where that is the usual one."""
    assert fetched(downloads, "https://files.example:443/a?secret") == BODY
    assert proxy.asked[0].startswith(b"CONNECT files.example:443 ")
    assert b"\r\nHost: files.example\r\n" in secure.requests[0]
    assert secure.requests[0].startswith(b"GET /a?secret HTTP/1.1\r\n")


def test_a_proxy_that_wants_a_user_is_asked_once_for_a_plain_address(
    downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain HTTP to this machine takes the proxy, too, unless `NO_PROXY` says otherwise."""
    url = "http://127.0.0.1:9/a"
    with closing(Host()) as host:
        host.script = lambda sock: sock.sendall(answer(b"", status="407 Who Are You"))
        monkeypatch.setenv("HTTP_PROXY", host.url)
        with pytest.raises(NetworkError, match="user name and password") as call:
            Caller(5.0).call("GET", url, most=100)
        with pytest.raises(NetworkError, match="user name and password") as download:
            downloads.get(url, {})
        downloads.close()
    assert call.value.final
    assert download.value.final
    assert len(host.requests) == 2


def test_calls_and_downloads_go_the_same_way(proxy: Proxy, downloads: Downloads) -> None:
    url = "https://files.example/call"
    assert Caller(5.0).call("GET", url, most=100, authorization="Bearer x").body == BODY
    assert fetched(downloads, url) == BODY
    assert len(proxy.asked) == 2


@pytest.mark.parametrize(
    ("refusal", "word", "final"),
    [
        (b"407 Proxy Authentication Required", "user name and password", True),
        (b"403 Forbidden", "does not let this host through", False),
        (b"503 Service Unavailable", "the proxy answered 503", False),
    ],
)
def test_what_a_proxy_refuses(
    refusal: bytes, word: str, final: bool, proxy: Proxy, downloads: Downloads
) -> None:
    proxy.refusal = refusal
    with pytest.raises(NetworkError, match=word) as caught:
        downloads.get("https://files.example/a?secret", {})
    assert (caught.value.final, caught.value.unreachable) == (final, True)
    with pytest.raises(NetworkError, match=word):
        Caller(5.0).call("GET", "https://files.example/a?secret", most=100)


def test_a_proxy_that_is_not_there(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    with pytest.raises(NetworkError, match=r"proxy|refused") as caught:
        downloads.get("https://files.example/a", {})
    assert caught.value.unreachable


@pytest.mark.parametrize(
    "text",
    [
        *("localhost:3128", "http://", "me:hush@proxy:3128", "http://me:hush@proxy:port"),
        *("http://me:hush@proxy:99999", "http://me:hush@[::1", "ftp://me:hush@proxy:21"),
    ],
)
def test_a_proxy_whose_address_is_none(
    text: str, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As requests sees it, who wants `http://` where the name has no dot."""
    monkeypatch.setenv("HTTPS_PROXY", text)
    url = "https://files.example/a?secret"
    for get in (lambda: downloads.get(url, {}), lambda: Caller(5.0).call("GET", url, most=1)):
        with pytest.raises(NetworkError, match="begins with http://") as caught:
            get()
        assert caught.value.final
        assert "hush" not in str(caught.value)


def test_a_socks_proxy_needs_pysocks(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object, **__: object) -> None:  # what requests has where there is no PySocks
        raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")

    monkeypatch.setattr("requests.adapters.SOCKSProxyManager", without)
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:1080")
    with pytest.raises(NetworkError, match="PySocks") as caught:
        downloads.get("https://files.example/a", {})
    assert caught.value.final


@pytest.mark.parametrize("no_proxy", ["localhost", "127.0.0.0/8,localhost:{port}", "*"])
def test_no_proxy(
    no_proxy: str,
    authority: Authority,
    proxy: Proxy,
    downloads: Downloads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(authority.context())
    host.script = lambda sock: sock.sendall(answer(BODY))
    monkeypatch.setenv("NO_PROXY", no_proxy.format(port=host.port))
    assert fetched(downloads, host.url) == BODY
    assert proxy.asked == []
    host.close()


def test_no_credentials_cookies_or_netrc_reach_a_links_host(
    plain_host: Host, downloads: Downloads, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login me password hush\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    plain_host.script = lambda sock: sock.sendall(answer(BODY, "Set-Cookie: id=1"))
    for _ in range(2):
        found = downloads.get(plain_host.url, {})
        assert found.read(1000) == BODY
        found.close()
    for head in plain_host.requests:
        assert b"authorization" not in head.lower()
        assert b"cookie" not in head.lower()


SIGNED = [
    "/a%2fb%2Fc/%7E~*%2A+%2B%20;v=1/d.mp4?e=1&sig=a%2fb%2B%3d~%7e&empty=&k=1&k=2&",
    "/a.mp4?",
    "?sig=%3d",
    "//a//b/%2e/c.mp4?url=https://h/?x",
]


@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize("target", SIGNED)
def test_a_link_s_own_bytes_reach_its_host(
    target: str,
    proxied: bool,
    plain_host: Host,
    downloads: Downloads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or else a signature, which may be one of these, is wrong."""
    plain_host.script = lambda sock: sock.sendall(answer(BODY))
    place = f"http://localhost:{plain_host.port}"
    if proxied:  # by the host itself
        monkeypatch.setenv("HTTP_PROXY", place)
    assert fetched(downloads, f"{place}{target}#fragment") == BODY
    path = f"/{target}" if target.startswith("?") else target
    asked = f"{place}{path}" if proxied else path
    assert plain_host.requests[0].startswith(f"GET {asked} HTTP/1.1\r\n".encode())


REDIRECTS = {
    "/a b.mp4?x=1 2": b"GET /a%20b.mp4?x=1%202 ",
    "/d\u00e9j\u00e0.mp4": b"GET /d%C3%A9j%C3%A0.mp4 ",
    "/d%C3%A9.mp4?s=%2F": b"GET /d%C3%A9.mp4?s=%2F ",
    "/a%7Eb.mp4?s=%2f&t=%zz": b"GET /a%7Eb.mp4?s=%2f&t=%25zz ",
    "//localhost:{port}/c": b"GET /c ",
    "d": b"GET /d ",
}


@pytest.mark.parametrize(("location", "line"), REDIRECTS.items(), ids=list(REDIRECTS))
def test_where_a_redirect_leads(
    location: str, line: bytes, plain_host: Host, downloads: Downloads
) -> None:
    first = answer(b"", f"Location: {location.format(port=plain_host.port)}", status="302 Found")

    def script(sock: socket.socket) -> None:
        sock.sendall(first if len(plain_host.requests) == 1 else answer(BODY))

    plain_host.script = script
    assert fetched(downloads, plain_host.url) == BODY
    assert plain_host.requests[1].startswith(line)


@pytest.mark.parametrize(
    "location",
    [
        "http://example.com/",
        "ftp://localhost/",
        "https://",
        "https://[::1/",
        "https://user:hush@localhost/",
        "https://local host/",
        "http://localhost:{port}/a",
    ],
)
def test_a_redirect_that_leads_nowhere(
    location: str, plain_host: Host, downloads: Downloads
) -> None:
    text = location.format(port=plain_host.port)
    sent = answer(b"", f"Location: {text}", status="302 Found")
    plain_host.script = lambda sock: sock.sendall(sent)
    with pytest.raises(NetworkError, match="redirect") as caught:
        downloads.get(plain_host.url, {})
    assert "hush" not in str(caught.value)
    assert "example.com" not in str(caught.value)
